"""The power of pictures by octave of spatial frequency, and from which ratios on fine detail is called wrong."""

import math

import torch
from torch import Tensor

GRAINY, SMOOTH = 1.25, 0.8  # ratios of power from which on fine detail is called too strong, or too weak
FINEST = 2  # octaves that are called fine detail
EMPTY = 1e-12  # share of all power up to which an octave of real pictures counts as empty


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


def ratio_in_words(ratio: float) -> str:
    """A ratio of powers with two digits, and without an exponent where it is large."""
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:,.0f}"


def _hann(length: int) -> Tensor:
    """A Hann window that is above 0 everywhere, (length,), float64."""
    return torch.hann_window(length + 2, periodic=False, dtype=torch.float64)[1:-1]
