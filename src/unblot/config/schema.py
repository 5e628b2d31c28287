"""What a run is: the choices that were made and the data that it learned from, as plain frozen values.

Nothing here imports PyTorch, so that the command line, which is made from these fields, answers at once. Choices among
named things (a network, a schedule, a solver) are specs such as `unet:width=96,blocks=2`; see `specs.py`.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from unblot.config.distill import DistillConfig
from unblot.config.latent import LatentConfig
from unblot.config.options import MOST_STEPS, SPEC, Checked, device_option, option
from unblot.config.transfer import AdapterFacts, Origin
from unblot.errors import UnblotError, arg
from unblot.system.stored import convert_stored

MOST_VALUES = 2**28  # of one picture
OTHER_VERSION = "it is damaged, or another version of unblot wrote it"


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Which pictures to learn from, and how they are read."""

    data: str = option(
        "a folder, archive or array file of pictures, or built-in data", "data", "DATA", default="digits"
    )
    size: str | None = option(
        "height and width of the pictures, as 48x64, or 64 for both (default: that of the data)",
        "data",
        "HxW",
        default=None,
    )
    fit: str = option("how pictures reach the size: crop, pad or stretch", "data", "HOW", default="crop")
    colour: str = option("colour channels (default: those of the data)", "data", "COLOUR", table="COLOURS", default="")
    background: str = option(
        "colour to lay transparent pictures over (default: opacity is kept)", "data", "COLOUR", default=""
    )
    unlabelled: bool = option("ignore the labels of the data", "data", default=False)
    uncaptioned: bool = option("ignore the captions of the data", "data", default=False)
    pages: str = option("what the pages of a TIFF are: pictures or channels", "data", "WHAT", default="")
    on_broken: str = option("pictures that cannot be read: stop, or skip them", "data", "WHAT", default="stop")
    held_out: float = option(
        "share of the pictures that is not trained on, to measure on; at least 48, of a small set at most a fifth",
        "data",
        "SHARE",
        low=0,
        high=0.9,
        default=0.05,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", str(self.data))
        if self.size is not None:
            size = self.size if isinstance(self.size, list | tuple) else [self.size]
            object.__setattr__(self, "size", "x".join(map(str, size)))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """Every choice of a training run. The preset decides the fields without a default, from the data."""

    preset: str = option("recipe for all that is not given", "recipe", "NAME", table="PRESETS", default="default")
    network: str = option(
        "network (options left out have its own defaults, not those of the recipe)", "recipe", SPEC, table="NETWORKS"
    )
    parameterization: str = option("what the network predicts", "recipe", "NAME", table="PARAMETERIZATIONS")
    schedule: str = option("noise levels to train on", "recipe", SPEC, table="SCHEDULES")
    times: str = option("how the noise level of a picture is chosen", "recipe", "NAME", table="TIMES")
    coupling: str = option(
        "which noise goes to which picture", "recipe", "NAME", table="COUPLINGS", default="independent"
    )
    objective: str = option("loss", "recipe", SPEC, table="OBJECTIVES", default="simple")
    weighting: str = option("weight of the loss by noise level", "recipe", SPEC, table="WEIGHTINGS")
    data_std: float = option("standard deviation of the data in the network's range", "recipe", "X", low=1e-6)
    spectrum: str = option(
        "preconditioning by the power of each frequency in the data", "recipe", "NAME", table="SPECTRA", default="none"
    )
    augment: str = option(
        "augmentation (`unblot doctor` says which turns are safe; non_leaking suits small data sets)",
        "recipe",
        SPEC,
        table="AUGMENTATIONS",
        default="none",
    )
    clusters: int = option("clusters to learn as labels, for data without labels", "recipe", "N", low=0)
    text_encoder: str = option(
        "what reads the captions (default: transformer, where there are captions)",
        "recipe",
        SPEC,
        table="TEXT_ENCODERS",
        default="none",
    )
    label_dropout: float = option(
        "share of labels and captions hidden in training, for guidance (default: 0.05 with captions, else 0.15)",
        "recipe",
        "SHARE",
        low=0,
        high=1,
        default=0.15,
    )

    budget: str = option(
        "time to train, as 20m or 1h30m, instead of a number of steps", "optimisation", "TIME", default=""
    )
    steps: int = option("number of training steps", "optimisation", "N", low=1)
    batch_size: int = option("pictures in a step", "optimisation", "N", low=1)
    learning_rate: float = option("highest learning rate", "optimisation", "X", low=0)
    warmup: float = option(
        "share of the steps in which the learning rate rises", "optimisation", "SHARE", low=0, high=1
    )
    decay: str = option("how the learning rate falls afterwards", "optimisation", "NAME", table="DECAYS")
    optimizer: str = option("optimizer", "optimisation", SPEC, table="OPTIMIZERS")
    weight_decay: float = option(
        "decoupled weight decay, times the learning rate", "optimisation", "X", low=0, default=0.0
    )
    clip_norm: float = option("largest norm of the gradients", "optimisation", "X", low=1e-6, default=1.0)
    ema: str = option("averages of the weights, joined by +; the first one samples", "optimisation", SPEC, table="EMAS")

    spacing: str = option("noise levels that sampling visits", "sampling", SPEC, table="SPACINGS")
    solver: str = option("solver of sampling", "sampling", SPEC, table="SOLVERS")
    sampling_steps: int = option("steps from noise to picture", "sampling", "N", low=1, high=MOST_STEPS)

    seed: int = option("seed of every random number", "run", "N", low=0, default=0)
    device: str = device_option("run")
    precision: str = option("fp32, bf16, or auto: bf16 on a GPU that has it", "run", "NAME", default="auto")
    compile: str = option("torch.compile: on, off, or auto: on a GPU where it pays", "run", "WHEN", default="auto")
    shard: str = option(
        "split the network among processes: on, off, or auto: if it does not fit", "run", "WHEN", default="auto"
    )
    log_every: int = option("steps between two lines of metrics", "run", "N", low=1, default=10)
    held_out_every: int | None = option(
        "steps between two measurements of the held-out loss; 0 for none (default: about 30 in a run)",
        "run",
        "N",
        low=0,
        default=None,
    )
    log_to: str = option("send the metrics to wandb, trackio or wandb+trackio as well", "run", "NAME", default="")
    preview_every: int = option(
        "steps between two preview grids; 0 for none (default: a fifth of the steps)", "run", "N", low=0
    )
    checkpoint_every: int = option(
        "steps between two checkpoints (default: a fifth of the steps, at most 1000)", "run", "N", low=1
    )


@dataclass(frozen=True)
class TextFacts:
    """What a run must know of its captions, to read a prompt as they were read.

    merges: of the byte-pair encoding, in the order in which they were learned, one a line: two tokens with a space
    between. words: those of the captions, the commonest first, with spaces between. length: of a caption, in tokens.
    pictures: how many have captions. cut: how many captions were too long and were cut.
    """

    merges: str
    words: str
    length: int
    pictures: int
    cut: int = 0


@dataclass(frozen=True)
class DataFacts:
    """What a run must know of its data to rebuild the network and to give samples the values of the data.

    `values` is `ValueMap.to_dict()`; `std` the standard deviation in the network's range; `count` the number of
    training pictures; `clusters` the share of them in each cluster, where clusters are learned as labels; `shares` in
    each class, empty in runs up to November 2026; `spectrum` the text of a `process.spectrum.Spectrum`, empty for
    points; `latent_spectrum` that of the latents, empty for pixels and until there are any; `text` what the run learned
    from captions, None where it reads none. Raises UnblotError for numbers that no data has.
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
    shares: tuple[float, ...] = ()
    spectrum: str = ""
    latent_spectrum: str = ""
    text: TextFacts | None = None

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or math.prod(self.shape) > MOST_VALUES:
            raise UnblotError(f"pictures of {self.height}x{self.width} with {self.channels} channels are impossible")
        shares = (*self.clusters, *self.shares)
        if not (self.count >= 0 and math.isfinite(self.std) and all(0 <= share <= 1 for share in shares)):
            raise UnblotError("count, std, clusters or shares of the data are out of range")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        return self.channels, self.height, self.width

    @property
    def num_labels(self) -> int:
        """The number of labels that the network knows: of classes or of clusters."""
        return len(self.classes) or len(self.clusters)

    @property
    def kind(self) -> str:
        """ "points" for points in the plane, which are stored as pictures of one pixel with two channels."""
        return "points" if self.shape == (2, 1, 1) else "pictures"


def latent_facts(data: DataFacts, latent: LatentConfig) -> DataFacts:
    """The facts of the latents of this data."""
    channels, factor = latent.latent_channels, latent.latent_factor
    return dataclasses.replace(
        data,
        channels=channels,
        height=-(-data.height // factor),
        width=-(-data.width // factor),
        values={"dtype": "float32", "offset": [0.0] * channels, "scale": [1.0] * channels, "alpha": False},
        std=1.0,
        spectrum=data.latent_spectrum,
    )


@dataclass(frozen=True)
class RunConfig:
    """Everything needed to rebuild a run's model, and to say how it was made. origin: of a run that began with weights
    of another. code: the version of an own network's code, "" for networks of unblot's. adapter: of a run that trained
    nothing else."""

    source: DataConfig
    data: DataFacts
    train: TrainConfig
    version: str
    distill: DistillConfig | None = None
    latent: LatentConfig | None = None
    origin: Origin | None = None
    code: str = ""
    adapter: AdapterFacts | None = None

    @property
    def x0_facts(self) -> DataFacts:
        """What the denoiser learns: the pictures, or their latents, whose standard deviation is 1."""
        return self.data if self.latent is None else latent_facts(self.data, self.latent)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the denoiser learns."""
        return self.x0_facts.shape

    @property
    def draws_labels(self) -> bool:
        """Whether it learned with labels of classes, and draws by class. One that adds to another run, or was distilled
        from an imported one, may have learned without labels from pictures; it keeps the classes of its source."""
        return bool(self.data.classes) and not self.source.unlabelled

    @property
    def label_shares(self) -> tuple[float, ...]:
        """How often each label comes, of classes or clusters, in what the run learned from; equal where that is not
        known, and empty for a run without labels."""
        if not self.draws_labels:
            return self.data.clusters
        return self.data.shares or (1 / len(self.data.classes),) * len(self.data.classes)

    def need_pixels(self, what: str) -> None:
        """Raises UnblotError for a run in latents, where `what` has no meaning."""
        if self.latent is not None:
            raise UnblotError(
                f"{what} works on pixels, and this run learned latents of {self.latent.latent_factor}x"
                f"{self.latent.latent_factor} pixels; use a run that was trained with {arg('pixels', True)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = dataclasses.asdict(self)
        return {
            k: v for k, v in plain.items() if v or k not in ("origin", "code", "adapter")
        }  # others are stored as ever

    @classmethod
    def from_dict(cls, raw: Any) -> "RunConfig":
        """The inverse of `to_dict`. Raises UnblotError for a field that is missing, unknown or of a wrong type."""
        return convert_stored(raw, cls, "config", OTHER_VERSION)
