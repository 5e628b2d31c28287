"""The end of a run in latents: its decoder is fine-tuned against a discriminator, which adds fine detail.

A decoder that is trained to bring pictures back answers what it is not sure of with its mean, and latents that the
model draws leave it less sure than real ones. So what it makes of drawn latents is shown to a discriminator (Goodfellow
et al. 2014) of small patches (Isola et al. 2017), which sees fine detail alone. The coarse forms of what is drawn must
stay as they are, and real pictures that are encoded must still come back. The encoder does not change.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unblot.config.schema import RunConfig
from unblot.data.dataset import Dataset
from unblot.data.subset import spread
from unblot.latent.latents import build_autoencoder
from unblot.nn.autoencoder import Autoencoder
from unblot.process.octaves import FINEST, octave_powers, ratio_in_words
from unblot.process.randomness import ADVERSARIAL, generator, seeded
from unblot.training.first_stage import OPTIMIZER, reconstruction_loss
from unblot.training.learning_rate import warmup_cosine
from unblot.training.optim import Optimizer

SHARE, SHORT, SHORT_SHARE = 0.1, 150.0, 0.2  # of a time budget; where that is short, up to these seconds, more
MOST_OF_REST = 0.25  # at most of what is left of a budget when a run is resumed
STEPS = 1000  # at most without a budget
FEWEST, PIXELS = 8, 2**23  # pictures that the model draws for it, at least, and pixels of all of them
LATENTS = 2  # drawn, and as many of real pictures, in a step: together as many as in a step of the first stage
CROP, CROPS = 48, 2  # pixels to a side of what the discriminator sees, and how many it sees of each picture
COARSE = 8  # pixels to a side whose means the discriminator does not see, a multiple of its own folding
WIDTH = 32  # of the discriminator
ADVERSARIAL_WEIGHT = 0.03  # of the generator's loss, against the error of real pictures that come back
R1_WEIGHT, R1_EVERY = 0.1, 16  # weight of R1 (Mescheder et al. 2018), and the steps between (Karras et al. 2020)
LEARNING_RATE, WARMUP, DISCRIMINATOR_RATE = 1e-3, 50, 1e-3
MEASURED, AT_A_TIME = 64, 4  # pictures whose fine detail is measured, where they are not large; and decoded at a time


def fine_tunes_decoder(config: RunConfig) -> bool:
    """Whether a run ends with fine-tuning of its decoder: in latents, of pictures with room for detail."""
    if config.latent is None or config.distill is not None or min(config.data.shape[1:]) < 2 * COARSE:
        return False
    return config.latent.adversarial_steps != 0


def decoder_steps(config: RunConfig) -> int | None:
    """The steps of a run's fine-tuning of its decoder, 0 for none; None where its budget alone decides."""
    if config.latent is None or not fine_tunes_decoder(config):
        return 0
    if config.latent.adversarial_steps is not None:
        return config.latent.adversarial_steps
    return None if config.train.budget else min(STEPS, config.train.steps)


def affordable_count(config: RunConfig, count: int) -> int:
    """`count` pictures, or fewer where they are large."""
    return min(count, max(FEWEST, PIXELS // math.prod(config.data.shape[1:])))


def decoder_seconds(budget: float) -> float:
    """The seconds of a budget that fine-tuning takes: a tenth, and up to SHORT seconds twice as much: detail needs many
    steps, in fewer of which flat areas come out with a faint lattice."""
    return max(SHARE * budget, min(SHORT, SHORT_SHARE * budget))


def reserved_seconds(config: RunConfig, budget: float, left: float) -> float:
    """The seconds of a run's budget that are kept for fine-tuning: its share, at most a part of what is left."""
    return max(0.0, min(decoder_seconds(budget), MOST_OF_REST * left)) if fine_tunes_decoder(config) else 0.0


class Detail(NamedTuple):
    """What fine-tuning did: its steps, the power of drawn fine detail over that of real, before and after it, and
    whether its decoder is taken."""

    steps: int
    before: float
    after: float
    taken: bool

    def __str__(self) -> str:
        if not self.steps:
            return "decoder: not fine-tuned, since no time was left"
        power = f"the fine detail of what is drawn has {ratio_in_words(self.after)} of the power of real pictures"
        if self.taken:
            return f"decoder: fine-tuned in {self.steps} steps; {power}, {ratio_in_words(self.before)} before"
        return (
            f"decoder: left as it was, since {self.steps} steps of fine-tuning did not bring its pictures nearer to "
            f"real ones; {power}"
        )


class Discriminator(nn.Sequential):
    """Patch discriminator: a real/fake logit for each 4×4 block, (B, 1, H/4, W/4)."""

    def __init__(self, channels: int):
        layers: list[nn.Module] = []
        for before, after in ((4 * channels, WIDTH), (4 * WIDTH, 2 * WIDTH)):
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.2)]
            layers += [nn.Conv2d(after, after if after == WIDTH else 1, 3, padding=1), nn.LeakyReLU(0.2)]
        super().__init__(*layers[:-1])


class DecoderTuning:
    """The state of the fine-tuning: the autoencoder, of which the decoder is trained, and the discriminator.

    autoencoder: as the model has it, frozen; it stays as it is. drawn: latents (N, c, h, w) that the model drew.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, autoencoder: Autoencoder, drawn: Tensor):
        assert config.latent is not None
        self.dataset, self.drawn, self.device = dataset, drawn, autoencoder.mean.device
        self.seed, self.noise = config.train.seed, config.latent.latent_noise
        self.autoencoder = build_autoencoder(config).to(self.device)
        self.autoencoder.load_state_dict(autoencoder.state_dict())
        with seeded(self.seed):
            network = Discriminator(config.data.channels)
        self.discriminator = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = Optimizer(self.autoencoder.decoder, OPTIMIZER, weight_decay=0.0)
        self.discriminator_optimizer = torch.optim.Adam(network.parameters(), lr=DISCRIMINATOR_RATE, betas=(0.0, 0.99))
        real = self._pictures(spread(dataset.train, affordable_count(config, MEASURED)))
        self.size, self.measured = real.shape[2:], len(real)
        self.power = _powers(real.split(AT_A_TIME))
        self.scale = 1 / float(_high_pass(real).std().clamp_min(1e-6))
        self.low_pass = torch.cat([_low_pass(x) for x in self._decoded(autoencoder, drawn)])
        self.step = 0

    def take_step(self, progress: float) -> None:
        """One step of both; progress: the share of the fine-tuning that is done, in [0, 1)."""
        g = generator(self.seed, ADVERSARIAL, self.step)
        chosen = torch.randint(len(self.dataset.train), (2 * LATENTS,), generator=g)
        x = self._pictures(self.dataset.train[chosen.numpy()])
        with torch.no_grad():
            z = self.autoencoder.encode(x[:LATENTS])
        noise = torch.randn(z.shape, generator=g).to(self.device)
        which = torch.randint(len(self.drawn), (LATENTS,), generator=g)
        drawn, low_pass = self.drawn[which].to(self.device), self.low_pass[which.to(self.device)]
        both = self.autoencoder.decode(torch.cat([z + self.noise * noise, drawn]), *x.shape[2:])
        back, made = both[:LATENTS], both[LATENTS:]
        seen = self._seen(made, g)
        self._discriminator_step(self._seen(x, g), seen.detach())
        generator_loss = F.softplus(-self.discriminator.requires_grad_(False)(seen)).mean()
        loss = reconstruction_loss(x[:LATENTS], back)[1] + (_low_pass(made) - low_pass).abs().mean()
        loss = loss + ADVERSARIAL_WEIGHT * generator_loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.optimizer.parameters, 1.0)
        rate = LEARNING_RATE * warmup_cosine(self.step, WARMUP, progress)
        self.optimizer.step(rate, torch.zeros((), device=self.device))
        self.step += 1

    def _discriminator_step(self, real: Tensor, drawn: Tensor) -> None:
        """One step of the discriminator: real detail and drawn, each (n, C, h, w)."""
        self.discriminator.requires_grad_(True)
        real_logits = self.discriminator(real.requires_grad_(True))
        loss = F.softplus(-real_logits).mean() + F.softplus(self.discriminator(drawn)).mean()
        if self.step % R1_EVERY == 0:
            (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
            places = real_logits.shape[2] * real_logits.shape[3]
            loss = loss + R1_EVERY * R1_WEIGHT / 2 * gradient.square().sum((1, 2, 3)).mean() / places
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()

    def _seen(self, x: Tensor, g: torch.Generator) -> Tensor:
        """The detail of crops of the pictures (B, C, H, W), each at places of its own, at standard deviation 1."""
        height, width = (min(CROP, n // COARSE * COARSE) for n in x.shape[2:])
        parts = []
        for picture in x.repeat_interleave(CROPS, 0):
            top, left = (
                COARSE * int(torch.randint((n - crop) // COARSE + 1, (), generator=g))
                for n, crop in zip(x.shape[2:], (height, width), strict=True)
            )
            parts.append(picture[:, top : top + height, left : left + width])
        return self.scale * _high_pass(torch.stack(parts)).contiguous(memory_format=torch.channels_last)

    def _pictures(self, indices: object) -> Tensor:
        return self.dataset.batch(indices)[0].to(self.device)  # type: ignore[arg-type]

    @torch.no_grad()
    def strengths(self, autoencoder: Autoencoder) -> Tensor:
        """The power of what this autoencoder makes of drawn latents over that of real pictures by octave, (K,)."""
        return _powers(self._decoded(autoencoder, self.drawn[: self.measured])) / self.power

    @torch.no_grad()
    def _decoded(self, autoencoder: Autoencoder, drawn: Tensor) -> Iterator[Tensor]:
        for z in drawn.split(AT_A_TIME):
            yield autoencoder.decode(z.to(self.device), *self.size)


def tune_decoder(
    tuning: DecoderTuning, frozen: Autoencoder, progress: Callable[[int], float], stopped: Callable[[], bool]
) -> Detail | None:
    """Fine-tunes until `progress` of its steps is 1, and puts the decoder into the model's autoencoder `frozen`.

    Only where the power of what is drawn is nearer to that of real pictures afterwards, over all octaves. None, without
    a change, where it was `stopped` before.
    """
    before = tuning.strengths(frozen)
    while (done := progress(tuning.step)) < 1:
        if stopped():
            return None
        tuning.take_step(done)
    after = tuning.strengths(tuning.autoencoder)
    taken = is_nearer(after, before)
    if taken:
        frozen.load_state_dict(tuning.autoencoder.state_dict())
    else:
        after = before
    return Detail(tuning.step, float(before[:FINEST].mean()), float(after[:FINEST].mean()), taken)


def is_nearer(after: Tensor, before: Tensor) -> bool:
    """Whether ratios (K,) are nearer to 1 than others; False where they are not finite."""
    return bool(after.log().abs().mean() < before.log().abs().mean())


def _low_pass(x: Tensor) -> Tensor:
    """The means of COARSE×COARSE blocks of pictures (B, C, H, W); at the end of a side blocks may be smaller."""
    return F.avg_pool2d(x, COARSE, ceil_mode=True)


def _high_pass(x: Tensor) -> Tensor:
    """Pictures (B, C, H, W) minus their low-pass part."""
    return x - F.interpolate(_low_pass(x), x.shape[2:], mode="bilinear")


def _powers(pictures: Iterable[Tensor]) -> Tensor:
    """Mean power by octave, (K,), above 0, of pictures in batches."""
    return torch.cat([octave_powers(x.cpu()) for x in pictures]).mean(0).clamp_min(1e-12)
