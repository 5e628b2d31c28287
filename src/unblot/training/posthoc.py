"""Averages of any length after the run: snapshots of the tracked ones, and the sum of them that comes nearest.

    snapshots/00000375.safetensors     every tracked average after that step, named `number/parameter`

An average of profile `t^gamma` up to step T weighs the weights of step t by `p(t) = (gamma + 1)·t^gamma/T^(gamma + 1)`.
One that was not tracked is approximated by a sum of snapshots whose own profiles add up to nearly the wanted one
(Karras et al. 2024, section 3.2 and appendix C.3).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unblot.config import RunConfig
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.run import SNAPSHOTS, build_denoiser, read_tensors, write_tensors
from unblot.training.ema import Ema, power_exponent, power_std

COUNT = 8  # snapshots of a run


class Profile(NamedTuple):
    """The power-function profile `t^exponent` over the steps from 0 to `step`."""

    exponent: float
    step: float


class Row(NamedTuple):
    """A length, the figure that was measured with it (lower is better), and the error of its profile."""

    std: float
    figure: float
    error: float


def inner_products(a: Sequence[Profile], b: Sequence[Profile]) -> Tensor:
    """The integrals of p_i·p_j over all steps, (len(a), len(b)), float64.

    With the shorter profile ending at m and the longer at M: `(g_i + 1)(g_j + 1)/(g_i + g_j + 1) · (m/M)^g/M`, where g
    is the exponent of the longer one.
    """
    rows, columns = (torch.tensor(list(profiles), dtype=torch.float64).view(-1, 2) for profiles in (a, b))
    (g_i, t_i), (g_j, t_j) = rows[:, None].unbind(-1), columns[None].unbind(-1)
    overlap = (t_j / t_i).clamp(max=1) ** g_i * (t_i / t_j).clamp(max=1) ** g_j
    return (g_i + 1) * (g_j + 1) / (g_i + g_j + 1) * overlap / torch.maximum(t_i, t_j)


def combination(kept: Sequence[Profile], wanted: Profile) -> tuple[Tensor, float]:
    """Coefficients (K,) of the sum of kept profiles nearest to the wanted one, and how far off it is, relative to it.

    Least squares over the steps, with coefficients that add up to 1, so that weights at rest stay as they are.
    """
    gram, aim = inner_products(kept, kept), inner_products(kept, [wanted])
    ones = torch.ones(len(kept), 1, dtype=torch.float64)
    system = torch.cat([torch.cat([gram, ones], 1), torch.cat([ones.T, torch.zeros(1, 1, dtype=torch.float64)], 1)])
    scale = gram.diagonal().max()  # the condition is written in the unit of the others
    system[:-1, -1:] *= scale
    system[-1:] *= scale
    right = torch.cat([aim, scale.view(1, 1)])
    x = torch.linalg.lstsq(system, right, driver="gelsd").solution[:-1]
    norm = inner_products([wanted], [wanted])
    off = (norm - 2 * x.T @ aim + x.T @ gram @ x).clamp_min(0)
    return x[:, 0], float((off / norm).sqrt())


# --- snapshots of a run


def due(step: int, steps: int) -> bool:
    """Whether a snapshot is taken after this step of a run of so many: COUNT times, evenly spaced, and at the end."""
    return step % -(-steps // COUNT) == 0 or step == steps


def keep(run: Path, step: int, steps: int, ema: Ema, for_leader: Callable[[dict], dict] = dict) -> None:
    """Writes the snapshot of a step: in 16 bits, which a sum of several forgives; at the end of the run in full.

    for_leader: of several processes, which all come here, gives whole tensors to the one that writes, none to others.
    """
    stds = [power_std(spec) for spec in ema.specs]
    if not any(stds):
        return
    dtype = torch.float32 if step == steps else torch.float16
    tensors = {
        f"{i}/{name}": p.to(dtype)
        for i, (std, weights) in enumerate(zip(stds, ema.averages, strict=True))
        if std
        for name, p in weights.items()
    }
    tensors = for_leader(tensors)
    if not tensors:
        return
    (run / SNAPSHOTS).mkdir(exist_ok=True)
    write_tensors(_place(run, step), tensors, {"stds": json.dumps(stds)})


def forget_after(run: Path, step: int) -> None:
    """Deletes the snapshots of later steps, which are about to be taken again."""
    for later in (s for s in steps_kept(run) if s > step):
        _place(run, later).unlink()


def steps_kept(run: Path) -> list[int]:
    """The steps that have a snapshot, oldest first."""
    return sorted(int(p.stem) for p in (run / SNAPSHOTS).glob("*.safetensors") if p.stem.isdigit())


def at_snapshot(path: Path, config: RunConfig) -> Denoiser:
    """The model of a run as it was at one of its snapshots, with the first average that is kept there.

    Raises UnblotError where the file is damaged or of another network.
    """
    weights, _ = read_tensors(path)
    first = min((name.partition("/")[0] for name in weights), default="")
    denoiser = build_denoiser(config)
    try:
        denoiser.load_state_dict(
            {name.removeprefix(f"{first}/"): p for name, p in weights.items() if name.startswith(f"{first}/")}
        )
    except RuntimeError:
        raise UnblotError(
            f"{str(path)!r} is no snapshot of this run: its weights are those of another network"
        ) from None
    return denoiser.eval()


class Snapshots:
    """The kept averages of a run, from which one of any length is rebuilt, as it was after the newest of them.

    Raises UnblotError where the run has none, or one cannot be read.
    """

    def __init__(self, run: Path):
        self.run, steps = run, steps_kept(run)
        if not steps:
            raise UnblotError(
                f"run {str(run)!r} has no snapshots of power averages to rebuild one from; train one with "
                "--ema power:std=0.05+power:std=0.1"
            )
        self.step = steps[-1]
        self.kept: list[tuple[Profile, Path, int]] = []  # profile, and where its weights lie
        for step in steps:
            stds = _stds(_place(run, step))
            self.kept += [
                (Profile(power_exponent(std), step), _place(run, step), i) for i, std in enumerate(stds) if std
            ]

    def error(self, std: float) -> float:
        """How far the nearest sum's profile is from that of this length, relative to it; 0 for one that was tracked."""
        return self._sum(std)[1]

    def weights(self, std: float) -> dict[str, Tensor]:
        """The average of this length, float32. Raises UnblotError where a snapshot is damaged."""
        coefficients = self._sum(std)[0].tolist()
        return dict(self._add_up([(c, *kept[1:]) for c, kept in zip(coefficients, self.kept, strict=True)]))

    def _sum(self, std: float) -> tuple[Tensor, float]:
        if not 0 < std < 0.28:
            raise UnblotError(f"the length of an average is from 0 to 0.28 of the run, not {std}")
        return combination([profile for profile, *_ in self.kept], Profile(power_exponent(std), self.step))

    def _add_up(self, parts: list[tuple[float, Path, int]]) -> Iterator[tuple[str, Tensor]]:
        """One parameter after the other, so that memory holds the result alone."""
        parts = [part for part in parts if abs(part[0]) > 1e-9]  # a tracked average is itself, to the last bit
        with ExitStack() as stack:
            files = {path: stack.enter_context(safe_open(path, framework="pt")) for _, path, _ in parts}
            first = f"{parts[0][2]}/"
            names = files[parts[0][1]].keys()
            for name in sorted(n.removeprefix(first) for n in names if n.startswith(first)):
                total = sum(c * files[path].get_tensor(f"{i}/{name}").double() for c, path, i in parts)
                yield name, torch.as_tensor(total).float()


def _place(run: Path, step: int) -> Path:
    return run / SNAPSHOTS / f"{step:08d}.safetensors"


def _stds(path: Path) -> list[float]:
    try:
        with safe_open(path, framework="pt") as f:
            return json.loads(f.metadata()["stds"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
        raise UnblotError(f"{str(path)!r} is not a whole snapshot ({e}); delete it to go without it") from None
