"""The power spectrum of samples over that of real pictures, octave by octave: is fine detail grainy or too smooth?"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.evaluation.distances import Z95

GRAINY, SMOOTH = 1.25, 0.8  # ratios of power from which on fine detail is called too strong, or too weak
FINEST = 2  # octaves that are called fine detail
NOTHING = 1e-12  # share of all power up to which an octave of the real pictures counts as empty


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
        if b <= NOTHING * float(y.sum(1).mean()):
            found.append(OctaveRatio(2 ** (k + 1), None, None, None))
            continue
        half = Z95 * math.hypot(_relative_error(x[:, k]), _relative_error(y[:, k]))
        found.append(OctaveRatio(2 ** (k + 1), a / b, a / b * math.exp(-half), a / b * math.exp(half)))
    return found


def octave_powers(pictures: Tensor) -> Tensor:
    """Mean spectral power of each picture in each octave, (N, K), float64; K = floor(log2(max(H, W))).

    pictures: (N, C, H, W). Octave k holds the wavelengths from 2^(k+1) pixels up to, but without, 2^(k+2); the first
    also the shorter diagonal ones. The power is averaged over the frequencies of an octave, in all directions, and
    over the channels.

    Each channel's mean is subtracted, and a Hann window is applied. The Fourier transform takes opposite borders for
    neighbours; without the window the step between them spreads power over all fine octaves, where it hides grain.
    The window costs resolution: a wave is spread over the frequencies next to its own.
    """
    height, width = pictures.shape[-2:]
    window = _hann(height)[:, None] * _hann(width)
    x = pictures.double()
    x = (x - (x * window).sum((-2, -1), keepdim=True) / window.sum()) * window
    power = torch.fft.fft2(x).abs().square().mean(1).flatten(1)
    frequency = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(height), torch.fft.fftfreq(width), indexing="ij"))
    octave = (-torch.log2(2 * frequency.flatten().double())).floor().clamp_min(0)
    count = int(math.log2(max(height, width)))
    members = torch.stack([octave == k for k in range(count)], 1).double() if count else torch.zeros(height * width, 0)
    return power @ (members / members.sum(0)).double()


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


def _hann(length: int) -> Tensor:
    """A Hann window that is above 0 everywhere, (length,), float64."""
    return torch.hann_window(length + 2, periodic=False, dtype=torch.float64)[1:-1]
