"""Checkpoints: all that a run needs to go on exactly, in one folder a step.

    checkpoints/00001000/state.safetensors     weights, their averages, the optimizers' moments
    checkpoints/00001000/state.json            step, length of the metrics, held-out loss, …; checksums; the run

A checkpoint is written under another name, flushed to disk and then renamed: one that can be seen is complete.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unblot.config.schema import RunConfig
from unblot.errors import UnblotError, arg
from unblot.runs.folder import BEST, CHECKPOINTS, CONFIG, METRICS, MODEL, PLAN, SNAPSHOTS, TEACHER
from unblot.system.files import checksum, flush, read_tensors, write_json, write_tensors
from unblot.system.stored import read_stored
from unblot.training.first_stage import FILE as AUTOENCODER

TENSORS, STATE = "state.safetensors", "state.json"
KEEP = 2  # newest checkpoints kept, besides the one of least held-out loss
FREE = (  # choices that may change while a run goes on
    *("steps", "budget", "device", "precision", "compile", "shard", "log_to"),
    *("log_every", "held_out_every", "preview_every", "checkpoint_every"),
)


class ForeignError(UnblotError):
    """A checkpoint of another run, or of another configuration."""


def run_identity(config: RunConfig) -> str:
    """A hash of everything that makes a run what it is: data, recipe, seed and, of a distillation, the teacher."""
    train = {name: value for name, value in dataclasses.asdict(config.train).items() if name not in FREE}
    distill = None if config.distill is None else dataclasses.asdict(config.distill)
    parts = {"latent": config.latent, "origin": config.origin, "adapter": config.adapter}
    more = {name: dataclasses.asdict(part) for name, part in parts.items() if part is not None}
    more.get("latent", {}).pop("adversarial_steps", None)  # of what comes after the last step
    data = dataclasses.asdict(config.data)
    del data["latent_spectrum"]  # it follows from the rest
    return _digest({"data": data, "train": train, "distill": distill, **more})


def model_name(config: RunConfig) -> str:
    """The name of the run's model among what was trained: `weights/NAME/…` and `buffers/NAME/…` in its checkpoints."""
    return "denoiser" if config.distill is None else "student"


def save(run: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], identity: str) -> Path:
    """Writes checkpoint `step`, then deletes all but the newest few and the best.

    state: plain JSON values. identity: of the run, see `run_identity`. Raises UnblotError where something else lies at
    its place; files of others in its folder stay.
    """
    place = run / CHECKPOINTS / f"{step:08d}"
    temporary = place.with_name(place.name + ".part")
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise UnblotError(f"{str(place)!r} is no folder, and a checkpoint is to be written there; move it away")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        write_tensors(temporary / TENSORS, tensors, {})
        whole = {**state, "step": step, "run": identity, "sha256": checksum(temporary / TENSORS)}
        write_json(temporary / STATE, {**whole, "state_sha256": _digest(whole)})
        for file in temporary.iterdir():
            flush(file)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _remove(place)
    if place.is_dir():  # it holds files that are not ours, which stay
        for name in (TENSORS, STATE):  # without its state it is no checkpoint
            os.replace(temporary / name, place / name)
        temporary.rmdir()
        flush(place)
    else:
        os.replace(temporary, place)
    flush(place.parent)
    for old in set(steps_saved(run)[:-KEEP]) - {best_saved(run)}:
        _remove(run / CHECKPOINTS / f"{old:08d}")
    return place


def _remove(place: Path) -> None:
    """Removes a checkpoint, and its folder where nothing else is in it."""
    for name in (STATE, TENSORS):
        (place / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it is missing, or holds files that are not ours
        place.rmdir()


def steps_saved(run: Path) -> list[int]:
    """The steps that have a checkpoint, oldest first."""
    places = (p for p in (run / CHECKPOINTS).glob("*") if p.name.isdigit())
    return sorted(int(p.name) for p in places if (p / TENSORS).exists() or (p / STATE).exists())


def best_saved(run: Path) -> int | None:
    """The step of the checkpoint of least held-out loss, as last measured before it; None where it was not measured.

    Not the untrained weights, at step 0.
    """
    losses = {step: loss for step, state in _states(run) if step and (loss := state.get("held_out_loss")) is not None}
    return min(losses, key=lambda step: losses[step]) if losses else None


def load_newest(
    run: Path, warn: Callable[[str], None] = print, identity: str = "", prefixes: tuple[str, ...] = ("",)
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of the newest complete checkpoint; `warn(line)` gets a line for each damaged one passed over.

    identity: of the run that the checkpoint must belong to, "" for any. prefixes: of the tensors that are read. Raises
    UnblotError where there is none.
    """
    foreign = None
    for step in reversed(steps_saved(run)):
        try:
            return load(run, step, identity, prefixes)
        except UnblotError as error:
            foreign = error if isinstance(error, ForeignError) else foreign
            warn(f"checkpoint passed over: {error}")
    if foreign is not None:
        raise UnblotError(
            f"the checkpoints of {str(run)!r} do not fit its {CONFIG}; put that back as it was written ({foreign})"
        )
    way_out = f"train it again from the start with {arg('overwrite')}"
    raise UnblotError(f"run {str(run)!r} has no checkpoint to go on from; {way_out}")


def newest_state(run: Path) -> dict[str, Any]:
    """The state of the newest checkpoint whose state is undamaged, without its tensors; {} where there is none."""
    return next((state for _, state in reversed(_states(run))), {})


def state_to_go_on(run: Path) -> dict[str, Any]:
    """`newest_state` of a run that is to go on. Raises UnblotError for an imported one, which would begin anew."""
    if (run / MODEL).exists() and not (run / METRICS).exists() and not steps_saved(run):
        raise UnblotError(
            f"run {str(run)!r} was imported and has no checkpoint to go on from; train a new run from its weights with "
            f"{arg('from_', str(run))}"
        )
    return newest_state(run)


def load(
    run: Path, step: int, identity: str = "", prefixes: tuple[str, ...] = ("",)
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of the checkpoint of a step, verified by checksum; tensors whose names begin with a prefix.

    Raises UnblotError where it is damaged, and ForeignError where it belongs to another run than `identity`.
    """
    place = run / CHECKPOINTS / f"{step:08d}"
    state = _read_state(place / STATE)
    if state.get("step") != step or identity not in ("", state.get("run")):
        raise ForeignError(f"{str(place)!r} belongs to another run, or to another configuration of this one")
    try:
        sound = checksum(place / TENSORS) == state.get("sha256")
    except OSError as error:
        raise UnblotError(f"{str(place)!r} cannot be read ({error.strerror})") from None
    if not sound:
        raise UnblotError(f"{str(place / TENSORS)!r} is damaged: its checksum is not the one that was stored")
    return read_tensors(place / TENSORS, prefixes)[0], state


def other_threads(state: Mapping[str, Any]) -> str | None:
    """What to say where a run goes on with another number of CPU threads than it was saved with."""
    threads = torch.get_num_threads()
    if state["threads"] == threads:
        return None
    return (
        f"note: the run has used {state['threads']} CPU threads, now it uses {threads}: it goes on, but not to the "
        "last bit as with the same number (OMP_NUM_THREADS)"
    )


def remove_unfinished(run: Path) -> None:
    """Removes what a run that was killed while it wrote has left: our own files under their temporary names."""
    for folder in (run / CHECKPOINTS).glob("[0-9]*.part"):
        shutil.rmtree(folder, ignore_errors=True)
    ours = [path for name in (MODEL, BEST, TEACHER, AUTOENCODER, CONFIG, PLAN) for path in run.glob(f".{name}.*.part")]
    for path in (*ours, *(run / SNAPSHOTS).glob(".[0-9]*.safetensors.*.part")):
        path.unlink(missing_ok=True)


def _states(run: Path) -> list[tuple[int, dict[str, Any]]]:
    """The undamaged states, without their tensors, oldest first."""
    found = []
    for step in steps_saved(run):
        try:
            found.append((step, _read_state(run / CHECKPOINTS / f"{step:08d}" / STATE)))
        except UnblotError:
            continue
    return found


def _read_state(path: Path) -> dict[str, Any]:
    """A checkpoint's state. Raises UnblotError where it is damaged: it holds a checksum of all its values."""
    state = read_stored(path, dict[str, Any], "it is damaged")
    if state.pop("state_sha256", None) != _digest(state):
        raise UnblotError(f"{str(path)!r} is damaged: its checksum is not the one that was stored")
    return state


def _digest(value: Any) -> str:
    """SHA-256 of plain JSON values, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
