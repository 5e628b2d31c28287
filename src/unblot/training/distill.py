"""Distillation: a model that takes 1 to 4 evaluations for a picture, made from a trained one.

The noise levels are cut into as many segments as evaluations are wanted, as in multistep consistency models (Heek et
al. 2024). From the beginning of each, the new model learns to go in one deterministic step where its teacher's sampler
goes in several. It is asked at those few levels alone, so it learns at no others; and since the teacher's own way is
the target (as in Luhman & Luhman 2021, here by segments), nothing rests on the new model's own unfinished answers.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unblot
from unblot.config import DistillConfig, RunConfig
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.presets import resolve
from unblot.process.levels import NoiseLevel, corrupt, mix
from unblot.process.schedules import SCHEDULES, SIGMA_MAX, SIGMA_MIN, Schedule
from unblot.run import MODEL, TEACHER, load_model, model_file
from unblot.sampling.draw import sampling_levels
from unblot.sampling.grids import levels_at
from unblot.sampling.guidance import classifier_free
from unblot.sampling.loop import Denoise, sample
from unblot.sampling.multistep import dpmpp_2m
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build, canonical
from unblot.training.checkpoint import checksum

# student, x0 (B, C, H, W), levels (B,), eps, label (B,) or None -> losses (B,)
Losses = Callable[[Denoiser, Tensor, NoiseLevel, Tensor, Tensor | None], Tensor]

RATIOS = {1: (80.0,), 2: (80.0, 1.0), 3: (80.0, 3.0, 0.8), 4: (80.0, 5.0, 1.5, 0.5)}  # sigma/alpha the steps begin at
HUBER = 0.05  # times the data's standard deviation
LEFT = {
    "preview_every",
    "checkpoint_every",
    "held_out_every",
    "log_to",
    "device",
    "precision",
    "compile",
    "shard",
}  # not a teacher's to say
RHO = 7.0  # of the teacher's steps within a segment, as in Karras et al. 2022


def segment(schedule: Schedule, t: NoiseLevel, s: NoiseLevel, steps: int) -> NoiseLevel:
    """The levels (steps + 1,) of the teacher's way from t to s, (sigma/alpha)^(1/7) falling evenly between them."""
    clean = bool(s.sigma == 0)
    high, low = (t.sigma / t.alpha).clamp(max=SIGMA_MAX), (s.sigma / s.alpha).clamp(min=SIGMA_MIN)
    share = torch.linspace(0, 1, steps if clean else steps + 1, dtype=torch.float64)
    ratios = torch.lerp(high ** (1 / RHO), low ** (1 / RHO), share) ** RHO
    inner = levels_at(schedule, ratios[1:] if clean else ratios[1:-1]).at(slice(0, -1))
    return NoiseLevel(*(torch.cat([a[None], b, c[None]]) for a, b, c in zip(t, inner, s, strict=True)))


def one_step_x0(denoise: Denoise, x_t: Tensor, levels: NoiseLevel) -> Tensor:
    """The x0_hat with which one deterministic step leads where the denoiser leads through all of `levels`.

    x_t: (B, C, H, W) at levels.at(0). Where the last level is the clean one, this is the consistency function's value
    (Song et al. 2023), to second order in the length of the steps.
    """

    def no_noise() -> Tensor:
        raise AssertionError("the teacher's solver is deterministic")

    x_s = sample(denoise, x_t, levels, dpmpp_2m(), no_noise)
    t, s = levels.at(0), levels.at(-1)
    shrink = s.sigma / t.sigma
    on_x_s = 1 / (s.alpha - shrink * t.alpha)
    return mix(on_x_s, x_s, -shrink * on_x_s, x_t)


def distillation(teacher: Denoiser, config: RunConfig) -> Losses:
    """The losses of a model that is distilled from `teacher` as `config.distill` says.

    The size of what x0_hat misses of the teacher's, in root mean square per picture, rounded off below HUBER (a
    pseudo-Huber loss, as in Song & Dhariwal 2024), so that every level counts alike.
    """
    choices = config.distill
    assert choices is not None
    schedule = build(SCHEDULES, config.train.schedule, "schedule")
    levels = sampling_levels(config.train.schedule, config.train.grid, config.train.sampling_steps)
    ways = [
        segment(schedule, levels.at(i), levels.at(i + 1), choices.teacher_steps) for i in range(choices.evaluations)
    ]
    teacher = teacher.eval().requires_grad_(False)

    def losses(student: Denoiser, x0: Tensor, level: NoiseLevel, eps: Tensor, label: Tensor | None) -> Tensor:
        x_t = corrupt(x0, level, eps)
        target = torch.empty_like(x_t)
        for way in ways:
            rows = (level.sigma == way.sigma[0]) & (level.alpha == way.alpha[0])
            if bool(rows.any()):
                here = rows.to(x_t.device)
                denoise = teacher if label is None else classifier_free(teacher, label[here], choices.guidance)
                target[here] = one_step_x0(denoise, x_t[here], way)
        missed = (student(x_t, level, label).x0 - target).square().flatten(1).mean(1)
        bend = HUBER * config.train.data_std
        return (missed + bend**2).sqrt() - bend

    return losses


def keep_teacher(folder: Path, teacher: Path) -> None:
    """Copies the model of the run `teacher` into the distilled run's folder, which then needs the other no more."""
    temporary = folder / (TEACHER + ".part")
    shutil.copyfile(model_file(teacher), temporary)
    os.replace(temporary, folder / TEACHER)


def teacher_of(folder: Path, choices: DistillConfig) -> Denoiser:
    """The teacher kept in a distilled run. Raises UnblotError where it is missing, or not the one that began it."""
    path = folder / TEACHER
    if not path.is_file() or checksum(path) != choices.sha256:
        raise UnblotError(
            f"{str(path)!r} is missing or changed; put back the {MODEL} of {choices.teacher!r}, or distill anew"
        )
    return load_model(path)[1]


def student_config(teacher: RunConfig, path: Path, choices: DistillConfig, training: dict[str, Any]) -> RunConfig:
    """The configuration of a run that is distilled from a run; `training`: fields of TrainConfig given by the user.

    Raises UnblotError where the run was distilled itself, or where guidance is asked for without labels.
    """
    if teacher.distill is not None:
        raise UnblotError(
            f"{str(path)!r} was distilled itself, and is no denoiser any more; distill its teacher, "
            f"{teacher.distill.teacher!r}"
        )
    if choices.guidance != 1 and not teacher.data.num_labels:
        raise UnblotError(f"guidance {choices.guidance} pushes towards a label, and {str(path)!r} has none")
    ratios = RATIOS[choices.evaluations]
    taken = {name: value for name, value in dataclasses.asdict(teacher.train).items() if name not in LEFT}
    decided = {
        "budget": "",
        "steps": max(1, teacher.train.steps // 3),
        "learning_rate": teacher.train.learning_rate / 2,
        "decay": "cosine",
        "label_dropout": 0.0 if teacher.data.clusters else teacher.train.label_dropout,  # always drawn with a cluster
        "times": "grid",
        "noise": "independent",
        "grid": "listed:ratios=" + "/".join(f"{ratio:g}" for ratio in ratios),
        "solver": canonical(SOLVERS, "euler", "solver"),
        "sampling_steps": choices.evaluations,
    }
    train = resolve(teacher.data, {**taken, **decided, **training})
    choices = dataclasses.replace(choices, teacher=str(path), sha256=checksum(model_file(path)))
    return dataclasses.replace(teacher, train=train, distill=choices, version=unblot.__version__)
