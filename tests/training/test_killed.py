"""A run that was killed without warning again and again is the run in one piece, byte for byte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("kill_driver.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")
def test_ten_kills_at_random_moments_change_nothing(tmp_path):
    for name, kills in (("straight", 0), ("killed", 10)):
        command = [sys.executable, str(DRIVER), str(tmp_path / name), str(kills)]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]

    def files(run: Path) -> dict[str, bytes]:
        """All that is not about times: model, metrics, previews, and checkpoints, which hold weights and average."""
        chosen = [run / "config.json", run / "model.safetensors", run / "metrics.jsonl"]
        chosen += [*(run / "samples").iterdir(), *(run / "checkpoints").rglob("state.safetensors")]
        return {str(path.relative_to(run)): path.read_bytes() for path in chosen}

    straight, killed = files(tmp_path / "straight"), files(tmp_path / "killed")
    assert straight.keys() == killed.keys()
    assert [name for name in straight if straight[name] != killed[name]] == []
    assert {"samples/step_00000120.png", "checkpoints/00000120/state.safetensors"} <= straight.keys()
    assert (tmp_path / "killed" / "training.log").read_text().count("120 steps of 16 into") >= 5  # it did start anew
