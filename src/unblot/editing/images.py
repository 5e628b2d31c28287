"""Edits of one's own pictures with a trained run, from inpainting to interpolation, as functions of a run and arrays.

Pictures are arrays (P, C, H, W) of stored values in the run's `ImageSpec`; `inputs.py` brings files there. Result i of
a call, number i % n of picture i // n, is a function of (seed, i). Known pixels are in the results to the last bit.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unblot._version import __version__
from unblot.config.choices import from_choices
from unblot.config.sampling import EditConfig
from unblot.data.opacity import filled
from unblot.data.output import as_display
from unblot.data.values import ValueMap
from unblot.editing import methods
from unblot.editing.inputs import check_finite, checked_mask, gray_weights, size_name
from unblot.editing.operators import Operator, averaging, graying
from unblot.editing.result import EditResult, file_names, tinted
from unblot.errors import UnblotError, arg
from unblot.latent.latents import AT_A_TIME
from unblot.process.schedules import SCHEDULES
from unblot.runs.choosing import untuned_sampler
from unblot.runs.conditions import conditions, note_on_turns
from unblot.runs.run import Run
from unblot.sampling.batched import SamplingBatch, split_batches
from unblot.sampling.loop import sample
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build, several

# Samplers of edits whose call names none.
CONDITIONING = {"solver": "dpmpp_2m_sde", "spacing": "karras", "steps": 20}  # fresh noise corrects earlier errors
INPAINTING = {"solver": "ddpm", "spacing": "karras:low=0.02,high=20", "steps": 29}  # 47 denoiser calls
INVERSION = {"solver": "heun", "spacing": "karras", "steps": 40, "guidance": 1.0}  # the way there and back, exactly

Work = Callable[[SamplingBatch, Tensor], Tensor]  # a batch and its pictures' numbers (B,) -> results (B, C, H, W)


def inpaint(run: Run, pictures: np.ndarray, unknown: np.ndarray, *, n: int = 4, **choices: Any) -> EditResult:
    """n samples per picture of its `unknown` pixels, given the others; unknown: bool (P or 1, 1, H, W).

    What a picture holds in its unknown pixels changes nothing, not even by the way through an encoder.

    choices, of this and all edits: the fields of `EditConfig` (label, prompt, guidance, seed, steps, solver, spacing,
    batch_size); names of the pictures; progress, called with the number of results just made; begin, called before
    the first of them with the names of the files that `EditResult.save` will write.
    """
    unknown = checked_mask(pictures, unknown)
    known = _encoded(run, pictures, unknown=unknown)

    def work(batch: SamplingBatch, rows: Tensor) -> Tensor:
        mask = known_x0(run, torch.from_numpy(~unknown).to(known.device))[rows]
        return methods.inpaint(batch.denoise, known[rows], mask, batch.x_T(), batch.levels, batch.solver, batch.noise)

    edited = _edited(run, "inpaint", pictures, work, {**INPAINTING, **choices, "n": n})
    array = np.where(unknown[:, None], edited.array, pictures[:, None])  # as given: encoding and decoding may round
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
    """n samples per picture of what lies beyond its border, in pixels per side, by inpainting windows of its size."""
    run.config.need_pixels("outpaint")
    known, sides = _encoded(run, pictures), {"left": left, "right": right, "top": top, "bottom": bottom}

    def work(batch: SamplingBatch, rows: Tensor) -> Tensor:
        def inpaint_window(known: Tensor, mask: Tensor) -> Tensor:
            return methods.inpaint(batch.denoise, known, mask, batch.x_T(), batch.levels, batch.solver, batch.noise)

        return methods.outpaint(known[rows], inpaint_window, **sides)

    edited = _edited(run, "outpaint", pictures, work, {**INPAINTING, **choices, "n": n}, sides)
    border = ((0, 0), (0, 0), (top, bottom), (left, right))
    unknown = np.pad(np.zeros((len(pictures), 1, *pictures.shape[2:]), bool), border, constant_values=True)
    given = np.pad(pictures, border)
    array = np.where(unknown[:, None], edited.array, given[:, None])
    return replace(edited, array=array, before=[tinted(as_display(given, edited.values), unknown)])


def upscale(run: Run, small: np.ndarray, *, n: int = 4, **choices: Any) -> EditResult:
    """n samples of the run's size per small picture (P, C, h, w), whose means over factor x factor pixels equal it."""
    run.config.need_pixels("upscale")
    height, width = run.config.data.shape[1:]
    factor = height // small.shape[2]
    if small.shape[2] * factor != height or small.shape[3] * factor != width:
        raise UnblotError(
            f"a picture of {size_name(small.shape)} has no whole factor to this run's {height}x{width}; give one of "
            f"{height // 2}x{width // 2}, or {arg('factor', 2)} with a picture of {height}x{width} to try it out"
        )
    y, operator = _encoded(run, small, fixed_size=False), averaging(factor)
    options = {**CONDITIONING, **choices, "n": n}
    edited = _edited(run, "upscale", small, _restoring(run, operator, y), options, {"factor": factor})
    return replace(edited, before=[edited.before[0].repeat(factor, axis=1).repeat(factor, axis=2)])


def colorize(run: Run, gray: np.ndarray, *, n: int = 4, **choices: Any) -> EditResult:
    """n colour samples per gray picture (P, 1, H, W), whose brightness equals it.

    The brightness of three channels is their luma, of another number their mean.
    """
    run.config.need_pixels("colorize")
    values, channels = values_of(run), run.config.data.channels
    weights = gray_weights(channels - values.alpha)
    if len(weights) == 1:
        raise UnblotError("this run's pictures are gray; colorize needs a run that was trained on colour")
    check_finite(gray)
    weights = np.append(weights, 0.0) if values.alpha else weights
    scales, offsets = np.array(values.scale), np.array(values.offset)
    # gray = Σ w·stored and stored = scale·x + offset, so that Σ (w·scale)·x is known
    y = (gray.astype(np.float64) - float(weights @ offsets)) / float(weights @ scales)
    operator = graying(torch.tensor(weights * scales / float(weights @ scales), dtype=torch.float32))
    work = _restoring(run, operator, torch.from_numpy(y).float().to(run.device))
    shown = np.repeat(gray, channels, axis=1)
    if values.alpha:
        shown[:, -1] = np.iinfo(values.dtype).max if values.bounded else 1.0
    return _edited(run, "colorize", shown.astype(values.dtype), work, {**CONDITIONING, **choices, "n": n})


def img2img(run: Run, pictures: np.ndarray, *, strength: float = 0.5, n: int = 4, **choices: Any) -> EditResult:
    """n samples per picture from its noised version; strength: the share of the steps that is sampled, in (0, 1]."""
    x0 = _encoded(run, pictures)

    def work(batch: SamplingBatch, rows: Tensor) -> Tensor:
        return methods.img2img(batch.denoise, x0[rows], strength, batch.levels, batch.solver, batch.noise)

    return _edited(run, "img2img", pictures, work, {**choices, "n": n}, {"strength": strength})


def variations(run: Run, pictures: np.ndarray, *, amount: float = 0.3, n: int = 4, **choices: Any) -> EditResult:
    """n variations per picture; amount: in (0, 1], from the picture itself (0) to an independent sample (1)."""
    if not 0 < amount <= 1:
        raise UnblotError(
            f"{arg('amount', amount)} must be above 0 (the picture itself) and at most 1 (another picture)"
        )
    x0 = _encoded(run, pictures)

    def work(batch: SamplingBatch, rows: Tensor) -> Tensor:
        return methods.variations(batch.denoise, x0[rows], amount, batch.levels, batch.solver, batch.noise, batch.prior)

    return _edited(run, "variations", pictures, work, {**INVERSION, **choices, "n": n}, {"amount": amount})


def interpolate(run: Run, pictures: np.ndarray, *, n: int = 4, **choices: Any) -> EditResult:
    """n pictures between two (2, C, H, W), evenly spaced on the great circle between their inverted noises."""
    if len(pictures) != 2:
        raise UnblotError(f"interpolation takes two pictures, not {len(pictures)}")
    x0 = _encoded(run, pictures)
    shares = torch.linspace(0, 1, n + 2, device=x0.device)[1:-1]

    def work(batch: SamplingBatch, rows: Tensor) -> Tensor:
        a, b = (x0[i].expand(len(rows), -1, -1, -1) for i in (0, 1))
        return methods.interpolate(batch.denoise, a, b, shares[rows], batch.levels, batch.solver, batch.prior)

    edited = _edited(run, "interpolate", pictures[:1], work, {**INVERSION, **choices, "n": n}, rows=torch.arange(n))
    return replace(edited, after=[as_display(pictures[1:], edited.values)])


def reconstruct(run: Run, pictures: np.ndarray, *, n: int = 1, **choices: Any) -> EditResult:
    """Each picture inverted to its noise and sampled from there; `errors` is the root mean square difference."""
    if n != 1:
        raise UnblotError(f"a picture has one reconstruction; leave out {arg('n', n)}")
    x0 = _encoded(run, pictures)

    def work(batch: SamplingBatch, rows: Tensor) -> Tensor:
        x_T = methods.invert(batch.denoise, x0[rows], batch.levels, batch.solver)
        return sample(batch.denoise, x_T, batch.levels, batch.solver, batch.noise)

    edited = _edited(run, "reconstruct", pictures, work, {**INVERSION, **choices, "n": 1})
    difference = edited.array[:, 0].astype(np.float64) - pictures
    return replace(edited, errors=np.sqrt(np.square(difference).mean(axis=(1, 2, 3))))


def _edited(
    run: Run,
    kind: str,
    pictures: np.ndarray,
    work: Work,
    choices: dict[str, Any],
    about: dict[str, Any] | None = None,
    rows: Tensor | None = None,
) -> EditResult:
    """n results for each of the pictures. rows: the number of the picture that each result is made from. Raises
    UnblotError for choices that this run cannot use."""
    run.need_denoiser("editing")
    names = choices.pop("names", None) or [f"picture-{i}" for i in range(len(pictures))]
    begin, progress = (choices.pop(name, lambda _: None) for name in ("begin", "progress"))
    config = from_choices(EditConfig, choices, without=["fit", "device"])
    data, train, values, count = run.config.data, run.config.train, values_of(run), len(pictures) * config.n
    rows = (torch.arange(count) // config.n if rows is None else rows).to(run.device)
    note_on_turns(config.prompt, count)
    labels, prompts, condition = conditions(run.denoiser, run.config, config, range(count))
    sampler = untuned_sampler(run.config, config)
    batches = split_batches(
        run.denoiser,
        run.config.shape,
        range(count),
        sampler.levels(build(SCHEDULES, train.schedule, "schedule")),
        build(SOLVERS, sampler.solver, "solver"),
        seed=config.seed,
        condition=condition,
        guidance=run.guidance(sampler, condition, range(count), negative=config.negative),
        batch_size=config.batch_size,
    )
    begin(file_names(names, len(pictures), config.n, data.channels, values))
    results = []
    for batch in batches:
        results.append(run.pictures(work(batch, rows[batch.part])).cpu().numpy())
        progress(len(results[-1]))
    array = values.decode(np.concatenate(results)).reshape(len(pictures), config.n, *results[0].shape[1:])
    origin = {"generator": f"unblot {__version__}", "run": run.path.resolve().name, "ema": several(train.ema)[0]}
    origin |= {"edit": kind, **(about or {})}
    chosen = {"steps": sampler.steps, "solver": sampler.solver, "schedule": train.schedule, "spacing": sampler.spacing}
    chosen |= {} if config.negative is None else {"negative": config.negative}
    return EditResult(
        array,
        values,
        names,
        {**origin, **chosen, "seed": config.seed, "guidance": sampler.guidance, **run.added},
        None if labels is None else [data.classes[i] for i in labels],
        prompts,
        [as_display(pictures, values)],
    )


def _restoring(run: Run, operator: Operator, y: Tensor) -> Work:
    """Samples pictures whose measurements by the operator are y (P, …), also as they are stored."""
    found = values_of(run).ends()
    ends = None if found is None else (torch.from_numpy(found[0]).to(y), torch.from_numpy(found[1]).to(y))

    def work(batch: SamplingBatch, rows: Tensor) -> Tensor:
        known = (batch.x_T(), batch.levels, batch.solver, batch.noise)
        return methods.restore(batch.denoise, operator, y[rows], *known, ends=ends)

    return work


def _encoded(run: Run, pictures: np.ndarray, fixed_size: bool = True, unknown: np.ndarray | None = None) -> Tensor:
    """The x0 of stored pictures, on the run's device: in the network's range, or in latents.

    unknown: bool (P, 1, H, W), pixels that are filled from the others first, for an encoder looks at all of a picture.
    Raises UnblotError for another shape.
    """
    wanted = run.config.data.shape
    if pictures.ndim != 4 or pictures.shape[1] != wanted[0] or (fixed_size and pictures.shape[1:] != wanted):
        raise UnblotError(
            f"pictures of shape {pictures.shape} do not fit this run; give (P, {', '.join(map(str, wanted))})"
        )
    check_finite(pictures)
    x = values_of(run).encode(pictures, np.float32)
    if unknown is not None:
        x = np.stack(
            [filled(picture, 1 - mask[0].astype(np.float32)) for picture, mask in zip(x, unknown, strict=True)]
        )
    parts = torch.from_numpy(x).split(AT_A_TIME)
    return torch.cat([run.denoiser.latents(part.to(run.device)) for part in parts])


def known_x0(run: Run, known: Tensor) -> Tensor:
    """Which values of x0 (P, 1, h, w) are known, where these pixels (P, 1, H, W) are.

    Of latents those all of whose own pixels are known. The pixels outside of the picture, up to a whole latent, are
    known.
    """
    if run.config.latent is None:
        return known
    factor = run.config.latent.latent_factor
    bottom, right = -known.shape[2] % factor, -known.shape[3] % factor
    unknown = F.pad((~known).float(), (0, right, 0, bottom))
    return F.max_pool2d(unknown, factor) == 0


def values_of(run: Run) -> ValueMap:
    """The map between the run's stored values and the network's range."""
    return ValueMap.from_dict(run.config.data.values)
