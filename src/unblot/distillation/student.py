"""A distilled run: its configuration, made from its teacher's, and the copy of the teacher that it keeps."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from unblot._version import __version__
from unblot.config.distill import DistillConfig
from unblot.config.presets import resolve
from unblot.config.schema import RunConfig
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg
from unblot.runs.adapter import merged
from unblot.runs.choosing import guidance_as_trained
from unblot.runs.folder import MODEL, TEACHER, load_model, model_file
from unblot.sampling.solvers import SOLVERS
from unblot.specs import canonical
from unblot.system.files import checksum, write_whole

RATIOS = {1: (80.0,), 2: (80.0, 1.0), 3: (80.0, 3.0, 0.8), 4: (80.0, 5.0, 1.5, 0.5)}  # sigma/alpha where steps begin
OWN = (  # choices that a student does not take from its teacher
    *("preview_every", "checkpoint_every", "held_out_every", "log_to"),
    *("device", "precision", "compile", "shard"),
)


def keep_teacher(folder: Path, teacher: Path) -> None:
    """Copies the model of the run `teacher` into the distilled run's folder, which then no longer needs that run."""
    write_whole(folder / TEACHER, lambda path: shutil.copyfile(model_file(teacher), path))


def read_teacher(path: Path) -> tuple[RunConfig, Denoiser]:
    """The config and the denoiser of a run to distill from; an adapter is part of its weights."""
    return merged(*load_model(path))


def teacher_of(folder: Path, choices: DistillConfig) -> Denoiser:
    """The teacher kept in a distilled run. Raises UnblotError where it is missing or another than at the beginning."""
    path = folder / TEACHER
    if not path.is_file() or checksum(path) != choices.sha256:
        raise UnblotError(
            f"{str(path)!r} is missing or changed; put back the {MODEL} of {choices.teacher!r}, or distill again"
        )
    return read_teacher(path)[1]


def student_config(teacher: RunConfig, path: Path, choices: DistillConfig, training: dict[str, Any]) -> RunConfig:
    """The configuration of a run that is distilled from a run; `training`: fields of TrainConfig given by the user.

    Raises UnblotError where the run was distilled itself, where guidance is asked for that its model does not know, for
    sharding with captions, and for other times than those of the student's own steps.
    """
    if teacher.distill is not None:
        raise UnblotError(
            f"{str(path)!r} was distilled itself and no longer is a denoiser of every level; distill its teacher, "
            f"{teacher.distill.teacher!r}"
        )
    if choices.guidance is None:
        choices = dataclasses.replace(choices, guidance=guidance_as_trained(teacher))
    if choices.guidance != 1 and not (teacher.data.num_labels or teacher.data.text):
        raise UnblotError(f"{arg('guidance', choices.guidance)} pushes towards a label, and {str(path)!r} has none")
    if choices.guidance != 1 and not teacher.train.label_dropout:
        raise UnblotError(
            f"{arg('guidance', choices.guidance)} needs a model that also knows pictures without a label, and "
            f"{str(path)!r} was trained with {arg('label_dropout', 0.0)}; leave out {arg('guidance')}"
        )
    ratios = RATIOS[choices.nfe]
    taken = {name: value for name, value in dataclasses.asdict(teacher.train).items() if name not in OWN}
    decided = {
        "budget": "",
        "steps": max(1, teacher.train.steps // 2),
        "learning_rate": teacher.train.learning_rate / 2,
        "decay": "cosine",
        # a student is not guided, and samples have a label where no text says what they show
        "label_dropout": 0.0 if teacher.label_shares and not teacher.data.text else teacher.train.label_dropout,
        "times": "spacing",
        "coupling": "independent",
        "spacing": "listed:ratios=" + "/".join(f"{ratio:g}" for ratio in ratios),
        "solver": canonical(SOLVERS, "euler", "solver"),
        "sampling_steps": choices.nfe,
    }
    train = resolve(teacher.x0_facts, {**taken, **decided, **training})
    if train.shard == "on" and teacher.data.text:
        raise UnblotError(f"a text encoder is whole in every process; leave out {arg('shard', 'on')}")
    if train.times != "spacing":
        raise UnblotError(
            f"a distillation trains at the levels of the student's own steps; leave out {arg('times', train.times)}"
        )
    choices = dataclasses.replace(choices, teacher=str(path), sha256=checksum(model_file(path)))
    return dataclasses.replace(teacher, train=train, distill=choices, version=__version__)
