"""A training that is stopped saves what it has, and its exit code says that it has not finished."""

import json
import signal
from pathlib import Path

import pytest

from helpers import TINY, stopped_after
from unblot.cli.parser import main


def test_a_training_or_distillation_that_is_stopped_exits_with_130_and_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, few = tmp_path / "run", tmp_path / "few"
    before = signal.getsignal(signal.SIGINT)
    for out, argv in ((run, ["train", "digits", *TINY]), (few, ["distill", str(run), "--steps", "4"])):
        with monkeypatch.context() as patched:
            stopped_after(patched, 2)
            assert main([*argv, "--out", str(out), "--quiet"]) == 130
        assert f"next      unblot train --resume {out}\n" in capsys.readouterr().out
        assert json.loads((out / "checkpoints" / "00000002" / "state.json").read_text())["step"] == 2
        assert main(["train", "--resume", str(out), "--quiet"]) == 0
        assert f"next      unblot sample {out}\n" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) == before


def test_a_stop_after_the_last_step_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_after(monkeypatch, 4)
    assert main(["train", "digits", *TINY, "--out", str(tmp_path / "run"), "--quiet"]) == 0
