"""The spectrum of previews: planted grain and blur are beyond chance, real pictures in place of previews are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from unblot.data.dataset import Dataset, open_data
from unblot.training.diagnostics.octaves import OctaveStatistics
from unblot.training.diagnostics.rules import fine_detail

COUNT = 40


@pytest.fixture(scope="module", params=["digits", "colour"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    if request.param == "digits":
        return open_data("digits")
    noise = torch.randn(400, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pictures = avg_pool2d(noise, 5, 1) * torch.linspace(0.5, 2, 400).view(-1, 1, 1, 1)  # no two alike in contrast
    path = tmp_path_factory.mktemp("data") / "a.npy"
    np.save(path, (128 + 80 * pictures).clamp(0, 255).round().to(torch.uint8).numpy())
    return open_data(str(path), options={"layout": "NCHW"})


def warning(data: Dataset, pictures: Tensor, labels: Tensor | None = None) -> str | None:
    """The warning for a run whose previews all are these pictures."""
    found = OctaveStatistics(data, labels, len(pictures)).compare(pictures)
    return fine_detail([{"step": i, "preview": found} for i in range(4)])


def real(data: Dataset, seed: int) -> tuple[Tensor, Tensor | None]:
    return data.batch(np.random.default_rng(seed).permutation(len(data))[:COUNT])


def test_real_pictures_have_no_warning(data: Dataset) -> None:
    statistics = OctaveStatistics(data, None, COUNT)
    for seed in range(50):
        found = statistics.compare(real(data, seed)[0])
        assert fine_detail([{"step": i, "preview": found} for i in range(4)]) is None
    assert all(low < 1 < high for low, high in zip(statistics.low.tolist(), statistics.high.tolist()))


@pytest.mark.parametrize("data", ["colour"], indirect=True)  # of 8x8 digits nearly all detail is fine
def test_planted_grain_and_blur_are_found(data: Dataset) -> None:
    pictures = real(data, 0)[0]
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1))
    assert (warning(data, pictures + 0.4 * noise) or "").startswith("grainy")
    blurred = avg_pool2d(pad(pictures, [1] * 4, mode="replicate"), 3, 1)
    assert (warning(data, blurred) or "").startswith("too smooth")


def test_fewer_pictures_differ_more_by_chance(data: Dataset) -> None:
    few, many = (OctaveStatistics(data, None, count) for count in (5, 80))
    assert (few.low < many.low).all()
    assert (few.high > many.high).all()


def test_an_octave_that_real_pictures_do_not_have_is_not_judged(tmp_path: Path) -> None:
    ramps = np.linspace(0, 1, 40)[:, None, None] * np.full((40, 8, 8), 200.0)
    np.save(tmp_path / "flat.npy", ramps.astype(np.uint8))
    flat = open_data(str(tmp_path / "flat.npy"))
    assert not np.isfinite(OctaveStatistics(flat, None, 4).compare(flat.batch(flat.train[:4])[0])["octaves"]).any()
