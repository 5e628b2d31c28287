"""What the pages show of runs, read from their folders: nothing is kept, a long run costs no more than a short one."""

import contextlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from unblot.config.schema import RunConfig
from unblot.data.output import PROVENANCE
from unblot.errors import UnblotError
from unblot.runs.folder import CONFIG, METRICS, MODEL, SAMPLES, is_run
from unblot.runs.metrics import HELD_OUT, STEP, Line, mean_loss, of_kind, parse_metrics
from unblot.system.folders import MANIFEST, in_use
from unblot.training.adversarial import fine_tunes_decoder
from unblot.training.checkpoint import newest_state

WHOLE_BYTES = 16 * 2**20  # of a metrics file that is read whole
LINES = 2000  # of it that a curve is made of, besides those of held-out losses
HELD_OUT_KEY = b'"held_out"'
PART_BYTES = 16 * 1024  # of a longer one that is read at one place
PARTS = 64  # places of it
PAGE = 24  # runs on a page
PREVIEW = "step_*.png"
PICTURES = (".png", ".gif")

Curve = list[tuple[int, float]]  # (step, loss)


@dataclass(frozen=True)
class Card:
    """A run in the list: its name, the data, where it stands, and its newest preview (a path below the run)."""

    name: str
    data: str
    state: str
    step: int
    steps: int
    loss: float | None
    preview: str | None
    captions: bool
    classes: int
    changed: float


def run_folder(root: Path, name: str) -> Path:
    """The folder of a run. Raises UnblotError where there is none of this name right below the root."""
    folder = root / name
    if name != os.path.basename(name) or name in ("", ".", "..") or not is_run(folder):
        raise UnblotError(f"there is no run {name!r}")
    return folder


def names(root: Path) -> list[str]:
    """The names of the runs, the one that was written last first."""
    found = []
    with os.scandir(root) as entries:
        for entry in entries:
            config = Path(entry.path) / CONFIG
            if entry.is_dir() and not entry.name.startswith(".") and config.is_file():
                metrics = Path(entry.path) / METRICS
                found.append(((metrics if metrics.exists() else config).stat().st_mtime, entry.name))
    return [name for _, name in sorted(found, reverse=True)]


def page(root: Path, number: int = 0) -> tuple[int, int, list[Card]]:
    """How many runs there are, the number of the page that is nearest to `number`, and its cards that can be read."""
    known = names(root)
    number = min(max(number, 0), max(0, len(known) - 1) // PAGE)
    found = []
    for name in known[number * PAGE : (number + 1) * PAGE]:
        with contextlib.suppress(UnblotError):
            found.append(card(root / name))
    return len(known), number, found


def card(folder: Path) -> Card:
    """A run in the list. Raises UnblotError where its configuration cannot be read."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        data, train = config["data"], config["train"]
        steps, kind, classes = int(train["steps"]), str(data["name"]), len(data["classes"])
        classes = 0 if config["source"]["unlabelled"] else classes  # those of the run that it was made from
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UnblotError(f"the configuration of run {folder.name!r} cannot be read ({e})") from None
    lines = _part(folder / METRICS, -1)
    last = lines[-1]["step"] if lines else 0
    losses = of_kind(lines, STEP)
    shown = previews(folder)
    return Card(
        folder.name,
        kind,
        state(folder, last, config),
        last,
        steps,
        losses[-1]["loss"] if losses else None,
        shown[-1] if shown else None,
        data.get("text") is not None,
        classes,
        (folder / CONFIG).stat().st_mtime,
    )


def state(folder: Path, step: int, config: Mapping[str, Any]) -> str:
    """Whether a run is training, finished, stopped before its end, or has no model yet. config: as it is stored."""
    if in_use(folder):
        return "training"
    if not (folder / MODEL).exists():
        return "no model yet"
    return "stopped" if 0 < step < int(config["train"]["steps"]) or _lacks_fine_tuning(folder, config) else "finished"


def _lacks_fine_tuning(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the newest checkpoint of a run in latents is from before its decoder was fine-tuned, as it is to be."""
    if config.get("latent") is None:
        return False
    try:
        return newest_state(folder).get("fine_tuned") is False and fine_tunes_decoder(RunConfig.from_dict(config))
    except UnblotError:  # a configuration of another version
        return False


def previews(folder: Path) -> list[str]:
    """The previews of a run, the oldest first, as paths below its folder."""
    return [f"{SAMPLES}/{path.name}" for path in sorted((folder / SAMPLES).glob(PREVIEW))]


def galleries(folder: Path) -> list[dict[str, Any]]:
    """What was drawn, edited and filmed with a run, the newest first: each folder's manifest, its name and pictures."""
    found = []
    for path in sorted((folder / SAMPLES).glob(f"*/{MANIFEST}"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            files = [name for name in about.pop("files") if isinstance(name, str)]
        except (OSError, ValueError, KeyError, AttributeError):
            continue
        place = f"{SAMPLES}/{path.parent.name}"
        pictures = [f"{place}/{name}" for name in files if name.endswith(PICTURES)]
        found.append({"name": path.parent.name, "about": about, "pictures": pictures})
    return found


def file_below(folder: Path, path: str) -> Path:
    """The file at a path below a folder. Raises UnblotError where there is none."""
    real = resolved(folder / path)
    if not real.is_relative_to(folder.resolve()) or not os.path.isfile(real):
        raise UnblotError(f"there is no file {path!r}")
    return real


def resolved(path: Path) -> Path:
    """A path with its links followed. Raises UnblotError for one that no file can have, such as with a zero byte."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        raise UnblotError(f"{str(path)!r}: no such file or folder") from None


def picture_facts(path: Path) -> tuple[int, dict[str, Any]]:
    """How many frames a picture file has, and what made it: the provenance that is written inside."""
    try:
        with Image.open(path) as picture:
            about = json.loads(getattr(picture, "text", {}).get(PROVENANCE, "{}"))
            return getattr(picture, "n_frames", 1), about if isinstance(about, dict) else {}
    except (OSError, ValueError):
        return 1, {}


def frame(path: Path, number: int) -> bytes:
    """Frame `number` of an animation as a PNG file. Raises UnblotError where there is none."""
    found = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.seek(number)
            picture.convert("RGB").save(found, "PNG")
    except (OSError, EOFError):
        raise UnblotError(f"there is no frame {number} of {path.name!r}") from None
    return found.getvalue()


def reports(folder: Path) -> list[str]:
    """The pages of a run's evaluation and tuning, as paths below its folder."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*.html"))]


def curves(folder: Path, points: int = 300) -> dict[str, dict[str, Curve]]:
    """Loss by step: "loss" of the training and on held-out pictures, "levels" on held-out pictures by their noise.

    Levels are named by sigma/alpha, the noise as a multiple of the picture. At most about `points` of each curve.
    """
    lines = _lines_over_all(folder)
    training = [(line["step"], line["loss"]) for line in of_kind(lines, STEP) if line["loss"] is not None]
    measured = of_kind(lines, HELD_OUT)
    held_out = [(line["step"], mean_loss(line, "held_out")) for line in measured]
    levels: dict[str, list[tuple[int, float | None]]] = {}
    for line in measured:
        for log_snr, loss in zip(line["log_snr"], line["held_out"] or []):
            levels.setdefault(f"{math.exp(-log_snr / 2):.2g}", []).append((line["step"], loss))
    return {
        "loss": {"training": thinned(training, points), "held_out": thinned(held_out, points)},
        "levels": {name: thinned(rows, points) for name, rows in levels.items()},
    }


def _lines_over_all(folder: Path) -> list[Line]:
    """Lines of a metrics file by step, from all of it: those of held-out losses, and about LINES others.

    Of a file beyond WHOLE_BYTES those in PARTS places.
    """
    path = folder / METRICS
    size = path.stat().st_size if path.exists() else 0
    if size <= WHOLE_BYTES:
        raw = path.read_bytes().split(b"\n") if size else []
        every = max(1, len(raw) // LINES)
        kept = [line for i, line in enumerate(raw[:-1]) if (len(raw) - 2 - i) % every == 0 or HELD_OUT_KEY in line]
        lines = parse_metrics(b"\n".join([*kept, b""]))[0]
    else:
        lines = [line for i in range(PARTS) for line in _part(path, i * size // PARTS)] + _part(path, -1)
    seen = {(line["step"], HELD_OUT in line): line for line in lines}
    return sorted(seen.values(), key=lambda line: line["step"])


def thinned(known: Sequence[tuple[int, float | None]], most: int) -> Curve:
    """At most `most` of the rows with a loss, each the mean of its neighbours; the last step stays."""
    rows = [(step, loss) for step, loss in known if loss is not None]
    if len(rows) <= most:
        return rows
    groups = [rows[i * len(rows) // most : (i + 1) * len(rows) // most] for i in range(most)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]


def _part(path: Path, start: int) -> list[Line]:
    """The whole lines in PART_BYTES of a metrics file from `start` on, or at its end for -1."""
    if not path.exists():
        return []
    size = path.stat().st_size
    start = max(0, size - PART_BYTES) if start < 0 else start
    with path.open("rb") as file:
        file.seek(start)
        raw = file.read(PART_BYTES)
    if start:
        raw = raw[raw.find(b"\n") + 1 :]
    return parse_metrics(raw)[0]
