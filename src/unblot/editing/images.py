"""Working on a person's own pictures with a trained run: fill, extend, enlarge, colour, rework, vary, blend, invert.

Pictures are stored values (P, C, H, W) of the run's form (`data/given.py` brings files there). Result i of a call, draw
i % n of picture i // n, follows from (seed, i). What is known of a picture is in its results to the last bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from unblot._version import __version__
from unblot.config.schema import EditConfig
from unblot.data.output import as_display
from unblot.data.values import ValueMap
from unblot.editing import methods as editing
from unblot.editing.inputs import gray_weights, size_name
from unblot.editing.operators import Operator, averaging, graying
from unblot.editing.result import EditResult, tinted
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, broadcast, norm
from unblot.process.randomness import picture_generators
from unblot.runs.run import Run, choose_labels
from unblot.runs.tuning_store import choose_sampler
from unblot.sampling.batched import sampling_levels
from unblot.sampling.guidance import classifier_free
from unblot.sampling.loop import Denoise, Noise, Solver, pictures_noise, sample
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build

CONDITIONING = {"solver": "dpmpp_2m_sde", "spacing": "karras", "steps": 20}  # fresh noise mends what went wrong before
INPAINTING = {"solver": "ddpm", "spacing": "karras:low=0.02,high=20", "steps": 29}  # 47 evaluations
INVERSION = {"solver": "heun", "spacing": "karras", "steps": 40}


class Bench(NamedTuple):
    """What the results of one batch are made with; rows: the number of each one's picture (B,)."""

    denoise: Denoise
    levels: NoiseLevel
    solver: Solver
    noise: Noise
    rows: Tensor
    std: Tensor

    def x_T(self) -> Tensor:
        """Pure noise at the first level, (B, C, H, W)."""
        noise = self.noise()
        return broadcast(self.std, noise) * noise


Work = Callable[[Bench], Tensor]


def inpaint(run: Run, pictures: np.ndarray, unknown: np.ndarray, *, n: int = 4, **choices: Any) -> EditResult:
    """n pictures each with the `unknown` pixels, truth values (P or 1, 1, H, W), drawn to fit the others."""
    unknown = _checked_mask(pictures, unknown)
    known = _encoded(run, pictures)

    def work(bench: Bench) -> Tensor:
        mask = torch.from_numpy(~unknown).to(known.device)[bench.rows]
        return editing.inpaint(bench.denoise, known[bench.rows], mask, bench.x_T(), *bench[1:4])

    edited = _made(run, "inpaint", pictures, work, n, INPAINTING | choices)
    array = np.where(unknown[:, None], edited.array, pictures[:, None])  # as given, not their way there and back
    return replace(edited, array=array, before=[*edited.before, tinted(edited.before[0], unknown)])


def outpaint(
    run: Run,
    pictures: np.ndarray,
    *,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    n: int = 4,
    **choices: Any,
) -> EditResult:
    """n pictures each that go on beyond the border by so many pixels; drawn in windows of the run's own size."""
    known, sides = _encoded(run, pictures), {"left": left, "right": right, "top": top, "bottom": bottom}

    def work(bench: Bench) -> Tensor:
        def one(known: Tensor, mask: Tensor) -> Tensor:
            return editing.inpaint(bench.denoise, known, mask, bench.x_T(), *bench[1:4])

        return editing.outpaint(known[bench.rows], one, **sides)

    edited = _made(run, "outpaint", pictures, work, n, INPAINTING | choices, sides)
    border = ((0, 0), (0, 0), (top, bottom), (left, right))
    unknown = np.pad(np.zeros((len(pictures), 1, *pictures.shape[2:]), bool), border, constant_values=True)
    given = np.pad(pictures, border)
    array = np.where(unknown[:, None], edited.array, given[:, None])
    return replace(edited, array=array, before=[tinted(as_display(given, edited.values), unknown)])


def upscale(run: Run, small: np.ndarray, *, n: int = 4, **choices: Any) -> EditResult:
    """n pictures of the run's size each, whose means of factor x factor pixels are the small picture's (P, C, h, w)."""
    height, width = run.config.data.shape[1:]
    factor = height // small.shape[2]
    if small.shape[2] * factor != height or small.shape[3] * factor != width:
        raise UnblotError(
            f"a picture of {size_name(small.shape)} has no whole factor to this run's {height}x{width}; "
            f"give one of {height // 2}x{width // 2}, or --factor 2 with a picture of {height}x{width} to try it out"
        )
    y, operator = _encoded(run, small, fixed_size=False), averaging(factor)
    edited = _made(run, "upscale", small, _restoring(operator, y), n, CONDITIONING | choices, {"factor": factor})
    return replace(edited, before=[edited.before[0].repeat(factor, axis=1).repeat(factor, axis=2)])


def colorize(run: Run, gray: np.ndarray, *, n: int = 4, **choices: Any) -> EditResult:
    """n pictures in colour each, whose brightness (the mean of other than three channels) is `gray` (P, 1, H, W)."""
    values, channels = values_of(run), run.config.data.channels
    weights = gray_weights(channels - values.alpha)
    if len(weights) == 1:
        raise UnblotError("this run's pictures are gray: colouring needs a run that was trained on colour")
    weights = np.append(weights, 0.0) if values.alpha else weights
    scales, offsets = np.array(values.scale), np.array(values.offset)
    # gray = Σ w·stored and stored = scale·x + offset, so that Σ (w·scale)·x is known
    y = (gray.astype(np.float64) - float(weights @ offsets)) / float(weights @ scales)
    operator = graying(torch.tensor(weights * scales / float(weights @ scales), dtype=torch.float32))
    work = _restoring(operator, torch.from_numpy(y).float().to(run.device))
    shown = np.repeat(gray, channels, axis=1)
    if values.alpha:
        shown[:, -1] = np.iinfo(values.dtype).max if values.bounded else 1.0
    return _made(run, "colorize", shown.astype(values.dtype), work, n, CONDITIONING | choices)


def img2img(run: Run, pictures: np.ndarray, *, strength: float = 0.5, n: int = 4, **choices: Any) -> EditResult:
    """n pictures each, redrawn from the noise level at which `strength` of the steps are left, above 0 and up to 1."""
    x0 = _encoded(run, pictures)

    def work(bench: Bench) -> Tensor:
        return editing.img2img(bench.denoise, x0[bench.rows], strength, *bench[1:4])

    return _made(run, "img2img", pictures, work, n, choices, {"strength": strength})


def variations(run: Run, pictures: np.ndarray, *, amount: float = 0.3, n: int = 4, **choices: Any) -> EditResult:
    """n variations of each picture: 0 none, 1 another picture."""
    if not 0 < amount <= 1:
        raise UnblotError(f"--amount says how far to go from a picture, above 0 and up to 1, not {amount}")
    x0 = _encoded(run, pictures)

    def work(bench: Bench) -> Tensor:
        return editing.variations(bench.denoise, x0[bench.rows], amount, *bench[1:4])

    return _made(run, "variations", pictures, work, n, INVERSION | choices, {"amount": amount})


def interpolate(run: Run, pictures: np.ndarray, *, n: int = 4, **choices: Any) -> EditResult:
    """n pictures on the way between two, evenly spaced."""
    if len(pictures) != 2:
        raise UnblotError(f"blending takes two pictures, not {len(pictures)}")
    x0 = _encoded(run, pictures)
    shares = torch.linspace(0, 1, n + 2, device=x0.device)[1:-1]

    def work(bench: Bench) -> Tensor:
        a, b = (x0[i].expand(len(bench.rows), -1, -1, -1) for i in (0, 1))
        return editing.interpolate(bench.denoise, a, b, shares[bench.rows], *bench[1:3])

    edited = _made(run, "interpolate", pictures[:1], work, n, INVERSION | choices, rows=torch.arange(n))
    return replace(edited, after=[as_display(pictures[1:], edited.values)])


def reconstruct(run: Run, pictures: np.ndarray, **choices: Any) -> EditResult:
    """Each picture taken to the noise that it is made from, and drawn from there again; `errors` says what was lost."""
    x0 = _encoded(run, pictures)

    def work(bench: Bench) -> Tensor:
        x_T = editing.invert(bench.denoise, x0[bench.rows], *bench[1:3])
        return sample(bench.denoise, x_T, *bench[1:4])

    edited = _made(run, "reconstruct", pictures, work, 1, INVERSION | choices)
    difference = edited.array[:, 0].astype(np.float64) - pictures
    return replace(edited, errors=np.sqrt(np.square(difference).mean(axis=(1, 2, 3))))


def _made(
    run: Run,
    kind: str,
    pictures: np.ndarray,
    work: Work,
    n: int,
    choices: dict[str, Any],
    about: dict[str, Any] | None = None,
    rows: Tensor | None = None,
) -> EditResult:
    """n results for each of the pictures, beside which they are shown; rows: what `work` makes each result of."""
    values, count = values_of(run), len(pictures) * n
    rows = torch.arange(count) // n if rows is None else rows
    names = choices.pop("names", None) or [f"picture-{i}" for i in range(len(pictures))]
    way = Way.of(run, count, **choices)
    array = values.decode(np.concatenate([x.cpu().numpy() for x in way.go(rows, work)]))
    told = {"generator": f"unblot {__version__}", "run": run.path.resolve().name, "edit": kind, **(about or {})}
    return EditResult(
        array.reshape(len(pictures), n, *array.shape[1:]),
        values,
        names,
        told | way.about,
        None if way.labels is None else [run.config.data.classes[i] for i in way.labels],
        [as_display(pictures, values)],
    )


@dataclass(frozen=True)
class Way:
    """How the results of one call are drawn: `about` says it in words."""

    run: Run
    levels: NoiseLevel
    solver: Solver
    labels: list[int] | None
    batch_size: int
    about: dict[str, Any]
    progress: Callable[[int], None]

    @classmethod
    def of(
        cls,
        run: Run,
        count: int,
        *,
        label: Any = None,
        guidance: float = 1.0,
        steps: int | None = None,
        solver: str | None = None,
        spacing: str | None = None,
        seed: int = 0,
        batch_size: int = 64,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Self:
        """Choices as in `Run.sample`. Raises UnblotError for what this run cannot use."""
        run.need_denoiser("editing")
        EditConfig(n=count, steps=steps, seed=seed, batch_size=batch_size)  # holds the numbers to their ranges
        train, labels = run.config.train, choose_labels(label, run.config.data.classes, range(count))
        if guidance != 1 and labels is None:
            raise UnblotError(f"guidance {guidance} pushes towards a label; give one with --label")
        sampler = choose_sampler(train, None, steps=steps, solver=solver, spacing=spacing)
        about: dict[str, Any] = {
            "steps": sampler.steps,
            "solver": sampler.solver,
            "schedule": train.schedule,
            "spacing": sampler.spacing,
            "seed": seed,
            "guidance": guidance,
        }
        levels = sampling_levels(train.schedule, sampler.spacing, sampler.steps)
        return cls(run, levels, build(SOLVERS, sampler.solver, "solver"), labels, batch_size, about, progress)

    def go(self, rows: Tensor, work: Work) -> Iterator[Tensor]:
        """What `work` makes of each batch."""
        denoiser, shape, device = self.run.denoiser, self.run.config.data.shape, self.run.device
        std = norm(self.levels.at(0), denoiser.data_std)
        for first in range(0, len(rows), self.batch_size):
            indices = range(first, min(first + self.batch_size, len(rows)))
            noise = pictures_noise(picture_generators(self.about["seed"], indices), shape, device)
            denoise: Denoise = denoiser
            if self.labels is not None:
                label = torch.tensor(self.labels)[indices.start : indices.stop].to(device)
                denoise = classifier_free(denoiser, label, self.about["guidance"])
            here = rows[indices.start : indices.stop].to(device)
            yield work(Bench(denoise, self.levels, self.solver, noise, here, std))
            self.progress(len(indices))


def _restoring(operator: Operator, y: Tensor) -> Work:
    """Draws pictures with measurements y (P, …)."""

    def work(bench: Bench) -> Tensor:
        return editing.restore(bench.denoise, operator, y[bench.rows], bench.x_T(), *bench[1:4])

    return work


def _encoded(run: Run, pictures: np.ndarray, fixed_size: bool = True) -> Tensor:
    """Stored pictures in the network's range, on the run's device. Raises UnblotError for another form."""
    wanted = run.config.data.shape
    if pictures.ndim != 4 or pictures.shape[1] != wanted[0] or (fixed_size and pictures.shape[1:] != wanted):
        raise UnblotError(f"pictures of shape {pictures.shape} are no (P, {', '.join(map(str, wanted))}) of this run")
    return torch.from_numpy(values_of(run).encode(pictures, np.float32)).to(run.device)


def _checked_mask(pictures: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """The mask for every picture. Raises UnblotError where it does not fit them."""
    if unknown.ndim != 4 or unknown.shape[2:] != pictures.shape[2:] or unknown.shape[0] not in (1, len(pictures)):
        raise UnblotError(f"a mask of shape {unknown.shape} does not fit pictures of shape {pictures.shape}")
    return np.broadcast_to(unknown.astype(bool), (len(pictures), 1, *pictures.shape[2:])).copy()


def values_of(run: Run) -> ValueMap:
    """The map between the run's stored values and the network's range."""
    return ValueMap.from_dict(run.config.data.values)
