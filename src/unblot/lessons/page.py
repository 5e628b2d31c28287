"""The lessons of the founding text as one page, in English and Chinese: every number on it was measured for it."""

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape
from torch import Tensor

from unblot import api
from unblot.config.commands import ExplainConfig
from unblot.data.dataset import Dataset
from unblot.data.output import grid
from unblot.data.subset import spread
from unblot.errors import UnblotError
from unblot.lessons import learning, noise, reverse, textbook
from unblot.reports.render import embedded, render
from unblot.runs.film import frame_changes, shoot
from unblot.runs.folder import is_run
from unblot.runs.run import Run
from unblot.runs.run_data import data_of_run
from unblot.system.files import write_text
from unblot.system.folders import must_be_page, user_path
from unblot.system.plots import COLOURS, chart, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES, SHOWN = 512, 4  # that are noised; of which are shown
OUTLINE_STEPS = 12
BUDGET = "20s"  # of a run that is trained for the lessons
LINES = COLOURS["samples"], COLOURS["training"], COLOURS["real"]


def explain(
    target: str | Path = "digits",
    out: str | Path = "lessons.html",
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """The lessons as one HTML page at `out`, shown on a run or on data; returns its path.

    target: a run folder, or data as in `train`, on which a small model is trained for BUDGET. Raises UnblotError for
    what is neither, for points in the plane, and for a distilled run.
    """
    path, seed = user_path(out), ExplainConfig(seed=seed).seed
    must_be_page(path)
    with tempfile.TemporaryDirectory() as scratch:
        run = api.load(target) if is_run(user_path(target)) else None
        if run is not None:
            run.need_denoiser("explaining")
        else:
            report(f"training on {target} for {BUDGET}")
            run = api.train(target, out=Path(scratch) / "run", quiet=True, budget=BUDGET, seed=seed)
        dataset, _ = data_of_run(run.config, run.path, None, quiet=True, movable=False)
        if run.config.data.kind == "points":
            raise UnblotError("the lessons need pictures, and this is a set of points; try digits")
        values = {}
        for name, lesson in LESSONS.items():
            report(f"lesson: {name.replace('_', ' ')}")
            values[name] = lesson(run, dataset, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render("lessons.html", run=run, data=run.config.data, **values))
    return path


def _noising(run: Run, dataset: Dataset, seed: int) -> dict[str, Any]:
    x0 = _pictures(dataset)
    moments = noise.noising(x0, seed)
    rows = np.stack([_stored(dataset, m.x[:SHOWN]) for m in moments], 1)  # a row is one picture on its way
    film = grid(rows.reshape(-1, *rows.shape[2:]), dataset.values, columns=len(moments))

    def draw(axes: "Axes") -> None:
        place = np.linspace(-3.5, 3.5, 200)
        for colour, m in zip(LINES, (moments[0], moments[3], moments[-1])):
            counts, edges = np.histogram(m.x.flatten().numpy(), 60, (-3.5, 3.5), density=True)
            axes.stairs(np.minimum(counts, 2), edges, color=colour, linewidth=2, label=f"t = {m.step}")
        normal = np.exp(-(place**2) / 2) / np.sqrt(2 * np.pi)
        axes.plot(place, normal, color=COLOURS["ink"], linewidth=1.2, linestyle="--", label="N(0, 1)")
        axes.set(xlabel="value", ylim=(0, 2))
        axes.set_yticks([])
        axes.legend()

    return {
        "moments": moments,
        "first_normal": noise.first_normal(x0, seed),
        "film": embedded(film),
        "chart": Markup(chart(440, 260, "values of pixels after some steps", draw)),
    }


def _sums(run: Run, dataset: Dataset, seed: int) -> dict[str, Any]:
    found = noise.many_small_noises(seed)

    def draw(axes: "Axes") -> None:
        for colour, (kind, distances) in zip(LINES, found.sums.items()):
            axes.plot(noise.COUNTS, distances, "o-", color=colour, linewidth=2, label=kind)
        axes.axhline(found.floor, color=COLOURS["ink"], linewidth=1.2, linestyle="--", label="normal numbers")
        log_axis(axes, "x", noise.COUNTS[0] / 1.1, noise.COUNTS[-1] * 1.1)
        log_axis(axes, "y", found.floor / 2, 0.6)
        axes.set_xticks(noise.COUNTS)
        axes.set(xlabel="noises added up", ylabel="distance to N(0, 1)")
        axes.legend()

    return {"found": found, "chart": Markup(chart(440, 280, "distance to normal by the number of noises", draw))}


def _little_first(run: Run, dataset: Dataset, seed: int) -> dict[str, Any]:
    found = {name: noise.steps_of(name) for name in noise.SCHEDULES}

    def draw(what: str, label: str) -> Callable[["Axes"], None]:
        def inner(axes: "Axes") -> None:
            for colour, (name, steps) in zip(LINES, found.items()):
                axes.plot(getattr(steps, what), color=colour, linewidth=2, label=name)
            axes.set(xlabel="step t", ylabel=label, ylim=(0, 0.25 if what == "added" else 1.05))
            axes.legend()

        return inner

    return {
        "found": found,
        "added": Markup(chart(440, 260, "noise of each step", draw("added", "noise of a step"))),
        "left": Markup(chart(440, 260, "share of the picture left", draw("left", "share of x0 in x_t"))),
    }


def _one_formula(run: Run, dataset: Dataset, seed: int) -> dict[str, Any]:
    return {"rows": noise.two_ways(_pictures(dataset)[0], seed=seed), "copies": noise.COPIES}


def _step_back(run: Run, dataset: Dataset, seed: int) -> dict[str, Any]:
    found = reverse.step_back(seed)

    def draw(axes: "Axes") -> None:
        axes.plot(*found.unknown.T, ".", color=COLOURS["samples"], markersize=3, alpha=0.5, label="q(x_s | x_t)")
        axes.plot(*found.known.T, ".", color=COLOURS["training"], markersize=3, alpha=0.5, label="q(x_s | x_t, x0)")
        size = 8 + 300 * found.weights / found.weights.max()
        axes.scatter(
            found.data[:, 0], found.data[:, 1], s=size, color=COLOURS["real"], alpha=0.6, linewidths=0, label="data"
        )
        axes.plot(*found.x_t, "*", color=COLOURS["ink"], markersize=14, label="x_t")
        axes.set_aspect("equal", "datalim")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=1.5)

    return {"found": found, "far": reverse.FAR, "chart": Markup(chart(520, 340, "a step back, on points", draw))}


def _training(run: Run, dataset: Dataset, seed: int) -> dict[str, Any]:
    found = learning.by_the_book(_pictures(dataset), seed)
    smooth = np.convolve(found.losses, np.ones(25) / 25, "valid")

    def draw(axes: "Axes") -> None:
        axes.plot(smooth, color=COLOURS["samples"], linewidth=2)
        log_axis(axes, "y", smooth.min() / 1.2, 1.2)
        axes.set(xlabel="training steps", ylabel="loss")

    return {
        "found": found,
        "last": float(smooth[-1]),
        "train": Markup(escape(inspect.getsource(textbook.train))),  # its line ends stay line ends
        "sample": Markup(escape(inspect.getsource(textbook.sample))),
        "chart": Markup(chart(440, 240, "the loss in training", draw)),
        "real": embedded(grid(_stored(dataset, found.real), dataset.values, columns=8)),
        "drawn": embedded(grid(_stored(dataset, found.drawn), dataset.values, columns=8)),
    }


def _outline_first(run: Run, dataset: Dataset, seed: int) -> dict[str, Any]:
    frames, _ = shoot(run, SHOWN, steps=OUTLINE_STEPS, seed=seed, solver=run.config.train.solver)
    found = frame_changes(frames)
    rows = np.stack([dataset.values.decode(frame.x0) for frame in frames], 1)
    film = grid(rows.reshape(-1, *rows.shape[2:]), dataset.values, columns=len(frames))

    def draw(axes: "Axes") -> None:
        places = range(2, len(frames) + 1)
        for colour, name in zip(LINES, ("coarse", "fine")):
            axes.plot(places, 100 * getattr(found, name).share.cumsum(0), color=colour, linewidth=2.5, label=name)
        axes.set(xlabel="step", ylabel="% of the change so far")
        axes.legend()

    return {
        "steps": len(frames),
        "halves": (found.coarse.half(), found.fine.half()),
        "film": embedded(film),
        "chart": Markup(chart(440, 260, "change of the estimate, coarse and fine", draw)),
    }


def _cost(run: Run, dataset: Dataset, seed: int) -> dict[str, Any]:
    found = learning.costs(run, dataset, seed)
    drawn = [run.sample(8, steps=steps, seed=seed).array for steps in learning.STEPS]

    def draw(axes: "Axes") -> None:
        axes.plot(*zip(*((c.steps, c.distance) for c in found.rows)), "o-", color=COLOURS["samples"], linewidth=2)
        distances = [c.distance for c in found.rows]
        if found.floor is not None:
            axes.axhline(found.floor, color=COLOURS["real"], linewidth=1.5, linestyle="--", label="real pictures")
            distances.append(found.floor)
            axes.legend()
        if min(distances) > 0:  # as the kernel distance of few pictures need not be
            log_axis(axes, "y", min(distances) / 1.3, 1.3 * max(distances))
        log_axis(axes, "x", 0.9, learning.STEPS[-1] * 1.1)
        axes.set_xticks(learning.STEPS)
        axes.set(xlabel="steps from noise to picture", ylabel=found.distance)

    sheets = [(steps, embedded(grid(array, dataset.values, columns=8))) for steps, array in zip(learning.STEPS, drawn)]
    return {"found": found, "sheets": sheets, "chart": Markup(chart(440, 280, "quality by the number of steps", draw))}


def _variety(run: Run, dataset: Dataset, seed: int) -> dict[str, Any]:
    found = learning.variety(seed)

    def plot(one: learning.Variety) -> Markup:
        def draw(axes: "Axes") -> None:
            axes.plot(*one.samples.T, ".", color=COLOURS["samples"], markersize=2.5, alpha=0.6)
            axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
            axes.set_aspect("equal")

        return Markup(chart(260, 260, f"samples of the {one.name}", draw))

    return {"rows": [(one, plot(one)) for one in found], "seconds": learning.SECONDS, "modes": learning.CENTRES}


LESSONS: dict[str, Callable[[Run, Dataset, int], dict[str, Any]]] = {
    "noising": _noising,
    "sums": _sums,
    "little_first": _little_first,
    "one_formula": _one_formula,
    "step_back": _step_back,
    "training": _training,
    "outline_first": _outline_first,
    "cost": _cost,
    "variety": _variety,
}


def _pictures(dataset: Dataset) -> Tensor:
    """Training pictures (N, C, H, W) in the network's range."""
    return dataset.batch(spread(dataset.train, PICTURES))[0]


def _stored(dataset: Dataset, x: Tensor) -> np.ndarray:
    """Pictures as stored values, for a grid."""
    return dataset.values.decode(x.numpy())
