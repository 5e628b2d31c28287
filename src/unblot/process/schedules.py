"""Schedules: functions from a time t in [0, 1] to a noise level; t = 0 is the clean picture, t = 1 is noise.

Every schedule gives (1, 0) at t = 0, and its signal-to-noise ratio falls strictly with t. Training evaluates it at
(stratified) uniform times, as the quantile function of a distribution of levels; a spacing evaluates it at the levels
that a sampler visits. Times and levels are float64 on the CPU.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, log_snr
from unblot.specs import options_of, parse

Schedule = Callable[[Tensor], NoiseLevel]  # t (N,) in [0, 1] -> levels (N,)
Index = Callable[[NoiseLevel], Tensor]  # level () or (B,) -> its index in a table of levels, fractions allowed

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # Karras et al. 2022, table 1
PURE_NOISE = -2000.0  # log SNR that stands for alpha = 0 in a table: below that of any alpha > 0 of float64


# --- levels given by a table of betas, as in DDPM


MAX_TABLE = 100_000  # indices: a hundred times DDPM's, so that a mistyped number takes no memory


def from_betas(betas: Tensor) -> Schedule:
    """The schedule of T betas: `alpha² = alpha_bar_i = ∏_{j ≤ i} (1 − beta_j)` at `t = i/T` (Ho et al. 2020, eq. 4).

    betas: (T,) in (0, 1). Between the indices log alpha_bar is interpolated linearly. Raises UnblotError for no betas,
    and for one outside (0, 1).
    """
    if len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
        raise UnblotError(f"a schedule needs betas between 0 and 1, not {betas.tolist()[:1]} … {betas.tolist()[-1:]}")
    log_alpha_bar = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas.double()).cumsum(0)])

    def schedule(t: Tensor) -> NoiseLevel:
        position = t.double() * len(betas)
        below = position.floor().clamp(0, len(betas) - 1).long()
        bend = torch.lerp(log_alpha_bar[below], log_alpha_bar[below + 1], position - below)
        return _from_log_alpha_bar(bend)

    return schedule


def linear(*, beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> Schedule:
    """Betas that rise linearly over `steps` indices (Ho et al. 2020, section 4)."""
    _check_table(steps)
    return from_betas(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64))


def scaled_linear(*, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> Schedule:
    """Betas whose square roots rise linearly, as in latent diffusion (Rombach et al. 2022)."""
    _check_table(steps)
    return from_betas(torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2)


def cosine(*, offset: float = 0.008, steps: int = 1000, beta_max: float = 0.999) -> Schedule:
    """`alpha_bar = cos²((t + offset)/(1 + offset)·π/2)`, betas up to `beta_max` (Nichol & Dhariwal 2021, eq. 17)."""
    _check_table(steps)
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max))


def sigmoid(
    *, start: float = -3.0, end: float = 3.0, tau: float = 1.0, steps: int = 1000, beta_max: float = 0.999
) -> Schedule:
    """alpha_bar as a sigmoid of t from `start` to `end`, betas up to `beta_max` (Jabri et al. 2023, algorithm 1)."""
    _check_table(steps)
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    curve = torch.sigmoid((t * (end - start) + start) / tau)
    alpha_bar = (curve[-1] - curve) / (curve[-1] - curve[0])
    return from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max))


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """A variance-preserving schedule with alpha shifted and scaled to 0 at t = 1 (Lin et al. 2024, algorithm 1).

    The last level is pure noise, where eps-prediction is undefined. alpha = 1 is kept at t = 0, where Lin et al. keep
    the first noisy index; alpha differs from theirs by less than 1e-6.
    """
    alpha_end = schedule(torch.ones(1, dtype=torch.float64)).alpha

    def rescaled(t: Tensor) -> NoiseLevel:
        alpha = ((schedule(t).alpha - alpha_end) / (1 - alpha_end)).clamp(0, 1)
        return NoiseLevel(alpha, torch.sqrt((1 - alpha) * (1 + alpha)))

    return rescaled


def linear_zero_snr(*, beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> Schedule:
    """`linear` rescaled to zero terminal SNR."""
    return zero_terminal_snr(linear(beta_start=beta_start, beta_end=beta_end, steps=steps))


def scaled_linear_zero_snr(*, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> Schedule:
    """`scaled_linear` rescaled to zero terminal SNR."""
    return zero_terminal_snr(scaled_linear(beta_start=beta_start, beta_end=beta_end, steps=steps))


# --- variance exploding: alpha stays 1


def edm(
    *, mean: float = -1.2, std: float = 1.2, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX
) -> Schedule:
    """EDM's training levels, `log sigma ~ N(mean, std²)` in [sigma_min, sigma_max] (Karras et al. 2022, table 1).

    The schedule is the quantile function of this distribution: uniform times give its levels. (1, 0) at t = 0.
    """
    _check_sigmas(sigma_min, sigma_max)
    if std <= 0:
        raise UnblotError(f"schedule 'edm' needs std > 0, not {std}")
    low, high = (torch.special.ndtr((torch.tensor(s).double().log() - mean) / std) for s in (sigma_min, sigma_max))

    def schedule(t: Tensor) -> NoiseLevel:
        sigma = torch.exp(mean + std * torch.special.ndtri(torch.lerp(low, high, t.double())))
        return _exploding(sigma.clamp(sigma_min, sigma_max), t)

    return schedule


def karras(*, rho: float = 7.0, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX) -> Schedule:
    """EDM's sampling levels, sigma^(1/rho) linear in t from sigma_max to sigma_min (Karras et al. 2022, eq. 5).

    (1, 0) at t = 0: the last step goes from sigma_min to 0.
    """
    _check_sigmas(sigma_min, sigma_max)
    if rho <= 0:
        raise UnblotError(f"schedule 'karras' needs rho > 0, not {rho}")

    def schedule(t: Tensor) -> NoiseLevel:
        return _exploding(karras_ratios(sigma_min, sigma_max, t, rho), t)

    return schedule


def karras_ratios(first: float, last: float, share: Tensor, rho: float = 7.0) -> Tensor:
    """Karras spacing: sigma/alpha (N,) whose power 1/rho runs linearly from that of `first` to that of `last`.

    share: (N,) in [0, 1], how far along each is. float64 (Karras et al. 2022, eq. 5).
    """
    ends = torch.tensor([first, last], dtype=torch.float64) ** (1 / rho)
    return torch.lerp(ends[0], ends[1], share.double()) ** rho


# --- flow matching: the straight line between picture and noise


def flow(*, shift: float = 1.0) -> Schedule:
    """`alpha = 1 − t', sigma = t'`, `t' = shift·t/(shift·t + 1 − t)` (Lipman et al. 2023; Liu et al. 2023).

    shift: more than 1 moves the levels to higher noise (Esser et al. 2024, eq. 23).
    """
    if shift <= 0:
        raise UnblotError(f"schedule 'flow' needs shift > 0, not {shift}")

    def schedule(t: Tensor) -> NoiseLevel:
        noise, picture = shift * t.double(), 1 - t.double()
        return _straight(noise / (noise + picture))  # exactly 1 at t = 1

    return schedule


def flow_logit_normal(*, mean: float = 0.0, std: float = 1.0) -> Schedule:
    """The straight line with `logit t' ~ N(mean, std²)`: more of the middle levels (Esser et al. 2024, eq. 19)."""
    if std <= 0:
        raise UnblotError(f"schedule 'flow_logit_normal' needs std > 0, not {std}")

    def schedule(t: Tensor) -> NoiseLevel:
        return _straight(torch.sigmoid(mean + std * torch.special.ndtri(t.double())))

    return schedule


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "linear_zero_snr": linear_zero_snr,
    "scaled_linear_zero_snr": scaled_linear_zero_snr,
    "edm": edm,
    "karras": karras,
    "flow": flow,
    "flow_logit_normal": flow_logit_normal,
}


# --- using a schedule


def uniform_time_levels(schedule: Schedule, steps: int) -> NoiseLevel:
    """The schedule at `linspace(1, 0, steps + 1)`: (steps + 1,) levels, noisiest first."""
    return schedule(torch.linspace(1, 0, steps + 1, dtype=torch.float64))


def only_at(levels: NoiseLevel) -> Schedule:
    """The piecewise constant schedule of `levels` (N + 1,), noisiest first; the last, clean, at t = 0 alone.

    Uniform times give each of the first N with probability 1/N.
    """

    def schedule(t: Tensor) -> NoiseLevel:
        steps = len(levels.sigma) - 1
        return levels.at(steps - (t.double() * steps).ceil().long())

    return schedule


def ddpm_index(level: NoiseLevel) -> Tensor:
    """DDPM's index, fractional in [0, 999], of the level of `linear` with the same SNR: Ho et al.'s embedding.

    Index 0 is the least noisy training level. Levels outside DDPM's range are clipped to it. level: () or (B,).
    """
    return _index_in("linear")(level)


def schedule_index(spec: str) -> Index:
    """The index, fractional in [0, T − 1], of a level in the table of T betas of a schedule, a spec into SCHEDULES.

    Index 0 is the least noisy level of the table. Raises UnblotError for a schedule without a table.
    """
    name, options = parse(SCHEDULES, spec, "schedule")
    if "steps" not in options:
        tables = ", ".join(name for name, made in SCHEDULES.items() if "steps" in options_of(made))
        raise UnblotError(f"schedule {name!r} has no indices to embed; choose one of {tables}")
    return lambda level: _index_in(spec)(level)  # a network is also built where tensors have no values


def rescaled_index(spec: str) -> Index:
    """`schedule_index` in thousandths of the table, index · 1000/T, as networks of Nichol & Dhariwal may embed it."""
    index, steps = schedule_index(spec), parse(SCHEDULES, spec, "schedule")[1]["steps"]
    return lambda level: index(level) * (1000 / steps)


# What a network may embed instead of log(sigma/alpha), by the name in its `embeds`; each for the spec of a schedule.
INDEX_EMBEDDINGS: dict[str, Callable[[str], Index]] = {
    "ddpm_index": lambda _: ddpm_index,
    "schedule_index": schedule_index,
    "rescaled_index": rescaled_index,
}


@cache
def _index_in(spec: str) -> Index:
    name, options = parse(SCHEDULES, spec, "schedule")
    steps, last = options["steps"], options["steps"] - 1
    levels = SCHEDULES[name](**options)(torch.arange(steps, 0, -1, dtype=torch.float64) / steps)
    table = log_snr(levels).clamp(min=PURE_NOISE)  # ascending, noisiest first

    def index(level: NoiseLevel) -> Tensor:
        if last == 0:
            return torch.zeros_like(level.alpha)
        snr = log_snr(level).clamp(table[0], table[-1]).contiguous()
        if torch.compiler.is_exporting():  # the same number, with operations that other runtimes have
            above = (table < snr[..., None]).sum(-1).clamp(1, last)
        else:
            above = torch.searchsorted(table, snr).clamp(1, last)
        low, high = table[above - 1], table[above]
        return last - (above - 1 + (snr - low) / (high - low).clamp(min=1e-300))

    return index


def _check_table(steps: int) -> None:
    if not 1 <= steps <= MAX_TABLE:
        raise UnblotError(f"a schedule needs steps from 1 to {MAX_TABLE}, not {steps}")


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise UnblotError(f"a schedule needs 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}")


def _from_log_alpha_bar(log_alpha_bar: Tensor) -> NoiseLevel:
    # expm1 keeps sigma exact near the clean end, where 1 − alpha_bar cancels.
    return NoiseLevel(torch.exp(0.5 * log_alpha_bar), torch.expm1(log_alpha_bar).abs().sqrt())


def _exploding(sigma: Tensor, t: Tensor) -> NoiseLevel:
    return NoiseLevel(torch.ones_like(sigma), torch.where(t <= 0, 0.0, sigma))


def _straight(time: Tensor) -> NoiseLevel:
    return NoiseLevel(1 - time, time)
