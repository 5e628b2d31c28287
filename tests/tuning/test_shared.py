"""Evaluating and tuning by several processes gives the figures of one."""

import json
import shutil

import pytest

import shared_driver
import unblot
from helpers import TINY_RUN, torchrun
from unblot.runs.shared import shares


@pytest.mark.parametrize("n", [1, 127, 128, 129, 1000])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_are_all_numbers_once_and_cut_between_batches(n, world):
    found = shares(n, 128, world)
    assert len(found) == world
    assert [i for share in found for i in share] == list(range(n))
    assert all(share.start % 128 == 0 or not share for share in found)


def test_two_processes_evaluate_and_tune_as_one_does(tmp_path):
    unblot.train("digits", out=tmp_path / "one", quiet=True, **TINY_RUN)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shared_driver.evaluate_and_tune(tmp_path / "one")
    done = torchrun(shared_driver.__file__, str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    a, b = (json.loads((tmp_path / name / "report" / "report.json").read_text()) for name in ("one", "two"))
    for row, other in zip(a["metrics"]["rows"], b["metrics"]["rows"], strict=True):
        assert other["value"] == pytest.approx(row["value"], rel=1e-5), row
    for part in ("spectrum", "originality", "likelihood", "learning"):
        assert b[part] == a[part]
    a, b = (json.loads((tmp_path / name / "tuning.json").read_text())["candidates"] for name in ("one", "two"))
    assert [row["sampler"] for row in a] == [row["sampler"] for row in b]
    assert [row["distance"] for row in b] == pytest.approx([row["distance"] for row in a], rel=1e-5)
