"""The distillation task: a student of 1 to 4 steps learns from a trained denoiser.

The noise levels are cut into as many segments as the student has steps, as in multistep consistency models (Heek et al.
2024). From the beginning of each, the student learns to go in one deterministic step where its teacher's sampler goes
in several (Luhman & Luhman 2021, here by segments). It is trained at these few levels alone, at the points that its own
steps reach from noise, as in sampling. In the second half of the run the last step is also trained by distribution
matching (Yin et al. 2024), since the squared error alone leaves a blur.
"""

import copy
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unblot.config.schema import RunConfig
from unblot.data.dataset import Dataset
from unblot.denoiser import Condition, Denoiser
from unblot.distillation.targets import one_step_x0, segment
from unblot.errors import arg
from unblot.latent.latents import with_latents
from unblot.losses import WEIGHTINGS, squared_error
from unblot.process.levels import corrupt
from unblot.process.schedules import SCHEDULES
from unblot.sampling.batched import sampling_levels
from unblot.sampling.guidance import Guidance, bind, guided
from unblot.sampling.loop import Denoise, no_noise, sample
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build
from unblot.system.device import available_device, mixed_precision
from unblot.system.distributed import Group
from unblot.system.sharding import is_shared
from unblot.training.batches import Batch, BatchMaker, training_schedule
from unblot.training.captions import remember_captions

HUBER = 0.05  # times the data's standard deviation
LEAST = 1e-3  # the same: the least distance from the teacher's estimate by which a gradient is divided
MATCHED_FROM = 0.5  # share of the steps: before, the student's samples are only a blur


class DistillationTask:
    """What a student learns: to step where its teacher's trajectory leads, and to have its teacher's distribution.

    critic: a denoiser that is trained on the student's samples. Where teacher and critic see another picture behind the
    same noise, the student is moved from the critic's towards the teacher's (Yin et al. 2024). This sharpens what the
    squared error, which cannot tell two pictures from their mean, has left blurred.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, teacher: Denoiser):
        assert config.distill is not None
        train = self.train = config.train
        self.device = available_device(train.device)
        self.autocast()  # refuses what the device does not have
        self.guidance = 1.0 if config.distill.guidance is None else config.distill.guidance
        teacher = teacher.to(self.device)
        remember_captions(teacher, dataset)
        self.denoiser, self.critic = copy.deepcopy(teacher), copy.deepcopy(teacher).train()
        self.teacher = teacher.eval().requires_grad_(False)
        self.learners: Mapping[str, nn.Module] = {"student": self.denoiser, "critic": self.critic}
        if teacher.autoencoder is not None:
            dataset = with_latents(dataset, teacher.autoencoder)
        # The teacher has learned from augmented pictures; its student sees pictures as they are.
        self.batches = BatchMaker(config, dataset, augment="none", second_noise=True)
        self.schedule = training_schedule(train)
        self.every_level = build(SCHEDULES, train.schedule, "schedule")
        self.solver = build(SOLVERS, train.solver, "solver")
        self.weighting = build(WEIGHTINGS, train.weighting, "weighting")
        self.levels = sampling_levels(train.schedule, train.spacing, train.sampling_steps)
        pairs = itertools.pairwise(self.levels.at(i) for i in range(len(self.levels.sigma)))
        self.segments = [segment(self.every_level, t, s, config.distill.teacher_steps) for t, s in pairs]

    def autocast(self) -> torch.autocast:
        """The context in which the networks compute."""
        return mixed_precision(self.train.precision, self.device)

    def losses(self, batch: Batch, done: float) -> dict[str, Tensor]:
        """Regression of the student; from half of the run on also distribution matching, and the critic's loss.

        Each (B,). Those of matching and of the critic are 0 at pictures that are not at the last level.
        """
        with self.autocast():
            place = self.place(batch.t)
            x0, losses = self.regression(batch, place)
            if done < MATCHED_FROM:
                return {"student": losses}
            found = {"student": losses, "matching": torch.zeros_like(losses), "critic": torch.zeros_like(losses)}
            last = place == len(self.segments) - 1
            chosen = last.nonzero()[:, 0]
            if not len(chosen) and is_shared(next(self.critic.parameters())):
                chosen = torch.zeros(1, dtype=torch.int64)  # all processes call the critic, or none; this one counts 0
            if len(chosen):
                assert batch.second_noise is not None
                counts, within = last[chosen], batch.t.double()[chosen] * len(self.segments)
                within = torch.where(counts, within, 1.0)  # in (0, 1], uniform as t is
                chosen, counts = chosen.to(self.device), counts.to(self.device)
                condition = batch.condition.rows(chosen)
                for name, loss in self.matching(x0[chosen], within, batch.second_noise[chosen], condition).items():
                    found[name] = found[name].index_add(0, chosen, loss * counts)
            return found

    def measured(self, batch: Batch) -> Tensor:
        """The student's regression loss, (B,)."""
        with self.autocast():
            return self.regression(batch, self.place(batch.t))[1]

    def place(self, t: Tensor) -> Tensor:
        """The number of the segment, noisiest first, that each time t (B,) in (0, 1) falls on."""
        steps = len(self.segments)
        return steps - (t.double() * steps).ceil().long()

    def regression(self, batch: Batch, place: Tensor) -> tuple[Tensor, Tensor]:
        """The student's x0_hat (B, C, H, W) at the beginning of segment number `place` (B,), and its loss (B,).

        The loss is the root mean square error per picture against the target, rounded off below HUBER (a pseudo-Huber
        loss, as in Song & Dhariwal 2024), so that every level counts alike.
        """
        x_t = self.reached(corrupt(batch.x0, self.levels.at(0), batch.eps), place, batch.condition)
        target = torch.empty_like(x_t)
        for i, levels in enumerate(self.segments):
            if bool((place == i).any()):
                here = (place == i).to(x_t.device)
                target[here] = one_step_x0(self.guided_teacher(batch.condition.rows(here)), x_t[here], levels)
        x0 = self.denoiser(x_t, self.levels.at(place), batch.condition).x0
        error = (x0 - target).square().flatten(1).mean(1)
        bend = HUBER * self.train.data_std
        return x0, (error + bend**2).sqrt() - bend

    @torch.no_grad()
    def reached(self, x_T: Tensor, place: Tensor, condition: Condition) -> Tensor:
        """The points (B, C, H, W) that the student's own steps reach from x_T at the beginning of segments `place`."""
        x = x_T.clone()
        noise = no_noise(f"a distilled model samples without fresh noise; leave out {arg('solver')}, or give euler")
        for i in range(int(place.max())):
            here = (place > i).to(x.device)
            denoise = bind(self.denoiser, condition.rows(here))
            x[here] = sample(denoise, x[here], self.levels.at(slice(i, i + 2)), self.solver, noise)
        return x

    def matching(self, x0: Tensor, t: Tensor, eps: Tensor, condition: Condition | None) -> dict[str, Tensor]:
        """The losses of distribution matching for the student's samples x0 (B, C, H, W), each (B,).

        "matching" is x0 times a constant: the gradient that moves x0 from the critic's estimate to the teacher's,
        behind noise eps at times t (B,) (Yin et al. 2024, eqs. 7 and 8). "critic": its denoising loss on these samples.
        """
        level, samples = self.every_level(t), x0.detach()
        x_t = corrupt(samples, level, eps)
        output = self.critic.output(x_t, level, condition)
        critic = squared_error(self.critic, output, samples, level, eps, self.weighting(level, self.critic))
        with torch.no_grad():
            fake = self.critic.to_denoised(output, x_t, level).x0
            real = self.guided_teacher(condition)(x_t, level).x0
            size = (samples - real).abs().mean((1, 2, 3), keepdim=True)
            gradient = (fake - real) / (size + LEAST * self.train.data_std)
        return {"matching": (x0 * gradient).flatten(1).mean(1), "critic": critic}

    def guided_teacher(self, condition: Condition | None) -> Denoise:
        """The teacher with a condition and guidance bound in."""
        return guided(self.teacher, condition, Guidance(self.guidance))

    # --- nothing here depends on the training so far

    def prepare(self, batch: Batch, step: int) -> Batch:
        """The batch as it is."""
        return batch

    def learn(self, losses: Tensor, t: Tensor, bad: Tensor, group: Group) -> None:
        """Nothing."""

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing."""
