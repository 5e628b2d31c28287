"""Verdicts follow from the numbers of a report: what chance alone makes is held against no model."""

from typing import Any

import pytest

from unblot.evaluation.memorization import share_interval
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
