"""Makes the figures and the numbers of docs/how-it-works.md from the lessons of `unblot explain`.

    python docs/figures.py          # about three minutes on one core; writes docs/how/

Everything but the times follows from the seed.
"""

import base64
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import unblot
from unblot.data.dataset import Dataset
from unblot.lessons.page import LESSONS
from unblot.runs.run import Run
from unblot.runs.run_data import open_dataset

HERE = Path(__file__).parent / "how"
SHOWN = "noising", "sums", "little_first", "one_formula", "step_back", "training", "outline_first", "cost"
STEPS = 1200


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run = unblot.train("digits", out=Path(scratch) / "run", steps=STEPS, quiet=True)
        dataset = open_dataset(run.config.source, quiet=True)
        write(run, dataset)


def write(run: Run, dataset: Dataset) -> None:
    """The pictures of the lessons that the page shows, and numbers.json."""
    HERE.mkdir(exist_ok=True)
    page = (HERE.parent / "how-it-works.md").read_text(encoding="utf-8")
    found = {name: LESSONS[name](run, dataset, 0) for name in SHOWN}
    for name, values in found.items():
        for what, value in values.items():
            file = HERE / f"{name}-{what}".replace("_", "-")
            if f"({HERE.name}/{file.name}." not in page:
                continue
            if str(value).startswith("<svg"):
                file.with_suffix(".svg").write_text(standing_alone(str(value)))
            elif hasattr(value, "src"):
                file.with_suffix(".png").write_bytes(base64.b64decode(value.src.partition(",")[2]))
    (HERE / "numbers.json").write_text(json.dumps(numbers(found), indent=2) + "\n")


def standing_alone(svg: str) -> str:
    """A chart of a page as an SVG file of its own, on white; each style that many points have is written once."""
    head, body = svg.split(">", 1)
    body = re.sub(r"(?<=[ \"-])(\d+\.\d\d?)\d*(?=[ \"\n])", r"\1", body)  # of places, not of the text
    often = {style for style in set(re.findall(r' style="[^"]*"', body)) if body.count(style) > 20}
    names = {style: f"s{i}" for i, style in enumerate(sorted(often))}
    rules = "".join(f".{name}{{{style[8:-1]}}}" for style, name in names.items())
    for style, name in names.items():
        body = body.replace(style, f' class="{name}"')
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{head} {spaces}><style>{rules}</style><rect width="100%" height="100%" fill="white"/>{body}\n'


def numbers(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The numbers that the page tells; times in seconds."""
    cost, book, sums = found["cost"]["found"], found["training"]["found"], found["sums"]["found"]
    return {
        "moments": [[m.step, abs(m.correlation), m.distance] for m in found["noising"]["moments"]],
        "first_normal": found["noising"]["first_normal"],
        "coin_flips": list(sums.sums["coin flips"]),
        "after_all_steps": dict(sums.after_all_steps),
        "half_gone": {name: steps.half for name, steps in found["little_first"]["found"].items()},
        "two_ways": [row._asdict() for row in found["one_formula"]["rows"]],
        "by_mean_x0": found["step_back"]["found"].by_mean_x0,
        "losses": [book.losses[0], found["training"]["last"]],
        "book_seconds": [book.training_seconds, book.sampling_seconds, len(book.drawn)],
        "halves": found["outline_first"]["halves"],
        "cost": [row._asdict() for row in cost.rows],
        "floor": cost.floor,
        "forward_seconds": cost.forward_seconds,
    }


if __name__ == "__main__":
    main()
