"""Every two choices together are planned or refused in one line; what is planned trains, resumes, samples."""

import itertools
import random

import numpy as np
import pytest

import unblot
from unblot import UnblotError, api
from unblot.training.batches import TIMES
from unblot.training.plan import SPECS

FIELDS = [
    "schedule",
    "parameterization",
    "objective",
    "weighting",
    "spacing",
    "solver",
    "augment",
    "coupling",
    "optimizer",
]
TABLE = {"times": list(TIMES)} | {name: list(SPECS[name]) for name in FIELDS}
SPELLED = {
    "listed": "listed:ratios=80/1",
    "plain": "plain:flip=true,shift=1",
}  # entries that need an option, or do nothing
TINY = {
    "network": "mlp:width=16,depth=1",
    "steps": 3,
    "preview_every": 3,
    "batch_size": 8,
    "sampling_steps": 2,
    "held_out_every": 0,
}


def covering(size: int, rng: random.Random) -> list[dict[str, str]]:
    """Rows of choices in which every combination of `size` entries of different tables stands at least once."""
    names = sorted(TABLE)
    left = [dict(zip(some, entries)) for some in itertools.combinations(names, size)
            for entries in itertools.product(*(TABLE[name] for name in some))]  # fmt: skip
    rng.shuffle(left)
    rows: list[dict[str, str]] = []
    missing = {tuple(sorted(part.items())) for part in left}
    for part in left:
        if tuple(sorted(part.items())) in missing:
            tries = [{name: rng.choice(TABLE[name]) for name in names} | part for _ in range(12)]
            row = max(tries, key=lambda row: len(missing & set(itertools.combinations(sorted(row.items()), size))))
            missing -= set(itertools.combinations(sorted(row.items()), size))
            rows.append(row)
    return rows


def choices(row: dict[str, str]) -> dict[str, object]:
    return TINY | {name: SPELLED.get(entry, entry) for name, entry in row.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pictures.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (48, 4, 4), np.uint8))
    return str(path)


def plan(dataset, data, row):
    """The plan of these choices; None where they are refused, in one line."""
    try:
        return api.plan_run(api.DataConfig(data=data), dataset, choices(row))
    except UnblotError as e:
        if "\n" in str(e):
            raise
        return None


def test_every_two_choices_are_planned_or_refused_in_one_line(data):
    dataset = api.open_data(data)
    rows = covering(2, random.Random(0))
    planned = [row for row in rows if plan(dataset, data, row)]
    assert len(planned) > len(rows) / 2
    seen = {entry for row in planned for entry in row.items()}
    assert {(name, entry) for name, entries in TABLE.items() for entry in entries} <= seen


def test_what_is_planned_trains_resumes_samples_and_evaluates(data, tmp_path):
    dataset, rng = api.open_data(data), random.Random(1)
    for i, row in enumerate(row for row in covering(1, rng) + covering(1, rng) if plan(dataset, data, row)):
        try:
            run = unblot.train(data, out=tmp_path / str(i), quiet=True, **choices(row))
            run = unblot.resume(run.path, steps=4, quiet=True)
            assert run.sample(2, batch_size=2).array.shape == (2, 1, 4, 4)
            if i < 4:
                unblot.evaluate(run.path, n=4, likelihood=2, features="pixels", quiet=True)
        except Exception as e:
            raise AssertionError(row) from e
