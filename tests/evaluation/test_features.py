"""Every entry of FEATURES: the same metrics in any batches, its scale, its refusals; and the classifier's cache."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from unblot.errors import UnblotError
from unblot.evaluation import classifier, image_set
from unblot.evaluation.distances import frechet_distance, kernel_distance
from unblot.evaluation.features import (
    FEATURES,
    FeatureData,
    build_features,
    choose_features,
    default_features,
    extract,
)
from unblot.evaluation.image_set import ImageSet, at_once, shrink

OWN = ("pixels", "random", "classifier")
ELSEWHERE = ("efficientnet", "dinov2", "inception")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FeatureData:
    digits = load_digits()
    pictures = torch.tensor(digits.images[:1500, None] / 8 - 1).float()
    return FeatureData(ImageSet(pictures), torch.tensor(digits.target[:1500]), 10, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def held_out() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    return torch.tensor(digits.images[1500:, None] / 8 - 1).float(), torch.tensor(digits.target[1500:])


def test_the_table_is_covered() -> None:
    assert set(FEATURES) == {*OWN, *ELSEWHERE}


@pytest.mark.parametrize("name", OWN)
def test_metrics_are_the_same_in_any_batches(name: str, source: FeatureData, held_out: tuple[Tensor, Tensor]) -> None:
    features = build_features(name, source)
    whole = extract(features, [held_out[0]])
    reference = extract(features, source.pictures.chunks())
    assert whole.shape == (297, whole.shape[1])
    for size in (1, 10, 1000):
        found = extract(features, held_out[0].split(size))
        assert torch.equal(found, whole)
        assert frechet_distance(found, reference) == frechet_distance(whole, reference)
        assert kernel_distance(found, reference, 0) == kernel_distance(whole, reference, 0)


@pytest.mark.parametrize("name", OWN)
def test_large_pictures_come_few_at_a_time_and_give_the_same(
    name: str, source: FeatureData, held_out: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [at_once(shape) for shape in ((1, 8, 8), (3, 1024, 1024), (3, 9000, 9000))] == [256, 5, 1]
    whole = extract(build_features(name, source), [held_out[0]])
    monkeypatch.setattr(image_set, "BYTES", 200 * 4 * 64)
    assert len(next(source.pictures.chunks())) == 200
    torch.testing.assert_close(extract(build_features(name, source), [held_out[0]]), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OWN)
def test_features_have_mean_0_and_variance_1_and_are_the_same_again(name: str, source: FeatureData) -> None:
    found = extract(build_features(name, source), source.pictures.chunks())
    torch.testing.assert_close(found.mean(0), torch.zeros(found.shape[1]), atol=1e-4, rtol=0)
    assert float(found.var(0).mean()) == pytest.approx(1, rel=1e-4)
    assert torch.equal(found, extract(build_features(name, source), source.pictures.chunks()))


def test_principal_components_keep_most_of_the_variance(source: FeatureData) -> None:
    features = build_features("pixels:dims=20", source)
    flat = source.pictures[:].flatten(1)
    _, singular, _ = torch.linalg.svd(flat - flat.mean(0))
    variances = extract(features, source.pictures.chunks()).var(0).sort(descending=True).values
    expected = singular[:20].square()
    torch.testing.assert_close(variances / variances.sum(), expected / expected.sum(), rtol=1e-3, atol=1e-5)


def test_classifier_knows_held_out_pictures(source: FeatureData, held_out: tuple[Tensor, Tensor]) -> None:
    features = build_features("classifier", source)
    assert features.logits is not None
    found = features.logits(extract(features, [held_out[0]])).argmax(1)
    assert float((found == held_out[1]).double().mean()) > 0.9


def test_classifier_is_trained_once_and_a_damaged_file_is_replaced(
    source: FeatureData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(classifier, "STEPS", 3)
    source = source._replace(pictures=source.pictures.take(np.arange(64)), labels=source.labels[:64], cache=tmp_path)
    first = extract(build_features("classifier", source), source.pictures.chunks())
    (kept,) = tmp_path.iterdir()
    content = kept.read_bytes()
    monkeypatch.setattr(classifier, "_train", lambda *_: pytest.fail("trained again"))
    assert torch.equal(extract(build_features("classifier", source), source.pictures.chunks()), first)
    monkeypatch.undo()
    monkeypatch.setattr(classifier, "STEPS", 3)
    kept.write_bytes(content[:100])
    assert torch.equal(extract(build_features("classifier", source), source.pictures.chunks()), first)
    assert kept.read_bytes() == content
    # Other labels, or the same stored values in another range: another classifier.
    build_features("classifier", source._replace(labels=source.labels.flip(0)))
    encode = source.pictures.encode or torch.from_numpy
    darker = ImageSet(source.pictures.stored, lambda part: 0.5 * encode(part), source.pictures.indices)
    build_features("classifier", source._replace(pictures=darker))
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_not_available_ends_in_one_line_that_names_the_way_out(source: FeatureData) -> None:
    for name, way_out in [("dinov2:model=/nowhere", "pip install transformers"), ("inception", "torch-fidelity")]:
        with pytest.raises(UnblotError, match=way_out) as caught:
            build_features(name, source)
        assert "\n" not in str(caught.value)
    with pytest.raises(UnblotError, match="labels of at least 2 classes"):
        build_features("classifier", source._replace(labels=None))
    with pytest.raises(UnblotError, match="unknown features 'vgg'"):
        build_features("vgg", source)


class FakeModel(torch.nn.Module):
    """Stands for DINOv2: the class token is the mean colour of what it is shown."""

    @classmethod
    def from_pretrained(cls, name: str) -> "FakeModel":
        assert name == "folder"
        return cls()

    def forward(self, pixel_values: Tensor) -> types.SimpleNamespace:
        assert pixel_values.shape[1:] == (3, 224, 224)
        return types.SimpleNamespace(last_hidden_state=pixel_values.mean((2, 3))[:, None])


def test_dinov2_is_shown_what_it_was_trained_on(source: FeatureData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoModel=FakeModel))
    features = build_features("dinov2:model=folder", source)
    grey = extract(features, [torch.full((2, 1, 8, 8), 0.5)])
    expected = (0.75 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(grey, expected.expand(2, 3), atol=1e-4, rtol=0)
    five = extract(features, [torch.full((2, 5, 8, 8), 0.5)])
    torch.testing.assert_close(five, grey)


@pytest.mark.parametrize(
    ("channels", "alpha", "words"),
    [
        (1, 0, ""),
        (2, 1, ""),
        (3, 0, ""),
        (4, 1, ""),
        (2, 0, "channel 2"),
        (4, 0, "channel 4"),
        (6, 0, "channels 4 to 6"),
    ],
)
def test_channels_that_are_not_seen_are_named(
    channels: int, alpha: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoModel=FakeModel))
    source, notes = FeatureData(ImageSet(torch.zeros(4, channels, 8, 8)), alpha=bool(alpha)), list[str]()
    choose_features(source, ["dinov2:model=folder"], notes.append)
    assert notes == ([f"features 'dinov2:model=folder' see colours, and not {words}"] if words else [])


@pytest.mark.parametrize(
    ("spec", "name"),
    [("random", "random"), ("random:dims=128,seed=1", "random:seed=1"), ("pixels:dims=20", "pixels:dims=20")],
)
def test_features_are_named_by_all_that_makes_them_differ(spec: str, name: str, source: FeatureData) -> None:
    assert build_features(spec, source).name == name


def test_the_default_follows_the_data(source: FeatureData) -> None:
    assert default_features(source) == "classifier"
    assert default_features(source._replace(labels=None)) == "random"
    points = ImageSet(torch.zeros(4, 2, 1, 1))
    assert default_features(FeatureData(points)) == "pixels"


@pytest.mark.parametrize("shape", [(3, 100, 70), (1, 1, 1), (5, 17, 64)])
def test_any_shape_of_picture_will_do(shape: tuple[int, int, int]) -> None:
    pictures = torch.randn(300, *shape, generator=torch.Generator().manual_seed(0))
    source = FeatureData(ImageSet(pictures))
    for name in ("pixels", "random"):
        found = extract(build_features(name, source), [pictures])
        assert found.shape[0] == 300
        assert found.isfinite().all()


def test_shrinking_averages_down_to_the_side() -> None:
    assert shrink(torch.ones(2, 3, 130, 64), 64).shape == (2, 3, 44, 22)
    assert shrink(torch.ones(2, 3, 64, 10), 64).shape == (2, 3, 64, 10)
    assert float(shrink(torch.arange(130.0).view(1, 1, 1, 130), 65).mean()) == pytest.approx(64.5)
