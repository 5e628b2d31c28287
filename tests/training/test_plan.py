"""What a plan knows of the data: the standard deviation of its values, read once and not all at a time."""

import numpy as np
import pytest

from unblot import UnblotError, api
from unblot.config.schema import DataConfig
from unblot.data.dataset import Dataset, open_data
from unblot.training import plan as planning


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """How many pictures were read at a time, since the test began."""
    sizes, batch = [], Dataset.batch

    def counted(dataset: Dataset, indices: np.ndarray):
        sizes.append(len(indices))
        return batch(dataset, indices)

    monkeypatch.setattr(Dataset, "batch", counted)
    return sizes


@pytest.mark.parametrize("at_once", [2**24, 5 * 64 + 1, 1])
@pytest.mark.parametrize("spec", ["digits", "floats"])
def test_the_standard_deviation_is_that_of_all_values_however_they_are_read(spec, at_once, tmp_path, monkeypatch, read):
    if spec == "floats":
        spec = str(tmp_path / "a.npy")
        np.save(spec, np.random.default_rng(0).normal(3e4, 50, (90, 8, 8)).astype(np.float32))
    data = open_data(spec)
    expected = data.values.encode(data.pictures[data.train[: planning.STD_PICTURES]], np.float64).std(ddof=1)
    read.clear()
    monkeypatch.setattr(planning, "AT_ONCE", at_once)
    assert planning.facts_of(data).std == pytest.approx(expected, abs=6e-5)
    assert sum(read) == min(len(data.train), planning.STD_PICTURES)
    assert max(read) <= max(1, at_once // 64)


def test_what_is_measured_of_the_data_is_that_of_all_kinds_of_pictures_also_where_they_are_sorted(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(planning, "STD_PICTURES", 100)
    monkeypatch.setattr(planning, "SPECTRUM_VALUES", 40 * 256)
    dark_first = np.random.default_rng(0).integers(0, 9, (600, 16, 16), np.uint8)
    dark_first[300:] += 240
    mixed = dark_first[np.random.default_rng(1).permutation(600)]
    known = []
    for name, pictures in (("sorted", dark_first), ("mixed", mixed)):
        np.save(tmp_path / f"{name}.npy", pictures)
        choices = {"spectrum": "data", "clusters": 0}
        known.append(planning.plan_run(DataConfig(), open_data(str(tmp_path / f"{name}.npy")), choices).data)
    assert known[0].std == pytest.approx(known[1].std, rel=0.05)
    assert known[0].std > 0.8  # of values near -1 and near 1
    means = [float(facts.spectrum.split(":")[1].split(";")[0]) for facts in known]
    assert means == pytest.approx([0, 0], abs=0.1)  # from a quarter of the pictures, of both kinds


def test_the_data_is_read_once_for_all_plans_of_it_and_again_for_other_data(read):
    source, data, other = DataConfig(data="digits"), open_data("digits"), open_data("moons")
    first = planning.plan_run(source, data, {"batch_size": 8})
    assert planning.plan_run(source, data, {"batch_size": 16}).data == first.data
    assert len(read) == 1
    assert planning.plan_run(DataConfig(data="moons"), other, {}).data.std != first.data.std
    assert planning.plan_run(source, open_data("digits"), {}).data == first.data
    assert len(read) == 3


def test_a_spectrum_of_points_is_refused():
    with pytest.raises(UnblotError, match=r"spectrum='data' is of pictures"):
        api.plan("moons", quiet=True, spectrum="data")
