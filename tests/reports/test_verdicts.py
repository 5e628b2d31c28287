"""Verdicts follow from the numbers of a report: what chance alone makes is held against no model."""

from typing import Any

import numpy as np
import pytest
import torch

from unblot.evaluation.memorization import share_interval
from unblot.evaluation.metrics import class_metrics
from unblot.reports.verdicts import verdicts


def row(name: str, against: str, value: float, low: float, high: float) -> dict[str, Any]:
    return {"name": name, "against": against, "features": "f", "value": value, "low": low, "high": high}


def judged(question: str, rows: tuple = (), counts: dict[str, list[int]] | None = None, **parts: Any) -> dict[str, str]:
    """The answer to one question by a report with these metrics, counts of classes and other parts."""
    counts = counts or {"training": []}
    report: dict[str, Any] = {
        "data": {"kind": "pictures", "classes": [f"class {i}" for i in range(len(counts["training"]))]},
        "model": {},
        "metrics": {"features": ["f"], "rows": list(rows), "class_counts": counts},
        **dict.fromkeys(("spectrum", "originality", "captions", "learning")),
    }
    return verdicts({**report, **parts})[question]


def copied(copies: int, count: int) -> dict[str, Any]:
    low, high = share_interval(copies, count)
    return {"copies": copies, "count": count, "share": copies / count, "low": low, "high": high}


@pytest.mark.parametrize(
    ("samples", "held_out", "level", "words"),
    [
        ((200, 2000), (0, 20), "middling", "Some samples are copies; 20 held-out pictures cannot say"),
        ((60, 2000), (0, 20), "middling", "Some samples are copies"),
        ((200, 2000), (0, 500), "bad", "It copies in part."),
        ((2000, 2000), (0, 20), "bad", "It copies."),
        ((0, 25), (0, 20), "unknown", "Too few samples"),
        ((0, 2000), (0, 20), "good", "It does not copy."),
        ((600, 2000), (93, 300), "good", "It does not copy."),  # real pictures of families of near-duplicates
        ((900, 2000), (93, 300), "bad", "It copies in part."),
    ],
)
def test_copies_are_excused_only_where_held_out_pictures_are_as_often(samples, held_out, level, words) -> None:
    found = {"samples": copied(*samples), "held_out": copied(*held_out), "median_percentile": 50.0, "copying_z": 0.0}
    answer = judged("new", originality=found)
    assert answer["level"] == level
    assert answer["text"].startswith(words)


COVERED = tuple(row("recall", against, 0.8, 0.78, 0.82) for against in ("held-out", "floor"))


def drawn(shares: list[float], count: int, seed: int) -> list[int]:
    """Counts of classes of `count` pictures with these shares."""
    return np.random.default_rng(seed).multinomial(count, np.array(shares) / sum(shares)).tolist()


def balanced(samples: list[int], training: list[int], held_out: list[int]) -> str:
    """The level of the answer on variety by counts of classes, recall being right."""
    classes = (torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)) for counts in (samples, training))
    found = class_metrics("f", *classes, len(samples), "training 0")
    rows = [{"against": "training", **metric.to_dict()} for metric in found]
    counts = {"samples": samples, "training": training, "held_out": held_out}
    return judged("varied", (*COVERED, *rows), counts)["level"]


def test_a_class_is_missing_only_where_samples_of_it_were_to_be_expected() -> None:
    nine = [1] * 9
    parts = {count: drawn([*nine, 1], count, count) for count in (500, 2000)}
    assert balanced(drawn([*nine, 0], 1000, 0), parts[2000], parts[500]) == "bad"
    # Of 1,000 samples 2 were to be expected.
    assert balanced([*drawn(nine, 1000, 0), 0], [*drawn(nine, 2000, 1), 4], [*drawn(nine, 500, 2), 1]) == "good"
    # The classifier finds the class in no held-out pictures either.
    assert balanced([*drawn(nine, 1000, 0), 0], [*drawn(nine, 2000, 1), 40], [*drawn(nine, 500, 2), 0]) == "good"


def test_many_classes_are_out_of_balance_only_beyond_chance() -> None:
    even = [1.0] * 100
    real = drawn(even, 5000, 0), drawn(even, 1000, 1)
    assert {balanced(drawn(even, 1000, seed), *real) for seed in range(2, 7)} == {"good"}
    assert balanced(drawn([5.0] * 50 + [1.0] * 50, 3000, 2), *real) == "middling"


@pytest.mark.parametrize(("low", "level"), [(0.01, "good"), (0.04, "middling")])
def test_samples_are_as_far_from_training_pictures_as_other_real_ones(low: float, level: str) -> None:
    frechet = [row("frechet_distance", against, 1.0, 0.9, 1.1) for against in ("held-out", "floor")]
    precision = [row("precision", against, 0.8, 0.78, 0.82) for against in ("held-out", "floor")]
    kernel = [
        row("kernel_distance", "training", low + 0.01, low, low + 0.02),
        row("kernel_distance", "floor", 0.02, 0.01, 0.03),
    ]
    assert judged("good", (*frechet, *precision, *kernel))["level"] == level


@pytest.mark.parametrize(
    ("low", "high", "level"),
    [(-0.05, 0.1, "good"), (-0.2, 0.6, "unknown"), (0.05, 0.6, "middling"), (0.3, 0.6, "bad")],
)
def test_a_gap_of_the_loss_that_few_pictures_leave_open_is_not_called_good(low: float, high: float, level: str) -> None:
    answer = judged("learning", learning={"gap": (low + high) / 2, "low": low, "high": high})
    assert answer["level"] == level
    assert answer["text"].startswith("Too few held-out pictures") == (level == "unknown")
