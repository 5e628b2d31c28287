"""The weights of a run as the last step left them, instead of their average."""

import dataclasses

from unblot.errors import UnblotError, arg
from unblot.runs.folder import fitted, frozen_weights, read_config
from unblot.runs.run import Run
from unblot.training.checkpoint import TENSORS, load_newest, run_identity

WEIGHTS = "weights/denoiser/"


def with_raw_weights(run: Run) -> Run:
    """The run with the weights of its newest checkpoint. Raises UnblotError where there is none."""
    tensors, _ = load_newest(run.path, identity=run_identity(read_config(run.path)))
    raw = {name.removeprefix(WEIGHTS): tensor for name, tensor in tensors.items() if name.startswith(WEIGHTS)}
    if not raw:
        raise UnblotError(f"run {str(run.path)!r} was distilled and keeps no {arg('raw', True)} weights; leave it out")
    denoiser = fitted(run.config, raw | frozen_weights(run.denoiser), run.path / TENSORS)
    return dataclasses.replace(run, denoiser=denoiser.to(run.device))
