"""The weights of a run as the last step left them, instead of their average."""

import dataclasses

from unblot.errors import UnblotError, arg
from unblot.runs.folder import CHECKPOINTS, fitted, frozen_weights, read_config
from unblot.runs.run import Run
from unblot.system.files import under
from unblot.training.checkpoint import load_newest, run_identity, steps_saved

WEIGHTS = "weights/denoiser/"


def with_raw_weights(run: Run) -> Run:
    """The run with the weights of its newest checkpoint. Raises UnblotError where none are kept."""
    if run.config.adapter is not None:
        raise UnblotError(f"run {str(run.path)!r} trained an adapter alone; leave out {arg('raw', True)}")
    kept = steps_saved(run.path)
    tensors = load_newest(run.path, identity=run_identity(read_config(run.path)))[0] if kept else {}
    raw = under(WEIGHTS, tensors)
    if not raw:
        raise UnblotError(f"run {str(run.path)!r} keeps averaged weights alone; leave out {arg('raw', True)}")
    denoiser = fitted(run.config, raw | frozen_weights(run.denoiser), run.path / CHECKPOINTS)
    return dataclasses.replace(run, denoiser=denoiser.to(run.device))
