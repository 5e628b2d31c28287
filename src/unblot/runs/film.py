"""A sampling trajectory to look at: x_t and x0_hat after every step, as a strip and as a moving picture."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unblot.data.output import sheet
from unblot.data.values import ValueMap
from unblot.runs.run import Run
from unblot.sampling.loop import Progress
from unblot.system.folders import begin_folder

FILES = "strip.png", "film.gif"
FRAME_MS = 120
LAST_FRAME_MS = 2000
STRIP_FRAMES, FILM_FRAMES = 10, 60


class Frame(NamedTuple):
    """One point of the trajectories, (N, C, H, W) each in the network's range; x is x_t/sqrt(alpha² + sigma²)."""

    x: np.ndarray
    x0: np.ndarray


def shoot(run: Run, n: int, **choices: Any) -> list[Frame]:
    """The frames of sampling n pictures, one for each step; choices: see `Run.sample`."""
    frames: list[Frame] = []

    def on_step(progress: Progress) -> None:
        level = progress.level
        scale = float((level.alpha**2 + level.sigma**2).sqrt())
        x, x0 = progress.x.cpu().numpy() / scale, progress.x0.cpu().numpy()
        frames.append(Frame(x, x0))

    run.sample(n, batch_size=n, on_step=on_step, **choices)
    return frames


def save_film(run: Run, frames: Sequence[Frame], folder: Path, overwrite: bool = False) -> list[Path]:
    """Writes `strip.png` and `film.gif`, x_t above or beside x0_hat; returns their paths."""
    begin_folder(folder, FILES, {"run": run.path.resolve().name}, overwrite)
    columns = [
        stack([picture(run, part) for part in frames[i]], vertical=True) for i in spread_frames(frames, STRIP_FRAMES)
    ]
    strip, film = (folder / name for name in FILES)
    stack(columns, vertical=False).save(strip)
    # A film of a thousand steps would take two minutes.
    moments = [
        stack([picture(run, part) for part in frames[i]], vertical=False) for i in spread_frames(frames, FILM_FRAMES)
    ]
    durations = [FRAME_MS] * (len(moments) - 1) + [LAST_FRAME_MS]
    moments[0].save(film, save_all=True, append_images=moments[1:], duration=durations, loop=0)
    return [strip, film]


def spread_frames(frames: Sequence[Frame], count: int) -> list[int]:
    """At most `count` frame numbers, the first and the last included, with about equal changes of x_t between them.

    Equally spaced steps would show mostly noise: many spacings have most of their levels where little is visible.
    """
    changes = [np.abs(b.x - a.x).mean() for a, b in pairwise(frames)]
    length = np.concatenate([[0.0], np.cumsum(changes)])
    return np.unique(np.searchsorted(length, np.linspace(0, length[-1], count)).clip(0, len(frames) - 1)).tolist()


def picture(run: Run, x: np.ndarray) -> Image.Image:
    """Pictures (N, C, H, W) in the network's range as one image."""
    values = ValueMap.from_dict(run.config.data.values)
    return sheet(values.decode(x), values, columns=max(1, round(len(x) ** 0.5)))


def stack(images: Sequence[Image.Image], vertical: bool, gap: int = 4) -> Image.Image:
    """Images of one size below or beside each other, on white."""
    width, height = images[0].size
    n = len(images)
    size = (width, n * (height + gap) - gap) if vertical else (n * (width + gap) - gap, height)
    whole = Image.new("RGB", size, "white")
    for i, image in enumerate(images):
        whole.paste(image, (0, i * (height + gap)) if vertical else (i * (width + gap), 0))
    return whole
