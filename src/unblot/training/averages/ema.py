"""Averages of the weights over training, which draw far better pictures than the last weights."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from unblot.runs.ema_profiles import power_exponent
from unblot.specs import build, parse, several
from unblot.system.sharding import like

Keep = Callable[[int], float]  # step (1, 2, …) -> share of the old average that is kept


def power(*, std: float = 0.05) -> Keep:
    """The power-function profile whose width is a fixed share of the run so far (Karras et al. 2024, eqs. 121 to 126).

    std: standard deviation of the profile relative to the run's length, in (0, 0.28). It needs no warm-up: after
    any number of steps the first ones have left the average.
    """
    gamma = power_exponent(std)
    return lambda step: (1 - 1 / step) ** (gamma + 1)


def decay(*, rate: float = 0.9999) -> Keep:
    """A constant rate, as Ho et al. 2020 have it, held lower during the first steps."""
    return lambda step: min(rate, step / (10 + step))


EMAS: dict[str, Callable[..., Keep]] = {"power": power, "decay": decay}


def power_std(spec: str) -> float:
    """The width of a spec's profile, 0 where it is not a power function."""
    name, options = parse(EMAS, spec, "ema")
    return options["std"] if name == "power" else 0.0


class Ema:
    """Running averages of a module's parameters, held in float32 under their own names.

    spec: one entry of EMAS or several joined by +. `weights` is the first, the one that a model draws with.
    """

    def __init__(self, module: nn.Module, spec: str):
        self.specs = several(spec)
        self.keeps = [build(EMAS, part, "ema") for part in self.specs]
        self.averages = [{name: p.detach().clone() for name, p in module.named_parameters()} for _ in self.specs]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The first average."""
        return self.averages[0]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the parameters after step `step` (1, 2, …)."""
        live: list[Tensor] = list(module.parameters())
        for keep, average in zip(self.keeps, self.averages, strict=True):
            torch._foreach_lerp_(list(average.values()), live, 1 - keep(step))

    def tensors(self) -> dict[str, Tensor]:
        """All averages, as checkpoints name them: the first `ema/name`, the second `ema1/name`, and so on."""
        return {f"ema{i or ''}/{name}": p for i, a in enumerate(self.averages) for name, p in a.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts what `tensors` gave in place of the present averages."""
        for name, average in self.tensors().items():
            average.copy_(like(tensors[name], average))
