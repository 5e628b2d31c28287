"""Exponential moving averages of the weights, which give far better samples than the last weights."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from unblot.errors import UnblotError
from unblot.runs.ema_profiles import power_exponent
from unblot.specs import build, parse, several
from unblot.system.distributed import Group, sum_over
from unblot.system.sharding import like, local

Decay = Callable[[int], float]  # step (1, 2, …) -> decay: the weight of the old average


def power(*, std: float = 0.05) -> Decay:
    """The decay of a power-function EMA, whose width grows with the run (Karras et al. 2024, eqs. 121 to 126).

    std: standard deviation of the profile relative to the length of the run, in (0, 0.28). It needs no warm-up: the
    weight of the first steps vanishes as the run goes on. Raises UnblotError for another std.
    """
    gamma = power_exponent(std)
    return lambda step: (1 - 1 / step) ** (gamma + 1)


def decay(*, rate: float = 0.9999) -> Decay:
    """A constant decay, as in Ho et al. 2020, held lower during the first steps. rate: in [0, 1)."""
    if not 0 <= rate < 1:
        raise UnblotError(f"ema 'decay' needs a rate from 0 to below 1, not {rate}")
    return lambda step: min(rate, step / (10 + step))


EMAS: dict[str, Callable[..., Decay]] = {"power": power, "decay": decay}


def power_std(spec: str) -> float:
    """The EMA std of a spec, 0 where its profile is not a power function."""
    name, options = parse(EMAS, spec, "ema")
    return options["std"] if name == "power" else 0.0


class Ema:
    """Running averages of a module's parameters, held in float32 under their own names.

    spec: one entry of EMAS or several joined by +. `weights` is the first average, the one that is sampled with.
    """

    def __init__(self, module: nn.Module, spec: str):
        self.specs = several(spec)
        self.decays = [build(EMAS, part, "ema") for part in self.specs]
        self.averages = [{name: p.detach().clone() for name, p in module.named_parameters()} for _ in self.specs]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The first average."""
        return self.averages[0]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Adds the parameters after step `step` (1, 2, …) to the averages."""
        live: list[Tensor] = list(module.parameters())
        for decay_at, average in zip(self.decays, self.averages, strict=True):
            torch._foreach_lerp_(list(average.values()), live, 1 - decay_at(step))

    def is_finite(self, group: Group) -> bool:
        """Whether the first average is finite, in every process; all must call it at once."""
        bad = torch.stack([~torch.isfinite(local(p)).all() for p in self.weights.values()]).any().float()
        sum_over(group, bad)
        return not bool(bad)

    def tensors(self) -> dict[str, Tensor]:
        """All averages, named as in checkpoints: `ema/name` of the first, `ema1/name` of the second, and so on."""
        return {f"ema{i or ''}/{name}": p for i, a in enumerate(self.averages) for name, p in a.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the averages that `tensors` gave."""
        for name, average in self.tensors().items():
            average.copy_(like(tensors[name], average))
