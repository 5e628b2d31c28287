"""Metrics: what they carry, what they need, and that known damage changes the metric that should notice it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from unblot.evaluation.metrics import MEASURES, class_metrics, compare_features
from unblot.reports.verdicts import MEANINGS

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "damage.py"


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return shift + torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_every_metric_names_what_it_was_measured_from() -> None:
    metrics = compare_features("pixels-8", normal(300, 8, 0), normal(500, 8, 1), "held-out 1a2b3c4d")
    assert [f.name for f in metrics] == [name for measure in MEASURES for name in measure.names]
    for metric in metrics:
        assert metric.value is not None
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.value <= metric.high
        for part in ("pixels-8", "300 samples", "held-out 1a2b3c4d", f"{metric.value:.4g}"):
            assert part in str(metric)
        assert metric.name in MEANINGS


def test_a_metric_for_which_there_are_too_few_pictures_says_what_it_needs() -> None:
    metrics = {f.name: f for f in compare_features("pixels-8", normal(30, 8, 0), normal(500, 8, 1), "training 0")}
    assert {f.value for f in metrics.values()} == {None}
    assert "needs at least 32 samples, there are 30" in str(metrics["frechet_distance"])
    assert "needs at least 80 samples" in str(metrics["frechet_infinity"])
    some = {f.name: f for f in compare_features("pixels-8", normal(60, 8, 0), normal(500, 8, 1), "training 0")}
    assert some["frechet_distance"].value is not None
    assert "needs at least 80 samples, there are 60" in str(some["frechet_infinity"])
    assert "needs at least 48 samples" in str(metrics["recall"])
    (few, *_) = compare_features("pixels-8", normal(500, 8, 0), normal(20, 8, 1), "held-out 0")
    assert few.needs == "needs at least 32 held-out pictures, there are 20"
    classes = torch.arange(30) % 10
    assert class_metrics("classifier", classes, classes, 10, "training 0")[0].value is None


def test_intervals_hold_the_values_of_other_sets() -> None:
    first = compare_features("f", normal(400, 6, 0, 0.5), normal(800, 6, 1), "training 0")
    inside = {f.name: 0 for f in first}
    for seed in range(2, 32):
        for metric in compare_features("f", normal(400, 6, seed, 0.5), normal(800, 6, seed + 100), "training 0"):
            sound = next(f for f in first if f.name == metric.name)
            inside[metric.name] += bool(sound.low <= metric.value <= sound.high)
    # Two sets differ by root 2 times the error of one: about 83 % of them fall within, 25 of 30.
    for name, count in inside.items():
        assert count >= 16, name


def test_class_metrics() -> None:
    samples, real = torch.tensor([0] * 50 + [1] * 50 + [2] * 100), torch.tensor([0, 1, 2, 3] * 100)
    distance, reached = class_metrics("classifier", samples, real, 4, "training 0")
    assert distance.value == pytest.approx(0.25)
    assert distance.low < 0.25 < distance.high
    assert reached.value == 3


def test_the_interval_of_class_shares_is_that_of_two_sets() -> None:
    g = torch.Generator().manual_seed(0)
    shares = torch.tensor([5.0, 3, 2]), torch.tensor([3.0, 5, 2])

    def drawn() -> list[torch.Tensor]:
        return [torch.multinomial(p, 500, replacement=True, generator=g) for p in shares]

    found = [class_metrics("f", *drawn(), 3, "training 0")[0] for _ in range(60)]
    half = np.mean([metric.high - metric.value for metric in found])
    assert half == pytest.approx(1.96 * np.std([metric.value for metric in found]), rel=0.25)
    same = torch.arange(500) % 3
    assert class_metrics("f", same, same, 3, "training 0")[0].high > 0.01


@pytest.fixture(scope="module")
def damage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("damage", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench(damage: ModuleType):
    training, held_out = damage.load("digits")
    return damage.Bench(training, held_out, 318, ["pixels", "random:dims=32", "classifier"])


# damage, features -> the metric that should notice it; features that see no classes are left out for damage to classes.
NOTICED = {
    ("blur", "pixels"): "frechet_distance",
    ("blur", "random:dims=32"): "frechet_distance",
    ("blur", "classifier"): "frechet_distance",
    ("noise", "pixels"): "frechet_distance",
    ("noise", "random:dims=32"): "frechet_distance",
    ("noise", "classifier"): "frechet_distance",
    ("class_left_out", "classifier"): "class_share_distance",
    ("class_doubled", "classifier"): "class_share_distance",
    ("copies_of_one", "pixels"): "frechet_distance",
    ("copies_of_one", "random:dims=32"): "frechet_distance",
    ("copies_of_one", "classifier"): "frechet_distance",
}


@pytest.mark.parametrize(("name", "features"), NOTICED)
def test_the_metric_that_should_notice_a_damage_rises_with_its_strength(damage, bench, name, features) -> None:
    values = []
    for strength in (0.0, *damage.STRENGTHS):
        metrics = bench.measure(bench.damaged(name, strength), features)
        values.append(next(f.value for f in metrics if f.name == NOTICED[name, features]))
    assert values == sorted(values)
    assert len(set(values)) == len(values)


def test_copies_of_training_pictures_are_counted_at_every_strength(damage, bench) -> None:
    for strength in (0.0, *damage.STRENGTHS):
        assert bench.copies(bench.damaged("copies_of_training", strength)) == round(strength * 159) / 318
