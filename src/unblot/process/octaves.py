"""The power of pictures by octave of spatial frequency, and from which ratios on fine detail is called wrong."""

import math

import torch
from torch import Tensor

GRAINY, SMOOTH = 1.25, 0.8  # ratios of power from which on fine detail is called too strong, or too weak
FINEST = 2  # octaves that are called fine detail
EMPTY = 1e-12  # share of all power up to which an octave of real pictures counts as empty
VALUES = 2**21  # of pictures that are transformed at a time: 16 MB in float64, and several times that on the way


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
    window, octaves = _hann(height)[:, None] * _hann(width), _octaves(height, width)
    rows = max(1, VALUES // max(1, math.prod(pictures.shape[1:])))
    return torch.cat([_powers(part.double(), window) @ octaves for part in pictures.split(rows)])


def ratio_in_words(ratio: float) -> str:
    """A ratio of powers with two digits, and without an exponent where it is large."""
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:,.0f}"


def _powers(x: Tensor, window: Tensor) -> Tensor:
    """Power of pictures (N, C, H, W), float64, at the frequencies of `rfft2`, mean of channels: (N, H·(W//2 + 1))."""
    x = (x - (x * window).sum((-2, -1), keepdim=True) / window.sum()) * window
    return torch.fft.rfft2(x).abs().square().mean(1).flatten(1)


def _octaves(height: int, width: int) -> Tensor:
    """The weight of each frequency of `rfft2` in the mean of each octave, (H·(W//2 + 1), K), float64.

    Half of the spectrum is left out there, since it mirrors the other; what has such a mirror image counts twice.
    """
    along = torch.fft.rfftfreq(width)
    frequency = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(height), along, indexing="ij"))
    octave = (-torch.log2(2 * frequency.flatten().double())).floor().clamp_min(0)
    count = int(math.log2(max(height, width)))
    if not count:
        return torch.zeros(len(octave), 0, dtype=torch.float64)
    twice = 1 + ((along > 0) & (along < 0.5)).double().expand(height, -1).flatten()
    weights = torch.stack([(octave == k) * twice for k in range(count)], 1)
    return weights / weights.sum(0)


def _hann(length: int) -> Tensor:
    """A Hann window that is above 0 everywhere, (length,), float64."""
    return torch.hann_window(length + 2, periodic=False, dtype=torch.float64)[1:-1]
