"""The weights of a run as the last step left them, instead of their average."""

import dataclasses

from unblot.errors import UnblotError, arg
from unblot.runs.folder import CHECKPOINTS, fitted, frozen_weights, read_config
from unblot.runs.run import Run
from unblot.system.files import under
from unblot.training.checkpoint import load_newest, model_name, run_identity, steps_saved


def with_raw_weights(run: Run) -> Run:
    """The run with the weights of its newest checkpoint. Raises UnblotError where none are kept."""
    if run.config.adapter is not None:
        raise UnblotError(f"run {str(run.path)!r} trained an adapter alone; leave out {arg('raw', True)}")
    if not steps_saved(run.path):
        raise UnblotError(f"run {str(run.path)!r} keeps averaged weights alone; leave out {arg('raw', True)}")
    weights, buffers = (f"{part}/{model_name(run.config)}/" for part in ("weights", "buffers"))
    identity = run_identity(read_config(run.path))
    tensors, _ = load_newest(run.path, identity=identity, prefixes=(weights, buffers))
    raw = under(weights, tensors) | frozen_weights(run.denoiser) | under(buffers, tensors)
    return dataclasses.replace(run, denoiser=fitted(run.config, raw, run.path / CHECKPOINTS).to(run.device))
