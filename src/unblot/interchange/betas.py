"""Schedulers of the diffusers library as scheduler_config.json describes them: schedule and parameterization here."""

from dataclasses import dataclass
from typing import Any

import torch

from unblot.config.schema import TrainConfig
from unblot.errors import UnblotError, arg
from unblot.nn import NETWORKS
from unblot.process.levels import log_snr
from unblot.process.schedules import SCHEDULES, ddpm_index, schedule_index
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build, canonical, options_of, parse

WRITTEN = "DDPMScheduler"
READ = (  # they share the keys below, and their defaults
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"),
    *("EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"),
)
TABLES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}  # ours -> theirs
ZERO_SNR = "_zero_snr"
DEFAULTS: dict[str, dict[str, Any]] = {  # where a class of the library has another than the rest
    "DDPMScheduler": {"clip_sample": True},
    "DDIMScheduler": {"clip_sample": True},
}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
VARIANCES = {"posterior": "fixed_small", "beta": "fixed_large"}


@dataclass(frozen=True)
class SchedulerConfig:
    """What a scheduler's config says of training, of the variance of ancestral sampling, and of clipping x0_hat."""

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    variance_type: str = "fixed_small"
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    prediction_type: str = "epsilon"
    thresholding: bool = False
    timestep_spacing: str = "leading"
    rescale_betas_zero_snr: bool = False


def scheduler_of(train: TrainConfig) -> SchedulerConfig:
    """The scheduler for a network that was trained with these choices, each of its timesteps what the network embeds.

    Raises UnblotError where there is none.
    """
    schedule = _embedded(train)
    schedule_index(schedule)
    name, options = parse(SCHEDULES, schedule, "schedule")
    base = name.removesuffix(ZERO_SNR)
    betas: dict[str, Any] = {name: options[name] for name in ("beta_start", "beta_end") if name in options}
    if base in TABLES and (base != "cosine" or options_of(SCHEDULES["cosine"]) == {**options, "steps": 1000}):
        betas |= {"beta_schedule": TABLES[base], "rescale_betas_zero_snr": base != name}
    else:
        log_alpha_bar = 2 * build(SCHEDULES, schedule, "schedule")(_times(options["steps"])).alpha.log()
        betas["trained_betas"] = tuple((-torch.expm1(log_alpha_bar.diff())).tolist())
    if train.parameterization not in PREDICTIONS:
        raise UnblotError(
            f"diffusers' schedulers do not know the parameterization {train.parameterization!r}; train with "
            f"{arg('parameterization', 'eps')}, x0 or v, or give {arg('to', 'onnx')}"
        )
    solver, options_of_solver = parse(SOLVERS, train.solver, "solver")
    return SchedulerConfig(
        num_train_timesteps=options["steps"],
        prediction_type=PREDICTIONS[train.parameterization],
        variance_type=VARIANCES.get(options_of_solver["variance"] if solver == "ddpm" else "", "fixed_small"),
        timestep_spacing="trailing",
        **betas,
    )


def own_levels(train: TrainConfig) -> bool:
    """Whether the exported scheduler has the levels of the run's own schedule."""
    return canonical(SCHEDULES, _embedded(train), "schedule") == canonical(SCHEDULES, train.schedule, "schedule")


def schedule_of(scheduler: SchedulerConfig) -> str:
    """The spec of the schedule of a scheduler. Raises UnblotError where it has no counterpart here."""
    if scheduler.trained_betas is not None:
        raise UnblotError("its trained_betas are a table of their own, which no schedule here has")
    names = {theirs: ours for ours, theirs in TABLES.items()}
    if scheduler.beta_schedule not in names:
        raise UnblotError(f"its beta_schedule {scheduler.beta_schedule!r} is none of {', '.join(names)}")
    name = names[scheduler.beta_schedule] + ZERO_SNR * scheduler.rescale_betas_zero_snr
    if name not in SCHEDULES:
        raise UnblotError(f"there is no {scheduler.beta_schedule} with rescale_betas_zero_snr here")
    betas = "" if name == "cosine" else f"beta_start={scheduler.beta_start},beta_end={scheduler.beta_end},"
    spec = f"{name}:{betas}steps={scheduler.num_train_timesteps}"
    build(SCHEDULES, spec, "schedule")
    return canonical(SCHEDULES, spec, "schedule")


def index_of(schedule: str) -> str:
    """The option `index` of a network that embeds the indices of this schedule."""
    return "ddpm" if schedule == canonical(SCHEDULES, "linear", "schedule") else "schedule"


def parameterization_of(scheduler: SchedulerConfig) -> str:
    """What a scheduler takes the network to predict. Raises UnblotError where it has no counterpart here."""
    names = {theirs: ours for ours, theirs in PREDICTIONS.items()}
    if scheduler.prediction_type not in names:
        raise UnblotError(f"its prediction_type {scheduler.prediction_type!r} is none of {', '.join(names)}")
    if scheduler.prediction_type == "epsilon" and scheduler.rescale_betas_zero_snr:
        raise UnblotError("its prediction_type epsilon is undefined at the pure noise of rescale_betas_zero_snr")
    return names[scheduler.prediction_type]


def solver_of(scheduler: SchedulerConfig) -> str:
    """The spec of ancestral sampling with a scheduler's variance. Raises UnblotError for one that is learned."""
    names = {f"{theirs}{log}": ours for ours, theirs in VARIANCES.items() for log in ("", "_log")}
    if scheduler.variance_type not in names:
        raise UnblotError(f"its variance_type {scheduler.variance_type!r} is none of {', '.join(names)}")
    return canonical(SOLVERS, f"ddpm:variance={names[scheduler.variance_type]}", "solver")


def _embedded(train: TrainConfig) -> str:
    """The spec of the schedule whose indices the network embeds. Raises UnblotError where it knows not all of them.

    A level is told by its signal-to-noise ratio alone, so that a network that embeds DDPM's index is a denoiser of
    DDPM's levels, wherever it was trained on all of them.
    """
    _, options = parse(NETWORKS, train.network, "network")
    if options["index"] == "schedule":
        return train.schedule
    if options["index"] == "rescaled":
        raise UnblotError(
            f"the network embeds indices times 1000/T, and diffusers' schedulers give them as they are; give "
            f"{arg('to', 'onnx')}"
        )
    levels, ddpm = build(SCHEDULES, train.schedule, "schedule"), SCHEDULES["linear"]()
    table = _times(1000)[1:]
    known, wanted = levels(table), ddpm(table)
    spans = ddpm_index(known.at(0)) <= 1 and log_snr(known.at(-1)) <= log_snr(wanted.at(-1)) + 1e-6
    if not spans:
        raise UnblotError(
            f"the network embeds DDPM's indices and was not trained on all of them, with the schedule "
            f"{train.schedule!r}; train with {arg('network', 'ddpm_unet:index=schedule')}, or give {arg('to', 'onnx')}"
        )
    return "linear"


def _times(steps: int) -> torch.Tensor:
    return torch.arange(steps + 1, dtype=torch.float64) / steps
