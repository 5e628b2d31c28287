"""The pictures of `unblot film`: strip, animation and chart of what changes at each step; numbers of steps compared."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unblot.data.output import sheet
from unblot.data.values import ValueMap
from unblot.errors import UnblotError, arg
from unblot.reports.charts import changes_chart
from unblot.runs.film import Frame, frame_changes, frame_of, spread_frames
from unblot.runs.run import Run, Samples
from unblot.sampling.changes import Changes
from unblot.sampling.loop import Progress
from unblot.system.files import write_json, write_whole
from unblot.system.folders import begin_folder

STRIP, FILM, CHANGES = FILES = "strip.png", "film.gif", "changes.json"
STEPS_SHEET, STEPS = STEPS_FILES = "steps.png", "steps.json"
WATCHED, WATCH_SECONDS = 16, 0.3
FRAME_MS = 120
LAST_FRAME_MS = 2000
STRIP_FRAMES, FILM_FRAMES = 10, 60
LEAST_CHART_WIDTH = 480
GAP, MARGIN, TEXT = 4, 96, 14  # pixels: between pictures, for the names of rows, height of letters
INK = "#1d1f23"


def save_film(run: Run, frames: Sequence[Frame], samples: Samples, folder: Path, overwrite: bool = False) -> list[Path]:
    """Writes `strip.png`, x_t above x0_hat with a chart of the changes below, `film.gif`, x_t beside x0_hat, and the
    changes as `changes.json`; returns their paths."""
    begin_folder(folder, FILES, about(samples), overwrite)
    found = frame_changes(frames)
    strip(run, frames, found).save(folder / STRIP)
    # A film of a thousand steps would take two minutes.
    moments = [
        stack([picture(run, part) for part in frames[i][:2]], vertical=False)
        for i in spread_frames(frames, FILM_FRAMES)
    ]
    durations = [FRAME_MS] * (len(moments) - 1) + [LAST_FRAME_MS]
    moments[0].save(folder / FILM, save_all=True, append_images=moments[1:], duration=durations, loop=0)
    write_json(folder / CHANGES, changes_as_json(frames, found))
    return [folder / name for name in FILES]


def about(samples: Samples) -> dict[str, Any]:
    """What made the samples of a film, with the label and the prompt of each: they have no files of their own."""
    labels = {} if samples.labels is None else {"labels": [samples.data.classes[i] for i in samples.labels]}
    return {**samples.about_all(), **labels}


def watcher(run: Run, path: Path) -> Callable[[Progress], None]:
    """What writes the pictures of a sampling while they come out of noise, x_t beside x0_hat, as a PNG file: at most
    every WATCH_SECONDS, and after the last step. Called after each step. Raises UnblotError for a file that is there.
    """
    if path.exists():
        raise UnblotError(f"{arg('watch', path)} is there already; name a new file")
    last = -math.inf

    def on_step(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last < WATCH_SECONDS and progress.step < progress.steps:
            return
        seen = frame_of(run, progress, WATCHED)
        image = stack([picture(run, part) for part in seen[:2]], vertical=False)
        write_whole(path, lambda part: image.save(part, "PNG"))
        last = time.monotonic()

    return on_step


def strip(run: Run, frames: Sequence[Frame], found: Changes) -> Image.Image:
    """Some of the frames beside each other, under the number of their step, and below them the chart of changes."""
    side = [picture(run, part).height for part in frames[0][:2]]
    names = [written(name, MARGIN // 2, height) for name, height in zip(("x_t", "x0_hat"), side, strict=True)]
    columns = [stack([written("", MARGIN // 2), *names], vertical=True)]
    for i in spread_frames(frames, STRIP_FRAMES):
        pictures = stack([picture(run, part) for part in frames[i][:2]], vertical=True)
        columns.append(stack([written(f"step {i + 1}", pictures.width), pictures], vertical=True))
    shown = stack(columns, vertical=False)
    if len(frames) < 2:
        return shown
    return stack([shown, changes_chart(max(shown.width, LEAST_CHART_WIDTH), found)], vertical=True)


def changes_as_json(frames: Sequence[Frame], found: Changes) -> dict[str, Any]:
    """The changes with what the numbers mean. The first step changes nothing: it makes the first estimate."""
    height, width = frames[0].x0.shape[-2:]
    bands = {"coarse": found.coarse, "fine": found.fine}
    rows = [{"step": i + 1, "noise_ratio": frame.noise_ratio} for i, frame in enumerate(frames)]
    for name, band in bands.items():
        for row, share, rms in zip(rows[1:], band.share.tolist(), band.rms.tolist(), strict=True):
            row |= {f"{name}_share": share, f"{name}_rms": rms}
    return {
        "pictures": len(frames[0].x0),
        "border_cycles_per_picture": found.border_cycles,
        "border_cycles_per_pixel": found.border_cycles / min(height, width),
        **{f"{name}_half_over_after_step": band.half() for name, band in bands.items()},
        "steps": rows,
    }


def changes_sentence(found: Changes) -> str:
    """When half of the coarse and of the fine change of x0_hat is over, in words."""
    coarse, fine, steps = found.coarse.half(), found.fine.half(), len(found.coarse.share) + 1
    if coarse is None and fine is None:
        return "x0_hat does not change: take 2 steps or more to see it change"
    if coarse is None or fine is None:
        return f"half of the change of x0_hat is over after step {coarse or fine} of {steps}"
    return (
        f"half of the coarse change of x0_hat is over after step {coarse} of {steps}, half of the fine after step "
        f"{fine} (fine: from {found.border_cycles:g} cycles a picture on)"
    )


def save_steps(run: Run, drawn: Sequence[Samples], counts: Sequence[int], folder: Path, overwrite: bool) -> Path:
    """Writes `steps.png`, a row for each number of steps and a column for each picture, and `steps.json`, how far each
    row is from the last; returns the path of the sheet."""
    begin_folder(folder, STEPS_FILES, {**about(drawn[-1]), "steps": [*counts]}, overwrite)
    values = ValueMap.from_dict(run.config.data.values)
    rows = []
    for samples, steps in zip(drawn, counts, strict=True):
        pictures = samples.grid(columns=len(samples.array))
        rows.append(stack([written(words(steps), MARGIN, pictures.height), pictures], vertical=False))
    stack(rows, vertical=True).save(folder / STEPS_SHEET)
    far = differences(drawn, values)
    write_json(
        folder / STEPS, {"rows": [{"steps": n, "rms_from_last": rms} for n, rms in zip(counts, far, strict=True)]}
    )
    return folder / STEPS_SHEET


def differences(drawn: Sequence[Samples], values: ValueMap) -> list[float]:
    """Root mean square difference of each row's pictures from those of the last, in the network's range."""
    encoded = [values.encode(samples.array) for samples in drawn]
    return [float(np.sqrt(np.square(row - encoded[-1], dtype=np.float64).mean())) for row in encoded]


def steps_sentence(drawn: Sequence[Samples], counts: Sequence[int], run: Run) -> str:
    """How far the pictures of fewer steps are from those of the most, in words."""
    far = differences(drawn, ValueMap.from_dict(run.config.data.values))
    parts = [f"{words(n)} {rms:.2g}" for n, rms in zip(counts[:-1], far)]
    if not parts:
        return f"one number of steps, {counts[0]}: give several, 4,8,16,50, to compare them"
    return f"root mean square difference from {words(counts[-1])}: {', '.join(parts)} (data has a range or spread of 2)"


def words(steps: int) -> str:
    """A number of steps in words."""
    return "1 step" if steps == 1 else f"{steps} steps"


def picture(run: Run, x: np.ndarray) -> Image.Image:
    """Pictures (N, C, H, W) in the network's range as one image."""
    values = ValueMap.from_dict(run.config.data.values)
    return sheet(values.decode(x), values, columns=max(1, round(len(x) ** 0.5)))


def written(text: str, width: int, height: int = TEXT + GAP) -> Image.Image:
    """A line of text in the middle of a white field."""
    field = Image.new("RGB", (width, height), "white")
    font = ImageFont.load_default(TEXT)
    ImageDraw.Draw(field).text((width / 2, height / 2), text, INK, font, anchor="mm")
    return field


def stack(images: Sequence[Image.Image], vertical: bool) -> Image.Image:
    """Images below or beside each other, on white, from the left or from the top."""
    widths, heights = zip(*(image.size for image in images))
    n = GAP * (len(images) - 1)
    size = (max(widths), sum(heights) + n) if vertical else (sum(widths) + n, max(heights))
    whole, at = Image.new("RGB", size, "white"), 0
    for image in images:
        whole.paste(image, (0, at) if vertical else (at, 0))
        at += (image.height if vertical else image.width) + GAP
    return whole
