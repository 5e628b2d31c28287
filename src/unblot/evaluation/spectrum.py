"""The power spectrum of samples over that of real pictures, octave by octave: is fine detail grainy or too smooth?"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.evaluation.distances import Z95
from unblot.process.octaves import EMPTY, FINEST, GRAINY, SMOOTH, octave_powers


class OctaveRatio(NamedTuple):
    """Power of the samples over that of the real pictures in one octave, with its 95 % interval.

    pixels: the shortest wavelength of the octave, which reaches up to twice that. Where the real pictures have no power
    in it, the three numbers are None.
    """

    pixels: int
    ratio: float | None
    low: float | None
    high: float | None


def power_ratios(samples: Iterable[Tensor], real: Iterable[Tensor]) -> list[OctaveRatio]:
    """Ratio of the mean power of two sets of pictures for each octave of spatial frequency, the finest first.

    samples, real: batches (B, C, H, W) of the same C, H and W, in any common range. The interval is that of a ratio of
    two means over pictures, normal in its logarithm. Pictures of one pixel have no octaves.
    """
    x, y = (torch.cat([octave_powers(batch) for batch in batches]) for batches in (samples, real))
    found = []
    for k in range(x.shape[1]):
        a, b = float(x[:, k].mean()), float(y[:, k].mean())
        if b <= EMPTY * float(y.sum(1).mean()):
            found.append(OctaveRatio(2 ** (k + 1), None, None, None))
            continue
        half = Z95 * math.hypot(_relative_error(x[:, k]), _relative_error(y[:, k]))
        found.append(OctaveRatio(2 ** (k + 1), a / b, a / b * math.exp(-half), a / b * math.exp(half)))
    return found


def texture(ratios: Sequence[OctaveRatio]) -> str:
    """ "grainy" or "smooth" where one of the FINEST octaves is, by more than chance; else "right".

    Of both the one that is farther from 1 decides.
    """
    off = [r for r in ratios[:FINEST] if r.ratio is not None and _is_off(r)]
    if not off:
        return "right"
    farthest = max((r.ratio or 1e-9 for r in off), key=lambda ratio: abs(math.log(ratio)))
    return "grainy" if farthest > 1 else "smooth"


def _is_off(octave: OctaveRatio) -> bool:
    """Whether the ratio is beyond GRAINY or SMOOTH, and its interval without 1."""
    ratio, low, high = octave.ratio or 0.0, octave.low or 0.0, octave.high or 0.0
    return (ratio > GRAINY and low > 1) or (ratio < SMOOTH and high < 1)


def _relative_error(values: Tensor) -> float:
    """Standard error of the mean over the mean; 0 of a single value, whose error nobody knows."""
    if len(values) < 2 or not float(values.mean()):
        return 0.0
    return float(values.std() / values.mean()) / math.sqrt(len(values))
