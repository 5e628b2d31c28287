"""What is compared, and the judge: the same for any number of samples and for all that ask."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from unblot.api import plan
from unblot.config.measuring import EmaConfig
from unblot.data.dataset import Dataset, open_data
from unblot.evaluation import classifier
from unblot.evaluation.measure import Options, metrics
from unblot.evaluation.parts import parts_of
from unblot.tuning.ema_std import distance
from unblot.tuning.reference import reference_of


@pytest.fixture(scope="module")
def few() -> Dataset:
    dataset = open_data("digits")
    return replace(dataset, train=dataset.train[:60], held_out=dataset.held_out[:50])


def test_the_judge_is_the_same_for_any_number_of_samples_and_all_that_ask(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "STEPS", 3)
    cache, found = tmp_path / "features", [parts_of(few, few.pictures[:n]) for n in (10, 30)]
    for parts in found:
        metrics(parts, few, Options(("classifier",), cache=cache), pytest.fail)
    for one, other in zip(*(parts[1:] for parts in found), strict=True):
        assert np.array_equal(one.indices, other.indices)
    reference_of(few, "classifier", cache)
    distance(SimpleNamespace(config=plan("digits", quiet=True)), few, EmaConfig(n=4), tmp_path)
    assert len(list(cache.iterdir())) == 1


def test_samples_and_floor_are_compared_in_equal_numbers(few: Dataset) -> None:
    notes: list[str] = []
    parts = parts_of(few, few.pictures[:100])
    found = metrics(parts, few, Options(("pixels:dims=8",)), notes.append)
    numbers = {row["against"]: row["n_samples"] for row in found["rows"] if row["name"] == "frechet_distance"}
    assert numbers == {"training": 100, "held-out": 60, "floor": 60}
    assert len(notes) == 1
    assert notes[0].startswith("60 of the samples are compared with held-out pictures")
