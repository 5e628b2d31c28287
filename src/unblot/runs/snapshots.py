"""Snapshots of a run's averaged weights, and the average of any EMA std rebuilt from them.

    snapshots/00000375.safetensors     every tracked average after that step, named `number/parameter`; the buffers of
                                       the network as they were, named `buffers/name`

An average of profile `t^gamma` up to step T weighs the weights of step t by `p(t) = (gamma + 1)·t^gamma/T^(gamma + 1)`.
One that was not tracked is approximated by a sum of snapshots whose own profiles add up to nearly the wanted one
(Karras et al. 2024, section 3.2 and appendix C.3).
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unblot.config.schema import RunConfig
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg
from unblot.runs.ema_profiles import Profile, combination, power_exponent
from unblot.runs.folder import SNAPSHOTS, build_denoiser
from unblot.system.files import read_tensors, under


class EmaCandidate(NamedTuple):
    """An EMA std, the metric measured with it (lower is better), and the relative error of its rebuilt profile."""

    std: float
    metric: float
    error: float


def steps_kept(run: Path) -> list[int]:
    """The steps that have a snapshot, oldest first."""
    return sorted(int(p.stem) for p in (run / SNAPSHOTS).glob("*.safetensors") if p.stem.isdigit())


def at_snapshot(path: Path, config: RunConfig) -> Denoiser:
    """The model of a run at one of its snapshots, with the first average that is kept there.

    Raises UnblotError where the file is damaged or of another network.
    """
    weights, _ = read_tensors(path)
    first = min((name.partition("/")[0] for name in weights), default="")
    denoiser = build_denoiser(config)
    try:
        denoiser.load_state_dict(under(f"{first}/", weights) | under("buffers/", weights))
    except RuntimeError:
        raise UnblotError(
            f"{str(path)!r} is not a snapshot of this run: its weights belong to another network"
        ) from None
    return denoiser.eval()


class Snapshots:
    """The kept averages of a run, from which the average of any EMA std is rebuilt, as after the newest of them.

    Raises UnblotError where the run has none, or one cannot be read.
    """

    def __init__(self, run: Path):
        self.run, steps = run, steps_kept(run)
        if not steps:
            raise UnblotError(
                f"run {str(run)!r} has no snapshots of power averages to rebuild one from; train one with "
                f"{arg('ema', 'power:std=0.05+power:std=0.1')}"
            )
        self.step = steps[-1]
        self.kept: list[tuple[Profile, Path, int]] = []  # profile, file, number of the average in it
        for step in steps:
            stds = _stds(snapshot_path(run, step))
            self.kept += [
                (Profile(power_exponent(std), step), snapshot_path(run, step), i) for i, std in enumerate(stds) if std
            ]

    def error(self, std: float) -> float:
        """The relative error of the rebuilt profile of this EMA std; 0 for one that was tracked."""
        return self._sum(std)[1]

    def weights(self, std: float) -> dict[str, Tensor]:
        """The average of this EMA std, float32. Raises UnblotError where a snapshot is damaged."""
        coefficients = self._sum(std)[0].tolist()
        return dict(self._add_up([(c, *kept[1:]) for c, kept in zip(coefficients, self.kept, strict=True)]))

    def _sum(self, std: float) -> tuple[Tensor, float]:
        return combination([profile for profile, *_ in self.kept], Profile(power_exponent(std), self.step))

    def _add_up(self, parts: list[tuple[float, Path, int]]) -> Iterator[tuple[str, Tensor]]:
        """One parameter after another, so that memory holds only the result."""
        parts = [part for part in parts if abs(part[0]) > 1e-9]  # a tracked average is taken as it is, to the last bit
        with ExitStack() as stack:
            files = {path: stack.enter_context(safe_open(path, framework="pt")) for _, path, _ in parts}
            first = f"{parts[0][2]}/"
            names = files[parts[0][1]].keys()
            for name in sorted(n.removeprefix(first) for n in names if n.startswith(first)):
                total = sum(c * files[path].get_tensor(f"{i}/{name}").double() for c, path, i in parts)
                yield name, torch.as_tensor(total).float()


def snapshot_path(run: Path, step: int) -> Path:
    """The file of the snapshot of a step."""
    return run / SNAPSHOTS / f"{step:08d}.safetensors"


def _stds(path: Path) -> list[float]:
    try:
        with safe_open(path, framework="pt") as f:
            return json.loads(f.metadata()["stds"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
        raise UnblotError(f"{str(path)!r} is not a complete snapshot ({e}); delete it to do without it") from None
