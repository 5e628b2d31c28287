"""A checkpoint of improved-diffusion or guided-diffusion, a file of named tensors alone, as a run.

The file says what the network is, but for the heads of its attention. It does not say the size of its pictures, nor
the schedule. Those are the user's to say.
"""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from unblot.config.export import ImportConfig
from unblot.data.image_spec import parse_size
from unblot.errors import UnblotError, arg
from unblot.interchange import betas, unet_model
from unblot.interchange.imported import Imported, Known, config_of_known, importing
from unblot.interchange.pickled import read_pickled, state_dict
from unblot.interchange.strangers import PICKLED, refuse_file
from unblot.interchange.unet_model import Heads, UNetModel
from unblot.process.schedules import SCHEDULES, schedule_index
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build, canonical, parse
from unblot.system.files import read_tensors

SOLVER = canonical(SOLVERS, "ddpm:variance=beta", "solver")  # what those trainers draw with


def read_checkpoint(path: Path, choices: ImportConfig) -> Imported:
    """The run that a checkpoint becomes. Raises UnblotError for another file, and where choices are missing."""
    weights = _weights(path)
    with importing(path):
        model = unet_model.described(weights)
        size = parse_size(choices.size)
        if size is None:
            raise UnblotError(f"it does not say the size of its pictures; give it, as in {arg('size', 64)}")
        heads, schedule = heads_of(choices), canonical(SCHEDULES, choices.schedule or "linear", "schedule")
        index = index_of(schedule, choices.own_timesteps)
        known = Known(
            name=path.stem,
            network=unet_model.network_of(model, heads, index),
            schedule=schedule,
            parameterization="eps",
            solver=SOLVER,
            channels=model.channels,
            size=size,
            labels=model.labels,
        )
        config = config_of_known(known)
        tensors = unet_model.renamed(weights, model, heads)
    return Imported(config, tensors, path, tuple(lines(model, choices, schedule)))


def heads_of(choices: ImportConfig) -> Heads:
    """The attention heads that the user says. Raises UnblotError where that is nothing, or both."""
    if (choices.heads is None) == (choices.head_channels is None):
        raise UnblotError(
            f"its tensors do not say how many attention heads it has; give {arg('heads', 4)}, the default there, or "
            f"{arg('head_channels', 64)}, as for most networks of guided-diffusion"
        )
    return Heads(choices.heads or 0, choices.head_channels or 0, choices.new_attention_order)


def index_of(schedule: str, own_timesteps: bool) -> str:
    """The option `index` of the network. Raises UnblotError for a schedule without a table."""
    schedule_index(schedule)
    build(SCHEDULES, schedule, "schedule")
    _, options = parse(SCHEDULES, schedule, "schedule")
    return betas.index_of(schedule) if own_timesteps or options["steps"] == 1000 else "rescaled"


def lines(model: UNetModel, choices: ImportConfig, schedule: str) -> list[str]:
    """What was taken for granted, and what was left out."""
    told = []
    if choices.schedule is None:
        told.append(
            f"the file does not say its schedule; it is taken to predict eps on DDPM's 1000 linear betas, and "
            f"{arg('schedule', 'cosine:steps=4000')} says another"
        )
    if model.learned_variance:
        told.append("its learned variance is left out, since the solvers here take the estimate of the picture alone")
    told.append(f"its trainer keeps x0_hat in range; sample with {arg('threshold', 'static')} to do the same")
    return told


def _weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a UNetModel. Raises UnblotError, with what it is, for any other file."""
    if path.suffix in PICKLED and unet_model.FIRST in (found := read_pickled(path)):
        return state_dict(found, path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as f:
                known = unet_model.FIRST in f.keys()  # noqa: SIM118
        except (SafetensorError, ValueError, OSError):
            known = False
        if known:
            return read_tensors(path)[0]
    refuse_file(path)
