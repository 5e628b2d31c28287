"""The law of power: drawn pictures have the power of real ones in every octave of the spectrum."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unblot import api
from unblot.evaluation.spectrum import power_ratios
from unblot.process.spectrum import from_waves
from unblot.runs.folder import build_denoiser
from unblot.runs.run import Run


class Untrained(nn.Module):
    """What every network of the default preset says before it has learned anything."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))  # a place for the device

    def forward(self, x: Tensor, *seen: Tensor | None) -> Tensor:
        return torch.zeros_like(x) + self.bias


@pytest.mark.parametrize("fall", [1.0, 2.0], ids=["as photographs", "smoother"])
def test_the_exact_denoiser_of_gaussian_pictures_draws_their_power_in_every_octave(tmp_path: Path, fall: float) -> None:
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(32.0)
    frequency = torch.hypot(place[:, None], place).clamp(min=0.5)
    real = from_waves(torch.randn(400, 1, 32, 32, generator=generator) / frequency**fall)
    np.save(tmp_path / "pictures.npy", real.permute(0, 2, 3, 1).numpy())
    config = api.plan(tmp_path / "pictures.npy", quiet=True, clusters=0, spectrum="data")
    denoiser = build_denoiser(config).eval()
    denoiser.network = Untrained()  # so that the denoiser is Wiener's filter, which is exact for them
    drawn = Run(tmp_path, config, denoiser).sample(400, seed=1).array
    found = power_ratios([torch.from_numpy(drawn)], [real])
    assert len(found) == 5
    assert all(0.8 < octave.ratio < 1.25 for octave in found), found
