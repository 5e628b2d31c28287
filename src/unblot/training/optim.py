"""Optimizers: from gradients to the next weights, with all their state by name."""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from unblot.errors import UnblotError
from unblot.specs import build
from unblot.system.sharding import like, local, put_together

ENDS = ("enter", "leave", "conv_in", "conv_out")  # names of the first and last layers, which see the pictures
WITHOUT_FOUND_INF = ("mps",)  # the fused AdamW of PyTorch 2.11 and 2.12 reads none on Apple's GPUs (pull 186360)
QUINTIC = 3.4445, -4.7750, 2.0315  # of Muon: a singular value s becomes a s + b s³ + c s⁵ (Jordan 2024)


class Muon(torch.optim.Optimizer):
    """Muon: the momentum of every matrix is made orthogonal before it is added to the weights (Jordan 2024).

    A convolution's weight is the matrix (outputs, inputs·height·width). The update's entries have a root mean square
    of `scale`, about that of AdamW's, so that learning rates carry over (Liu et al. 2025, section 2.2). PyTorch's
    own implementation takes only matrices, cannot skip a step, and computes in bfloat16, which is slow on a CPU.

    found_inf: set before a step, 1 where the gradients are not finite, which leaves everything as it is.
    """

    found_inf: Tensor

    def __init__(self, matrices: Iterable[nn.Parameter], momentum: float, scale: float, weight_decay: float):
        super().__init__(matrices, {"lr": 0.0, "momentum": momentum, "scale": scale, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every matrix; those of one shape are computed together."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for p in (p for p in group["params"] if p.grad is not None):
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                alike[p.flatten(1).shape].append(p)
            for parameters in alike.values():
                self._step(parameters, group)

    def _step(self, parameters: list[nn.Parameter], group: dict) -> None:
        """Of weights that are spread over processes each computes its part, but for the matrices, which all gather."""
        moments = [local(self.state[p]["momentum"]) for p in parameters]
        bad = self.found_inf > 0
        gradients = [torch.where(bad, m, local(p.grad)) for m, p in zip(moments, parameters)]  # type: ignore[arg-type]
        torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
        ahead = [torch.lerp(g, m, group["momentum"]) for g, m in zip(gradients, moments, strict=True)]  # Nesterov's
        matrices = torch.stack([put_together(m, p).flatten(1) for m, p in zip(ahead, parameters, strict=True)])
        rate = group["lr"] * (1 - self.found_inf)
        updates = rate * group["scale"] * max(matrices.shape[1:]) ** 0.5 * orthogonal(matrices)
        for p, update in zip(parameters, updates, strict=True):
            local(p).mul_(1 - rate * group["weight_decay"]).sub_(local(like(update.view(p.shape), p)))


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Matrices (N, m, n) with the same singular vectors and singular values near 1, between about 0.7 and 1.2.

    Newton–Schulz iteration with the quintic of Jordan 2024, which grows small singular values fastest: within five
    rounds those down to about a hundredth of the matrix's norm. In bfloat16 on a GPU, which is accurate enough.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-20)  # the Frobenius norm is at least the largest value
    if x.is_cuda or x.shape[2] < 2 * x.shape[1]:
        x = x.bfloat16() if x.is_cuda else x
        for _ in range(rounds):
            x = torch.baddbmm(x, _quadratic(x @ x.mT), x, beta=QUINTIC[0])
    else:
        x = _factor(x @ x.mT, rounds) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def _factor(square: Tensor, rounds: int) -> Tensor:
    """What the rounds multiply matrices x by, (N, m, m), from square = x xᵀ.

    Each round multiplies x by a polynomial in x xᵀ, and all of these commute: with small squares alone, a convolution
    takes a third of the time. float32, as values of x below 0.001 lie below the rounding of bfloat16 in the square.
    """
    product = torch.eye(square.shape[1], dtype=square.dtype, device=square.device)
    for left in reversed(range(rounds)):
        factor = _quadratic(square)
        factor.diagonal(dim1=1, dim2=2).add_(QUINTIC[0])
        product = factor @ product
        square = factor @ (square @ factor) if left else square
    return product


def _quadratic(square: Tensor) -> Tensor:
    """The polynomial's part that depends on square = x xᵀ, (N, m, m)."""
    return torch.baddbmm(square, square, square, beta=QUINTIC[1], alpha=QUINTIC[2])


Split = tuple[list[nn.Parameter], list[nn.Parameter]]  # matrices of hidden layers, and all other parameters


def adamw(split: Split, weight_decay: float, *, beta1: float = 0.9, beta2: float = 0.99) -> list[torch.optim.Optimizer]:
    """AdamW (Loshchilov & Hutter 2019) on everything. beta1, beta2: in [0, 1)."""
    return [_adamw([*split[0], *split[1]], weight_decay, beta1, beta2)]


def muon(
    split: Split,
    weight_decay: float,
    *,
    momentum: float = 0.95,
    scale: float = 0.2,
    beta1: float = 0.9,
    beta2: float = 0.99,
) -> list[torch.optim.Optimizer]:
    """Muon on the matrices of hidden layers, AdamW on the first and the last layer, embeddings, biases and norms.

    momentum, beta1, beta2: in [0, 1); scale: root mean square of an update at learning rate 1, above 0.
    """
    _check_shares(momentum=momentum)
    if scale <= 0:
        raise UnblotError(f"optimizer 'muon' needs scale > 0, not {scale}")
    return [Muon(split[0], momentum, scale, weight_decay), _adamw(split[1], weight_decay, beta1, beta2)]


OPTIMIZERS: dict[str, Callable[..., list[torch.optim.Optimizer]]] = {"adamw": adamw, "muon": muon}


class Optimizer:
    """The optimizers that a spec in OPTIMIZERS gives to a module's parameters, used as one."""

    def __init__(self, module: nn.Module, spec: str, weight_decay: float):
        self.parameters = list(module.parameters())
        self.parts = build(OPTIMIZERS, spec, "optimizer", split(module), weight_decay)

    def step(self, rate: float, bad: Tensor) -> None:
        """One step with this learning rate; where `bad`, (), is true, weights and state stay as they are.

        Without a wait for the device, but on Apple's GPUs.
        """
        skipped = bad.device.type in WITHOUT_FOUND_INF and bool(bad)
        for part in () if skipped else self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.found_inf = bad.float()  # type: ignore[attr-defined]  # the name that fused optimizers know
            part.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drops the gradients."""
        for part in self.parts:
            part.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """The state, named `number of the parameter/name of the moment`."""
        held = [(i, part.state.get(p, {})) for i, p in enumerate(self.parameters) for part in self.parts]
        return {f"{i}/{key}": value for i, state in held for key, value in state.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores the state that `tensors` gave."""
        owner = {p: part for part in self.parts for group in part.param_groups for p in group["params"]}
        for part in self.parts:
            part.state.clear()
        for name, tensor in tensors.items():
            number, _, key = name.partition("/")
            p = self.parameters[int(number)]
            # Moments must be laid out in memory as their weights are: the fused optimizer reads both in memory order.
            moment = torch.empty_like(p).copy_(like(tensor, p)) if tensor.shape == p.shape else tensor.to(p.device)
            owner[p].state[p][key] = moment


def state_bytes(module: nn.Module, spec: str) -> int:
    """Bytes of the state that training a module comes to hold: one moment of each value for Muon, two for AdamW."""
    parts = build(OPTIMIZERS, spec, "optimizer", split(module), 0.0)
    values = [(part, p) for part in parts for group in part.param_groups for p in group["params"]]
    return sum((1 if isinstance(part, Muon) else 2) * p.numel() * p.element_size() for part, p in values)


def split(module: nn.Module) -> Split:
    """The weights of hidden layers that act as matrices, and all other parameters, both in the module's order."""
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    inner = [m for name, m in module.named_modules() if isinstance(m, layers) and name.split(".")[-1] not in ENDS]
    matrices = {m.weight for m in inner}
    parameters = list(module.parameters())
    return [p for p in parameters if p in matrices], [p for p in parameters if p not in matrices]


def _adamw(parameters: list[nn.Parameter], weight_decay: float, beta1: float, beta2: float) -> torch.optim.Optimizer:
    _check_shares(beta1=beta1, beta2=beta2)
    return torch.optim.AdamW(parameters, lr=0.0, betas=(beta1, beta2), weight_decay=weight_decay, fused=True)


def _check_shares(**options: float) -> None:
    for name, value in options.items():
        if not 0 <= value < 1:
            raise UnblotError(f"an optimizer needs {name} from 0 to below 1, not {value}")


def check_optimizer(spec: str) -> None:
    """Raises UnblotError for a spec that no module can be trained with."""
    matrix, vector = nn.Parameter(torch.zeros(1, 1)), nn.Parameter(torch.zeros(1))
    build(OPTIMIZERS, spec, "optimizer", ([matrix], [vector]), 0.0)
