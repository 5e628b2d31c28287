"""Clusters: the same each time, of training pictures alone, and drawn from as often as they come."""

import dataclasses

import numpy as np
import pytest
import torch

from unblot.data import values
from unblot.data.clusters import clustered, clustered_again, shares
from unblot.data.dataset import Dataset, open_data
from unblot.errors import UnblotError
from unblot.process.randomness import labels_for, spread_labels


@pytest.fixture
def digits() -> Dataset:
    return open_data("digits", labels=False)


def test_every_picture_belongs_to_one_of_them(digits: Dataset) -> None:
    found = clustered(digits, 12)
    assert found.labels is not None
    assert found.labels.shape == (len(digits),)
    assert set(found.labels.tolist()) == set(range(12))
    assert sum(shares(digits, 12)) == pytest.approx(1, abs=1e-4)


def test_they_are_the_same_each_time(digits: Dataset) -> None:
    again = open_data("digits", labels=False)
    assert np.array_equal(clustered(digits, 9).labels, clustered(again, 9).labels)


@pytest.mark.parametrize("step", [1, 64 * 1000])
def test_they_do_not_depend_on_how_much_is_held_in_memory(step: int, digits: Dataset, monkeypatch) -> None:
    whole = clustered(digits, 7).labels
    monkeypatch.setattr(values, "CHUNK_VALUES", step)
    sizes: list[int] = []
    was = Dataset.batch
    monkeypatch.setattr(Dataset, "batch", lambda self, index: sizes.append(len(index)) or was(self, index))
    assert np.array_equal(clustered(open_data("digits", labels=False), 7).labels, whole)
    assert max(sizes) == max(1, step // 64)


def test_they_know_more_of_the_classes_than_chance() -> None:
    data = open_data("digits")
    found = clustered(data, 10).labels
    assert found is not None
    assert data.labels is not None
    table = np.zeros((10, 10))
    np.add.at(table, (found, data.labels), 1)
    assert table.max(1).sum() / len(data) > 0.6  # chance: 0.1


def test_one_pixel_and_few_pictures(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((40, 3, 1, 5), dtype=np.float32))
    assert len(shares(open_data(str(tmp_path / "a.npy")), 4)) == 4


def test_labels_follow_from_seed_and_index_alone() -> None:
    told = [0.5, 0.2, 0.3]
    whole = spread_labels(3, range(1000), told)
    assert torch.equal(whole[400:500], spread_labels(3, range(400, 500), told))
    assert not torch.equal(whole, spread_labels(4, range(1000), told))


@pytest.mark.parametrize("first", [0, 12345])
def test_labels_come_as_often_as_they_should_in_any_stretch(first: int) -> None:
    told = np.array([0.5, 0.2, 0.25, 0.05])
    found = np.bincount(spread_labels(0, range(first, first + 400), told.tolist()).numpy(), minlength=4)
    assert np.abs(found - 400 * told).max() <= 4  # independent draws: 10 is one standard deviation for the first


def test_labels_that_nobody_chose() -> None:
    assert labels_for(0, range(5)) is None
    found = labels_for(0, range(3, 8), classes=4)
    assert found is not None
    assert found.tolist() == [3, 0, 1, 2, 3]
    told = labels_for(7, range(3, 8), clusters=(0.5, 0.5))
    assert told is not None
    assert torch.equal(told, spread_labels(7, range(3, 8), (0.5, 0.5)))


@pytest.mark.parametrize("clusters", [1, 5000])
def test_a_number_that_makes_no_sense_is_refused(clusters: int) -> None:
    from unblot import api
    from unblot.config.schema import DataConfig

    source = DataConfig(data="digits", unlabelled=True)
    with pytest.raises(UnblotError, match=f"not {clusters}"):
        api.plan_run(source, api.open_dataset(source), {"clusters": clusters})


def test_labels_and_clusters_exclude_each_other() -> None:
    from unblot import api
    from unblot.config.schema import DataConfig

    source = DataConfig(data="digits")
    with pytest.raises(UnblotError, match="unlabelled=True"):
        api.plan_run(source, api.open_dataset(source), {"clusters": 10})
    assert api.plan_run(source, api.open_dataset(source), {}).data.clusters == ()


def test_a_run_goes_on_with_the_clusters_that_it_learned_and_no_others(digits: Dataset) -> None:
    known = shares(digits, 5)
    assert np.array_equal(clustered_again(digits, known).labels, clustered(digits, 5).labels)
    nearly = (known[0] + 0.004, known[1] - 0.004, *known[2:])  # as few pictures between two centres
    assert clustered_again(digits, nearly).labels is not None
    assert clustered_again(digits, ()) is digits
    with pytest.raises(UnblotError, match=r"the 5 clusters found in 'digits' now are not those that the run learned"):
        clustered_again(digits, known[::-1])


def test_a_training_is_refused_whose_clusters_are_others_now(digits: Dataset) -> None:
    from unblot import api
    from unblot.config.schema import DataConfig
    from unblot.training.batches import BatchMaker

    config = api.plan_run(DataConfig(data="digits", unlabelled=True), digits, {"clusters": 5})
    BatchMaker(config, digits, "none")
    other = dataclasses.replace(config.data, clusters=config.data.clusters[::-1])
    with pytest.raises(UnblotError, match="are not those that the run learned"):
        BatchMaker(dataclasses.replace(config, data=other), digits, "none")
