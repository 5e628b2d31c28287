"""What only some systems have is asked for where it is used, so that no import fails on another one."""

import ast
import os
import sys
from pathlib import Path

import pytest

import unblot
from unblot.errors import UnblotError
from unblot.runs.budget_plan import describe_plan
from unblot.studio.app import serve
from unblot.system.memory import machine_memory, peak_of_process

UNIX = {"resource", "fcntl", "grp", "pwd", "termios", "tty", "pty", "syslog"}


def test_no_module_imports_at_once_what_windows_lacks():
    for path in Path(unblot.__file__).parent.rglob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        named = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
        named |= {node.module for node in body if isinstance(node, ast.ImportFrom)}
        assert not named & UNIX, path


def test_where_the_system_does_not_say_the_memory_nothing_is_said(monkeypatch, tmp_path):
    assert peak_of_process() > 2**20
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_of_process() is None
    plan = {"budget": 60.0, "used": 1.0, "steps": 9, "batch_size": 8, "pictures": 72, "passes": 1.0, "trial_steps": 2}
    plan |= {"network": "mlp", "parameters": 1e6, "pictures_per_second": 9.0, "overhead_share": 0.1}
    plan |= {"step_seconds": 0.2, "ends": "2026-01-01T12:00:00"}
    assert "9 pictures/s, 2.0 GB of memory\n" in describe_plan({**plan, "memory": 2 * 10**9})
    assert "9 pictures/s\n" in describe_plan({**plan, "memory": None})
    monkeypatch.delattr(os, "sysconf")
    assert machine_memory((tmp_path / "missing",)) == sys.maxsize


def test_the_studio_says_where_it_cannot_stop_its_jobs(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "killpg")
    with pytest.raises(UnblotError, match="on Windows use WSL"):
        serve(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
