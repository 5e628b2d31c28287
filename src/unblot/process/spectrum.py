"""EDM's preconditioning, frequency by frequency: what is known of pictures before a network has learned anything.

Pictures have far more power in coarse waves than in fine ones. The best linear denoiser, Wiener's filter, shrinks each
wave by its own power; EDM's c_skip shrinks all alike, as if pictures were white noise, and so leaves it to the network
to find the noise in every fine wave, at low noise as many numbers as there are pixels. Here c_skip, c_out and
c_in (Karras et al. 2022, table 1) hold for each wave with the standard deviation s of that wave in the data, and
q = min(s, s of white noise as strong as the data):

    x0_hat = s²/(s² + sigma²)·x + sigma·q/sqrt(q² + sigma²)·F,   F = network(x/sqrt(q² + sigma²)),   alpha = 1

all of it for pictures less the data's mean colour. Coarse waves, s > q, keep EDM's scale: they are as large in what the
network sees and says as they are in pictures. With s in the place of q each would be one of H·W equal waves. Then the
mean colour, whose amplitude is sqrt(H·W) times that of its pixels, is off by half its spread where the output is off
by a hundredth. Waves are those of the orthonormal cosine transform (DCT-II), whose even continuation has no jump at a
picture's edge.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, broadcast, log_noise_ratio, norm, per_picture
from unblot.system.device import own_precision

FORM = "capped"  # how c_in and c_out use the spectrum: coarse waves at EDM's scale
LEAST = 1e-3  # the least standard deviation of a wave, in the network's range: what is never there is noise too
CPU = torch.device("cpu")


@lru_cache(maxsize=16)
def cosines(n: int, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Tensor:
    """The orthonormal DCT-II, (n, n): row k is the wave of k half periods. Kept: a GPU is waited for at each copy."""
    with torch.inference_mode(False):  # what sampling has made serves training, too
        k = torch.arange(n, dtype=torch.float64)
        waves = torch.cos(k[:, None] * (k + 0.5) * math.pi / n) * math.sqrt(2 / n)
        waves[0] /= math.sqrt(2)
        return waves.float().to(device, dtype)


def _cosines_for(x: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices of rows (H, H) and columns (W, W) of pictures like x (..., H, W)."""
    height, width = x.shape[-2:]
    if x.is_meta:  # not kept: a count of memory would be another one the next time
        return cosines(height).to(x), cosines(width).to(x)
    return cosines(height, x.device, x.dtype), cosines(width, x.device, x.dtype)


def to_waves(x: Tensor) -> Tensor:
    """Pictures (..., H, W) as the amplitudes of their waves, (..., H, W)."""
    rows, columns = _cosines_for(x)
    return rows @ x @ columns.T


def from_waves(c: Tensor) -> Tensor:
    """Amplitudes (..., H, W) as pictures again."""
    rows, columns = _cosines_for(c)
    return rows.T @ c @ columns


class Spectrum:
    """The standard deviation of pictures along the principal axes of their colours, for waves from fine to coarse.

    mean: (C,), the mean colour; axes: (C, C), orthonormal rows; stds: (C, K), of the amplitudes of each axis in half
    octaves of frequency, the first around sqrt(2) times half a cycle a pixel, which diagonal waves reach.
    """

    def __init__(self, mean: Tensor, axes: Tensor, stds: Tensor):
        self.mean, self.axes, self.log_stds = mean.float(), axes.float(), stds.float().clamp(min=LEAST).log()
        self._known: dict[tuple, tuple[Tensor, Tensor]] = {}  # of each shape, device and dtype, as every call needs it
        self._axes: dict[tuple, Tensor] = {}  # of each device and dtype

    @classmethod
    def of(cls, *parts: Tensor) -> "Spectrum":
        """The spectrum of pictures (N, C, H, W), in one or several parts."""
        moments = Moments()
        for x in parts:
            moments.add(x)
        return moments.spectrum()

    def precondition(self, x: Tensor, level: NoiseLevel, data_std: float) -> "Preconditioned":
        """Preconditions x = x_t/n (B, C, H, W): the network's input, and the map from its output to EDM's F."""
        ratio = per_picture(log_noise_ratio(level), x).exp()[:, None, None, None] / data_std
        stds, mean = self.of_shape(x)
        r = stds / data_std
        n = norm(level, data_std)
        q = r.clamp(max=1)
        shown = ((1 + ratio**2) / (q**2 + ratio**2)).sqrt()
        waves = self.to_waves(x) - broadcast(level.alpha / n, x) * mean
        known = ratio * (r**2 - 1) / (r**2 + ratio**2) * waves + broadcast(level.sigma / (n * data_std), x) * mean
        with own_precision(x):
            return Preconditioned(self, from_waves(shown * waves), q * shown, known)

    def of_shape(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The standard deviations and the mean of the waves of pictures like x, both (C, H, W), like x."""
        key = (x.shape[1:], x.device, x.dtype)
        if key not in self._known:
            with torch.inference_mode(False):
                mean = self.to_waves(self.mean.to(x)[:, None, None].expand(x.shape[1:]))
                self._known[key] = self.stds(*x.shape[-2:]).to(x), mean
        return self._known[key]

    def _axes_for(self, x: Tensor) -> Tensor:
        """The axes (C, C), like x."""
        key = (x.device, x.dtype)
        if key not in self._axes:
            with torch.inference_mode(False):
                self._axes[key] = self.axes.to(x)
        return self._axes[key]

    def stds(self, height: int, width: int) -> Tensor:
        """Standard deviation of each wave of each axis, (C, H, W)."""
        place = _place(height, width).clamp(max=self.log_stds.shape[1] - 1)
        below, above = place.floor().long(), place.ceil().long()
        return torch.lerp(self.log_stds[:, below], self.log_stds[:, above], place - below).exp()

    def to_waves(self, x: Tensor) -> Tensor:
        """Pictures (..., C, H, W) as amplitudes of the waves of their axes, the same shape."""
        with own_precision(x):  # waves differ by orders of magnitude
            return to_waves(torch.einsum("dc,...chw->...dhw", self._axes_for(x), x))

    def from_waves(self, waves: Tensor) -> Tensor:
        """Amplitudes (B, C, H, W) as pictures again."""
        with own_precision(waves):
            return torch.einsum("dc,bdhw->bchw", self._axes_for(waves), from_waves(waves))

    def __str__(self) -> str:
        """As a configuration holds it."""
        rows = [self.mean.tolist(), *self.axes.tolist(), *self.log_stds.exp().tolist()]
        return f"{FORM}:" + ";".join("/".join(f"{v:.5g}" for v in row) for row in rows)

    @classmethod
    def read(cls, text: str) -> "Spectrum":
        """The spectrum that `str` wrote. Raises UnblotError where a former version did, whose scales are other ones."""
        form, _, numbers = text.partition(":")
        if form != FORM:
            raise UnblotError(
                "the run was trained by an earlier unblot, which scaled coarse waves otherwise; train it again"
            )
        rows = [[float(v) for v in row.split("/")] for row in numbers.split(";")]
        n = len(rows) // 2
        return cls(torch.tensor(rows[0]), torch.tensor(rows[1 : n + 1]), torch.tensor(rows[n + 1 :]))


class Moments:
    """What a spectrum is made of, summed over pictures a part at a time."""

    def __init__(self) -> None:
        self.count = 0
        self.total, self.products = torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Takes in pictures (N, C, H, W)."""
        waves = to_waves(x)
        self.count += len(x)
        self.total = self.total + waves.sum(0)
        self.products = self.products + torch.einsum("nchw,ndhw->cdhw", waves, waves)

    def spectrum(self) -> Spectrum:
        """The spectrum of all that was taken in."""
        height, width = self.total.shape[-2:]
        mean, products = self.total[:, 0, 0] / self.count, self.products / self.count
        products[:, :, 0, 0] -= mean[:, None] * mean
        axes = torch.linalg.eigh(products.sum((2, 3)).double())[1].T.flip(0).float()
        power = torch.einsum("dc,cehw,de->dhw", axes, products, axes).clamp(min=0)
        place = _place(height, width).round().long()
        known = sorted(set(place.flatten().tolist()))
        found = torch.stack([power[:, place == k].mean(1) for k in known], 1).numpy()
        found = np.stack([np.interp(range(known[-1] + 1), known, row) for row in found])
        return Spectrum(mean / math.sqrt(height * width), axes, torch.from_numpy(found).sqrt())


class Preconditioned(NamedTuple):
    """`input` (B, C, H, W) for the network; `gain` of its output's waves, and those that are known without it."""

    spectrum: Spectrum
    input: Tensor
    gain: Tensor
    known: Tensor

    def output(self, says: Tensor) -> Tensor:
        """EDM's F, (B, C, H, W), for the network's output."""
        with own_precision(says):
            return self.spectrum.from_waves(self.gain * to_waves(says) + self.known)


@lru_cache(maxsize=16)
def _place(height: int, width: int) -> Tensor:
    """Where each wave stands, (H, W): 0 at sqrt(1/2) cycles a pixel, 2 more for each halving of the frequency."""
    f = torch.hypot(torch.arange(height)[:, None] / height, torch.arange(width) / width)
    f[0, 0] = min(1 / height, 1 / width) / 2
    return (1 - 2 * torch.log2(f)).clamp(min=0)
