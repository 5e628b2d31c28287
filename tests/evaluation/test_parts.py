"""What is compared, and the judge: the same for any number of samples and for all that ask."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from unblot.data.dataset import open_data
from unblot.evaluation import classifier
from unblot.evaluation.measure import Options, metrics
from unblot.evaluation.parts import parts_of
from unblot.tuning.ema_std import distance
from unblot.tuning.reference import reference_statistics


def test_the_judge_is_the_same_for_any_number_of_samples_and_all_that_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "STEPS", 3)
    dataset, cache = open_data("digits"), tmp_path / "features"
    found = [parts_of(dataset, dataset.pictures[:n]) for n in (50, 120)]
    for parts in found:
        metrics(parts, dataset, Options(("classifier",), cache=cache), pytest.fail)
    for one, other in zip(*(parts[1:] for parts in found), strict=True):
        assert np.array_equal(one.indices, other.indices)
    reference_statistics(dataset, "classifier", cache)
    distance(SimpleNamespace(train=None, data=None), dataset, 4, 0, tmp_path)
    assert len(list(cache.iterdir())) == 1
