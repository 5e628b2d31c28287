"""Guidance, with a network whose answer to each label is known."""

import pytest
import torch
from torch import Tensor, nn

from oracles import F64, Counted, gaussian, level
from unblot.denoiser import Condition, Denoised, Denoiser
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.sampling.guidance import autoguidance, bind, classifier_free, dynamic_threshold, static_threshold

CLASSES = 3


class Answers(nn.Module):
    """Says (label + 1)·(its position) for a label, 0 for none, and counts calls and pictures."""

    embeds = "log_noise_ratio"

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.pictures = 0

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        assert len(noise) == len(x)
        self.calls += 1
        self.pictures += len(x)
        value = torch.zeros(len(x)) if label is None else torch.where(label == CLASSES, 0, label + 1)
        return value.view(-1, 1, 1, 1).to(x.dtype) * torch.ones_like(x) * torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)


def denoiser() -> Denoiser:
    return Denoiser(Answers(), "x0", num_classes=CLASSES)


X = torch.zeros(4, 1, 1, 2)
LABEL = torch.tensor([0, 1, 2, 1])
T = level(0.6, 0.8)


@pytest.mark.parametrize("t", [T, T.expand(4)])
def test_guidance_pushes_away_from_no_label(t: NoiseLevel) -> None:
    model = denoiser()
    x0 = classifier_free(model, Condition(LABEL), 3.0)(X, t).x0
    torch.testing.assert_close(x0[:, 0, 0, 0], 3.0 * (LABEL + 1))
    assert (model.network.calls, model.network.pictures) == (1, 8)  # both halves in one call


def test_scale_1_is_no_guidance_and_costs_none() -> None:
    model = denoiser()
    x0 = classifier_free(model, Condition(LABEL), 1.0)(X, T).x0
    assert torch.equal(x0, bind(denoiser(), Condition(LABEL))(X, T).x0)
    assert model.network.pictures == 4


def test_each_picture_has_its_own_scale() -> None:
    scale = torch.tensor([1.0, 0.0, 2.0, 5.0])
    x0 = classifier_free(denoiser(), Condition(LABEL), scale)(X, T).x0
    torch.testing.assert_close(x0[:, 0, 0, 0], scale * (LABEL + 1))


def test_a_picture_may_have_no_label() -> None:
    x0 = classifier_free(denoiser(), Condition(torch.tensor([0, CLASSES, 2, CLASSES])), 4.0)(X, T).x0
    assert x0[:, 0, 0, 0].tolist() == [4.0, 0.0, 12.0, 0.0]


def test_no_label_is_asked_for_as_it_is() -> None:
    assert torch.equal(bind(denoiser(), None)(X.to(F64), T).x0, torch.zeros(4, 1, 1, 2, dtype=F64))


@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_guidance_keeps_to_its_interval(ratio: float) -> None:
    model = denoiser()
    denoise = classifier_free(model, Condition(LABEL), 3.0, low=0.5, high=5.0)
    guided = ratio == 1.0
    x0 = denoise(X, level(1.0, ratio)).x0
    torch.testing.assert_close(x0[:, 0, 0, 0], (3.0 if guided else 1.0) * (LABEL + 1))
    assert model.network.pictures == (8 if guided else 4)


def test_each_picture_may_be_at_a_level_of_its_own() -> None:
    sequence = NoiseLevel(torch.ones(4, dtype=F64), torch.tensor([0.1, 1.0, 10.0, 1.0], dtype=F64))
    x0 = classifier_free(denoiser(), Condition(LABEL), 3.0, low=0.5, high=5.0)(X, sequence).x0
    assert x0[:, 0, 0, 0].tolist() == [1.0, 6.0, 3.0, 6.0]


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_rescaling_brings_contrast_back(rescale: float) -> None:
    x0 = classifier_free(denoiser(), Condition(LABEL), 3.0, rescale=rescale)(X, T).x0
    plain = bind(denoiser(), Condition(LABEL))(X, T).x0
    contrast = x0.std(dim=(1, 2, 3)) / plain.std(dim=(1, 2, 3))
    torch.testing.assert_close(contrast, torch.full((4,), 3 - 2 * rescale))


def test_autoguidance_pushes_away_from_the_weak_model() -> None:
    strong, weak = (Counted(gaussian(mean, 0.0)) for mean in (1.0, 0.5))
    x = torch.zeros(4, 1, 1, 2, dtype=F64)
    assert autoguidance(strong, weak, 3.0)(x, T).x0.unique().tolist() == [2.0]
    assert autoguidance(strong, weak, 3.0, high=0.1)(x, T).x0.unique().tolist() == [1.0]
    assert autoguidance(strong, weak, 1.0)(x, T).x0.unique().tolist() == [1.0]
    assert (strong.calls, weak.calls) == (3, 1)


def test_static_threshold() -> None:
    x0 = torch.tensor([-3.0, -0.5, 0.2, 1.4]).view(1, 1, 1, 4)
    assert static_threshold(lambda x, level: Denoised(x))(x0, T).x0.flatten().tolist() == pytest.approx(
        [-1, -0.5, 0.2, 1]
    )


def test_dynamic_threshold_is_each_pictures_own() -> None:
    tame, wild = torch.linspace(-0.9, 0.9, 200), torch.linspace(-4, 4, 200)
    x0 = torch.stack([tame, wild]).view(2, 1, 1, 200)
    held = dynamic_threshold(lambda x, level: Denoised(x), quantile=0.9)(x0, T).x0.flatten(1)
    torch.testing.assert_close(held[0], tame)
    most = wild.abs().quantile(0.9)
    torch.testing.assert_close(held[1], wild.clamp(-most, most) / most)
    with pytest.raises(UnblotError, match="not 0"):
        dynamic_threshold(lambda x, level: Denoised(x), quantile=0)
