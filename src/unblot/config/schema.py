"""What a run is: the choices that were made and the data that it learned from, as plain frozen values.

Nothing here imports PyTorch, so that the command line, which is made from these fields, answers at once. Choices among
named things (a network, a schedule, a solver) are specs such as `unet:width=96,blocks=2`; see `specs.py`.
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from unblot.errors import UnblotError, arg


def option(help: str, group: str, low: float = -math.inf, high: float = math.inf, **default: Any) -> Any:
    """A field that is also a flag of the command line: its line of help, its group there, and its least and most."""
    return field(metadata={"help": help, "group": group, "low": low, "high": high}, **default)


# For the help; the tables themselves stand beside PyTorch. A test holds these lines to them.
SCHEDULES = (
    "linear, scaled_linear, cosine, sigmoid, linear_zero_snr, scaled_linear_zero_snr, edm:mean=-1.2,std=1.2, karras, "
    "flow or flow_logit_normal"
)
AUGMENTATIONS = "none, plain:flip=true,shift=2 or non_leaking (for small sets)"
SPACINGS = "time, trailing, karras:rho=7, log_snr or listed"
FEATURES = "classifier, random, pixels, dinov2, inception (default: classifier where there are labels)"
QUALITIES = "draft, good or best"
SOLVERS = (
    "ddpm:variance=posterior (or beta, learned), ddim:eta=0, euler, heun, dpmpp_2s, dpmpp_2m, dpmpp_3m, "
    "dpmpp_2m_sde, dpmpp_3m_sde, unipc, deis, ipndm, edm_churn, restart or adaptive"
)


class Checked:
    """A configuration whose numbers are held to the ranges of their options."""

    def __post_init__(self) -> None:
        check_values(type(self), vars(self))


def check_values(config: type, values: Mapping[str, Any]) -> None:
    """Raises UnblotError for a number that is not finite, or outside the range of the field of that name."""
    for f in dataclasses.fields(config):
        value, low, high = values.get(f.name), f.metadata["low"], f.metadata["high"]
        if isinstance(value, int | float) and not (math.isfinite(value) and low <= value <= high):
            bounds = [f"{word} {b:g}" for word, b in (("at least", low), ("at most", high)) if math.isfinite(b)]
            raise UnblotError(f"{arg(f.name)} must be {' and '.join(bounds) or 'a finite number'}, not {value}")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Which pictures to learn from, and how they are read."""

    data: str = option("a folder, archive or array file of pictures, or built-in data", "data", default="digits")
    size: str | None = option("height and width of the pictures, 64 or 48x64", "data", default=None)
    fit: str = option("how to reach --size: crop, pad or stretch", "data", default="crop")
    colour: str = option("gray, rgb or rgba (default: what is there)", "data", default="")
    background: str = option("colour to lay transparent pictures over (default: keep opacity)", "data", default="")
    unlabelled: bool = option("leave out the labels that are there", "data", default=False)
    pages: str = option("the pages of a TIFF: pictures or channels", "data", default="")
    on_broken: str = option("pictures that cannot be read: stop, or skip them", "data", default="stop")
    held_out: float = option("share of the pictures kept aside to measure on", "data", low=0, high=0.9, default=0.05)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """Every choice of a training run. Fields without a default are decided by the preset, as suits the data."""

    preset: str = option("the recipe that decides what is not given: default or ddpm", "recipe", default="default")
    network: str = option("unet, ddpm_unet, dit or mlp, with options as in unet:width=64,blocks=2", "recipe")
    parameterization: str = option("what the network predicts: eps, x0, v, edm or flow", "recipe")
    schedule: str = option(f"noise levels to train on: {SCHEDULES}", "recipe")
    times: str = option("how levels are drawn: stratified, index (DDPM's), adaptive (to the loss) or spacing", "recipe")
    coupling: str = option(
        "noise of a picture: independent, or ot (optimal transport in small groups)", "recipe", default="independent"
    )
    objective: str = option(
        "simple (squared error), hybrid:scale=0.001 (learns the variance too) or vlb", "recipe", default="simple"
    )
    weighting: str = option("weight of the loss by level: none, edm or min_snr:gamma=5", "recipe")
    data_std: float = option("standard deviation of the data in the network's range", "recipe", low=1e-6)
    augment: str = option(f"changed pictures to train on as well: {AUGMENTATIONS}", "recipe", default="none")
    clusters: int = option(
        "groups of alike pictures to learn as labels where there are none", "recipe", low=0, default=0
    )
    label_dropout: float = option("share of labels hidden, for guidance", "recipe", low=0, high=1, default=0.15)

    budget: str = option("time to train in, as 20m or 1h30m, instead of --steps", "optimisation", default="")
    steps: int = option("number of training steps", "optimisation", low=1)
    batch_size: int = option("pictures in a step", "optimisation", low=1)
    learning_rate: float = option("highest learning rate", "optimisation", low=0)
    warmup: float = option("share of the steps in which the learning rate rises", "optimisation", low=0, high=1)
    decay: str = option("how the learning rate then falls: cosine, linear or none", "optimisation")
    optimizer: str = option(
        "adamw:beta1=0.9,beta2=0.99 or muon:momentum=0.95,scale=0.2", "optimisation", default="adamw"
    )
    weight_decay: float = option("share of the weights taken off, times the rate", "optimisation", low=0, default=0.0)
    clip_norm: float = option("gradients are scaled down to this norm", "optimisation", low=1e-6, default=1.0)
    ema: str = option(
        "averages of the weights, joined by +, of which the first draws: power:std=0.05 or decay:rate=0.9999",
        "optimisation",
    )

    spacing: str = option(f"where sampling steps: {SPACINGS}", "sampling")
    solver: str = option(f"solver of sampling: {SOLVERS}", "sampling")
    sampling_steps: int = option("steps from noise to picture", "sampling", low=1)

    seed: int = option("every random number follows from it", "run", low=0, default=0)
    device: str = option("cpu, cuda, mps, or auto: the best there is", "run", default="auto")
    precision: str = option("fp32, bf16, or auto: bf16 on a GPU that has it", "run", default="auto")
    compile: str = option("torch.compile: on, off, or auto: on a GPU where it pays", "run", default="auto")
    shard: str = option("spread the network over processes: on, off, or auto: if it must be", "run", default="auto")
    log_every: int = option("steps between two lines of metrics", "run", low=1, default=10)
    held_out_every: int | None = option(
        "steps between two measurements of the held-out loss (default: some 30 in a run); 0 for none",
        "run",
        low=0,
        default=None,
    )
    log_to: str = option("send the numbers to wandb, trackio or wandb+trackio as well", "run", default="")
    preview_every: int = option("steps between two preview grids; 0 for none", "run", low=0)
    checkpoint_every: int = option("steps between two checkpoints", "run", low=1)


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Checked):
    """Every choice of a sampling call. Fields that stay None are taken from the run."""

    n: int = option("number of pictures", "pictures", low=1, default=16)
    label: str | None = option("class by name or number; several (0,1,2) or all take turns", "pictures", default=None)
    seed: int = option("picture i follows from the seed and i alone", "pictures", low=0, default=0)
    quality: str | None = option(
        f"what tuning found: {QUALITIES} (default: good, where tuned)", "sampling", default=None
    )
    nfe: int | None = option("network calls a picture may take", "sampling", low=1, default=None)
    steps: int | None = option("steps from noise to picture", "sampling", low=1, default=None)
    solver: str | None = option(f"one of {SOLVERS}", "sampling", default=None)
    spacing: str | None = option(f"where to step: {SPACINGS}", "sampling", default=None)
    guidance: float | None = option(
        "push towards the label; 1 is none, 2 is a good deal (default: as tuned, or 1)", "guidance", default=None
    )
    guidance_low: float = option("no push where sigma/alpha is below", "guidance", low=0, default=0.0)
    guidance_high: float | None = option("no push where sigma/alpha is above", "guidance", low=0, default=None)
    guidance_rescale: float = option("share of the contrast to bring back", "guidance", low=0, high=1, default=0.0)
    autoguide: str | None = option("push away from this weaker run or model instead", "guidance", default=None)
    threshold: str = option(
        "hold estimates in range: none, static or dynamic:quantile=0.995", "guidance", default="none"
    )
    batch_size: int = option("pictures drawn at a time", "run", low=1, default=64)
    device: str = option("cpu, cuda, mps, or auto: the best there is", "run", default="auto")


@dataclass(frozen=True, kw_only=True)
class EditConfig(Checked):
    """The choices that all ways of working on pictures share. Fields that stay None suit the way, or the run."""

    n: int = option("number of results for each picture", "results", low=1, default=4)
    label: str | None = option("class by name or number; several (0,1,2) or all take turns", "results", default=None)
    seed: int = option("result i follows from the seed and i alone", "results", low=0, default=0)
    fit: str = option(
        "bring pictures of another size, colours or depth to the run's: crop, pad or stretch", "results", default=""
    )
    steps: int | None = option("steps from noise to picture", "sampling", low=1, default=None)
    solver: str | None = option(f"one of {SOLVERS}", "sampling", default=None)
    spacing: str | None = option(f"where to step: {SPACINGS}", "sampling", default=None)
    guidance: float = option("push towards the label; 1 is none, 2 is a good deal", "sampling", default=1.0)
    batch_size: int = option("results made at a time", "run", low=1, default=64)
    device: str = option("cpu, cuda, mps, or auto: the best there is", "run", default="auto")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Checked):
    """Every choice of an evaluation."""

    n: int = option("number of pictures to draw and judge", "what", low=2, default=2000)
    features: str = option(f"what pictures are compared by, several with +: {FEATURES}", "what", default="")
    flip: bool = option("mirrored copies of training pictures count as copies", "what", default=False)
    shift: int = option("so do copies moved by up to so many pixels", "what", low=0, default=0)
    likelihood: int = option("pictures whose variational bound is computed; 0 for none", "what", low=0, default=64)
    ode: int = option("pictures whose likelihood along the ODE is computed; 0 for none", "what", low=0, default=0)
    guidance: float | None = option("push towards the label (default: as tuned, or 1)", "drawing", default=None)
    steps: int | None = option("steps from noise to picture", "drawing", low=1, default=None)
    seed: int = option("of the pictures that are drawn", "drawing", low=0, default=0)
    device: str = option("cpu, cuda, mps, or auto: the best there is", "drawing", default="auto")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(Checked):
    """What a model of few evaluations was made from, and how. teacher, sha256: a run, its model's hash."""

    nfe: int = option("evaluations a picture is to take afterwards", "distillation", low=1, high=4, default=2)
    guidance: float = option("guidance to put into the model; 1 is none", "distillation", default=1.0)
    teacher_steps: int = option("steps of the teacher for one of the new model", "distillation", low=1, default=5)
    teacher: str = option("", "", default="")
    sha256: str = option("", "", default="")


@dataclass(frozen=True, kw_only=True)
class EmaConfig(Checked):
    """Every choice of looking for the best average of the weights."""

    std: float | None = option("length to take, as a share of the run (default: the best)", "what", default=None)
    by: str = option("what the best is judged by: the held-out loss, or distance", "what", default="loss")
    n: int = option("pictures to draw for a distance", "what", low=2, default=500)
    seed: int = option("of noise and of drawn pictures", "what", low=0, default=0)
    device: str = option("cpu, cuda, mps, or auto: the best there is", "what", default="auto")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(Checked):
    """Every choice of a tuning."""

    n: int = option("the most pictures to draw for a figure", "what", low=100, default=2000)
    budget: str = option("time to search in, as 90s or 1h", "what", default="10m")
    features: str = option(f"what pictures are compared by: {FEATURES}", "what", default="")
    seed: int = option("of the pictures that are drawn", "what", low=0, default=0)
    device: str = option("cpu, cuda, mps, or auto: the best there is", "what", default="auto")


@dataclass(frozen=True)
class DataFacts:
    """What a run must know of its data to rebuild the network and to give pictures their values back.

    `values` is `ValueMap.to_dict()`; `std` the standard deviation in the network's range; `count` the number of
    training pictures; `clusters` the share of them in each cluster, where those are learned as labels.
    """

    name: str
    channels: int
    height: int
    width: int
    classes: tuple[str, ...]
    values: dict[str, Any]
    std: float
    count: int
    fingerprint: str
    clusters: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        return self.channels, self.height, self.width

    @property
    def num_labels(self) -> int:
        """How many labels the network knows: of classes or of clusters."""
        return len(self.classes) or len(self.clusters)

    @property
    def kind(self) -> str:
        """ "points" for points in the plane, which are stored as pictures of one pixel with two channels."""
        return "points" if self.shape == (2, 1, 1) else "pictures"


@dataclass(frozen=True)
class RunConfig:
    """Everything needed to rebuild a run's model, and to say how it came about."""

    source: DataConfig
    data: DataFacts
    train: TrainConfig
    version: str
    distill: DistillConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, raw: Any) -> "RunConfig":
        """The inverse of `to_dict`. Raises UnblotError for a field that is missing or unknown."""
        top = _fields(cls, raw, "config")
        data = _fields(DataFacts, top["data"], "config, data")
        return cls(
            DataConfig(**_fields(DataConfig, top["source"], "config, source")),
            DataFacts(**{**data, "classes": tuple(data["classes"]), "clusters": tuple(data.get("clusters", ()))}),
            TrainConfig(**_fields(TrainConfig, top["train"], "config, train")),
            top["version"],
            DistillConfig(**_fields(DistillConfig, top["distill"], "config, distill")) if top.get("distill") else None,
        )


def field_type(f: dataclasses.Field) -> type:
    """The plain type of a field, None put aside: `int` for `int | None`."""
    if isinstance(f.type, types.UnionType):
        return next(t for t in get_args(f.type) if t is not type(None))
    return f.type if isinstance(f.type, type) else type(f.default)


def _fields(cls: type, raw: Any, where: str) -> dict[str, Any]:
    """The values of a stored configuration; a field that is newer than it takes its default."""
    fields = dataclasses.fields(cls)
    needed = {f.name for f in fields if f.default is dataclasses.MISSING}
    if not isinstance(raw, dict) or not needed <= set(raw) <= {f.name for f in fields}:
        odd = sorted(set(raw) - {f.name for f in fields} | needed - set(raw)) if isinstance(raw, dict) else [raw]
        raise UnblotError(f"{where}: fields missing or unknown: {odd}; it was written by another version of unblot")
    return raw
