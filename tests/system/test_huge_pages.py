"""A training asks malloc for huge pages, where the system gives them to who asks and the user has not chosen."""

import os
import sys

import pytest

from unblot.__main__ import run
from unblot.system import huge_pages
from unblot.system.huge_pages import TUNABLES, asking

MADVISE = "always [madvise] never\n"
ASKING = "glibc.malloc.hugetlb=1"


def test_what_the_user_has_chosen_stays_and_the_rest_is_kept():
    assert asking({"A": "b"}, MADVISE) == {"A": "b", TUNABLES: ASKING}
    assert asking({TUNABLES: "glibc.malloc.perturb=1"}, MADVISE) == {TUNABLES: f"glibc.malloc.perturb=1:{ASKING}"}
    assert asking({TUNABLES: "glibc.malloc.hugetlb=0"}, MADVISE) is None
    assert asking({TUNABLES: ASKING}, MADVISE) is None  # so a process is started again at most once


@pytest.mark.parametrize("state", ["[always] madvise never", "always madvise [never]", ""])
def test_where_asking_is_of_no_use_nothing_is_started_again(state):
    assert asking({}, state) is None


@pytest.mark.parametrize("executable", ["", "/no/such/python"])
def test_where_it_cannot_be_done_the_process_goes_on(executable, tmp_path, monkeypatch):
    monkeypatch.setattr(huge_pages, "STATE", tmp_path / "enabled")
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.delenv(TUNABLES, raising=False)
    huge_pages.start_again_asking()
    (tmp_path / "enabled").write_text(MADVISE)
    huge_pages.start_again_asking()


@pytest.mark.parametrize(("command", "again"), [("train", True), ("sample", False), ("--version", False)])
def test_only_a_training_is_started_again_with_the_same_arguments(command, again, tmp_path, monkeypatch):
    started = []

    def execve(path, arguments, environment):
        started.append((path, arguments, environment[TUNABLES]))
        raise SystemExit(0)

    (tmp_path / "enabled").write_text(MADVISE)
    monkeypatch.setattr(huge_pages, "STATE", tmp_path / "enabled")
    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.delenv(TUNABLES, raising=False)
    monkeypatch.setattr(sys, "argv", ["unblot", command, "--help"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "unblot", command, "--help"])
    with pytest.raises(SystemExit):
        run()
    expected = (sys.executable, [sys.executable, "-m", "unblot", command, "--help"], ASKING)
    assert started == ([expected] if again else [])
