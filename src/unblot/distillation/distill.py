"""Distillation: a model that takes 1 to 4 evaluations for a picture, made from a trained one.

The noise levels are cut into as many segments as evaluations are wanted, as in multistep consistency models (Heek et
al. 2024). From the beginning of each, the new model learns to go in one deterministic step where its teacher's sampler
goes in several (Luhman & Luhman 2021, here by segments). It is asked at those few levels alone, so it learns at no
others, and where its own steps lead from noise, as in drawing. In the second half of the run the last step is pulled
besides to where pictures are that the teacher would draw (distribution matching, Yin et al. 2024), since the squared
error alone leaves a blur.
"""

import copy
import dataclasses
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unblot._version import __version__
from unblot.config.presets import resolve
from unblot.config.schema import DistillConfig, RunConfig
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.losses import WEIGHTINGS, squared_error
from unblot.process.levels import NoiseLevel, corrupt, mix
from unblot.process.schedules import SCHEDULES, SIGMA_MAX, SIGMA_MIN, Schedule
from unblot.runs.folder import MODEL, TEACHER, load_model, model_file
from unblot.sampling.batched import sampling_levels
from unblot.sampling.guidance import classifier_free, labelled
from unblot.sampling.loop import Denoise, sample
from unblot.sampling.multistep import dpmpp_2m
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import levels_at
from unblot.specs import build, canonical
from unblot.system.files import checksum

RATIOS = {1: (80.0,), 2: (80.0, 1.0), 3: (80.0, 3.0, 0.8), 4: (80.0, 5.0, 1.5, 0.5)}  # sigma/alpha the steps begin at
HUBER = 0.05  # times the data's standard deviation
LEAST = 1e-3  # the same; what a picture and the teacher's view of it must differ by to count in full
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
MATCHED_FROM = 0.5  # of the steps: before, there is only a blur to be matched
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
    x_s = sample(denoise, x_t, levels, dpmpp_2m(), _no_noise)
    t, s = levels.at(0), levels.at(-1)
    shrink = s.sigma / t.sigma
    on_x_s = 1 / (s.alpha - shrink * t.alpha)
    return mix(on_x_s, x_s, -shrink * on_x_s, x_t)


class Distillation:
    """What a student is to learn: to go where its teacher's way leads, and to draw what its teacher would.

    critic: a denoiser that learns what the student draws. Where the teacher sees another picture behind the same noise,
    the student is to go there from where the critic is (Yin et al. 2024): what has been left blurred by the squared
    error, which cannot tell two pictures from their mean, becomes clear.
    """

    def __init__(self, teacher: Denoiser, config: RunConfig):
        assert config.distill is not None
        train = self.train = config.train
        self.guidance = config.distill.guidance
        self.critic = copy.deepcopy(teacher).train()
        self.teacher = teacher.eval().requires_grad_(False)
        self.schedule = build(SCHEDULES, train.schedule, "schedule")
        self.solver = build(SOLVERS, train.solver, "solver")
        self.weighting = build(WEIGHTINGS, train.weighting, "weighting")
        self.levels = sampling_levels(train.schedule, train.spacing, train.sampling_steps)
        pairs = itertools.pairwise(self.levels.at(i) for i in range(len(self.levels.sigma)))
        self.ways = [segment(self.schedule, t, s, config.distill.teacher_steps) for t, s in pairs]

    def losses(
        self,
        student: Denoiser,
        x0: Tensor,
        t: Tensor,
        eps: Tensor,
        second_noise: Tensor,
        label: Tensor | None,
        matches: bool = False,
    ) -> Tensor:
        """What the student misses at the level that falls on time t, (B,); t: (B,) in (0, 1), on the CPU.

        x0, eps, again: pictures and two noises (B, C, H, W). The size of what x0_hat misses of the teacher's, in root
        mean square per picture, rounded off below HUBER (a pseudo-Huber loss, as in Song & Dhariwal 2024), so that
        every level counts alike. `matches`: with the gradients of `matching` in it at the last level.
        """
        steps = len(self.ways)
        place = steps - (t.double() * steps).ceil().long()
        x_t = self.arrived(student, corrupt(x0, self.levels.at(0), eps), place, label)
        target = torch.empty_like(x_t)
        for i, way in enumerate(self.ways):
            if bool((place == i).any()):
                here = (place == i).to(x_t.device)
                target[here] = one_step_x0(self.taught(label, here), x_t[here], way)
        drawn = student(x_t, self.levels.at(place), label).x0
        missed = (drawn - target).square().flatten(1).mean(1)
        bend = HUBER * self.train.data_std
        found = (missed + bend**2).sqrt() - bend
        last = place == steps - 1
        if matches and torch.is_grad_enabled() and bool(last.any()):
            here = last.to(x_t.device)
            within = (t.double() * steps)[last]  # in (0, 1], uniform as t is
            pulls = self.matching(drawn[here], within, second_noise[here], label, here)
            found = found.index_add(0, here.nonzero()[:, 0], pulls)
        return found

    @torch.no_grad()
    def arrived(self, student: Denoiser, x_T: Tensor, place: Tensor, label: Tensor | None) -> Tensor:
        """Where the student itself leads from x_T, each picture as far as its level, number `place` (B,)."""
        x = x_T.clone()
        for i in range(int(place.max())):
            here = (place > i).to(x.device)
            known = None if label is None else label[here]
            x[here] = sample(labelled(student, known), x[here], self.levels.at(slice(i, i + 2)), self.solver, _no_noise)
        return x

    def matching(self, drawn: Tensor, t: Tensor, eps: Tensor, label: Tensor | None, here: Tensor) -> Tensor:
        """Zeros (B,) whose gradients teach the critic `drawn` (B, C, H, W), and pull `drawn` from the critic's
        estimate to the teacher's, behind noise of times t (Yin et al. 2024, eqs. 7 and 8)."""
        level, shown = self.schedule(t), drawn.detach()
        x_t = corrupt(shown, level, eps)
        output = self.critic.output(x_t, level, None if label is None else label[here])
        learned = squared_error(self.critic, output, shown, level, eps, self.weighting(level, self.critic))
        with torch.no_grad():
            false = self.critic.read(output, x_t, level).x0
            true = self.taught(label, here)(x_t, level).x0
            size = (shown - true).abs().mean((1, 2, 3), keepdim=True)
            away = (false - true) / (size + LEAST * self.train.data_std)
        pulled = (drawn * away).flatten(1).mean(1)
        return learned - learned.detach() + pulled - pulled.detach()

    def taught(self, label: Tensor | None, here: Tensor) -> Denoise:
        """The teacher, guided as is to be learned, for those pictures."""
        return self.teacher if label is None else classifier_free(self.teacher, label[here], self.guidance)


def _no_noise() -> Tensor:
    raise UnblotError("a distilled model draws without fresh noise; leave out --solver, or give euler")


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

    Raises UnblotError where the run was distilled itself, where guidance is asked for without labels, or shards.
    """
    if teacher.distill is not None:
        raise UnblotError(
            f"{str(path)!r} was distilled itself, and is no denoiser any more; distill its teacher, "
            f"{teacher.distill.teacher!r}"
        )
    if choices.guidance != 1 and not teacher.data.num_labels:
        raise UnblotError(f"guidance {choices.guidance} pushes towards a label, and {str(path)!r} has none")
    ratios = RATIOS[choices.nfe]
    taken = {name: value for name, value in dataclasses.asdict(teacher.train).items() if name not in LEFT}
    decided = {
        "budget": "",
        "steps": max(1, teacher.train.steps // 2),
        "learning_rate": teacher.train.learning_rate / 2,
        "decay": "cosine",
        "label_dropout": 0.0 if teacher.data.clusters else teacher.train.label_dropout,  # always drawn with a cluster
        "times": "spacing",
        "coupling": "independent",
        "spacing": "listed:ratios=" + "/".join(f"{ratio:g}" for ratio in ratios),
        "solver": canonical(SOLVERS, "euler", "solver"),
        "sampling_steps": choices.nfe,
    }
    train = resolve(teacher.data, {**taken, **decided, **training})
    if train.shard == "on":
        raise UnblotError("a distillation keeps its networks whole in every process; leave out --shard on")
    choices = dataclasses.replace(choices, teacher=str(path), sha256=checksum(model_file(path)))
    return dataclasses.replace(teacher, train=train, distill=choices, version=__version__)
