"""One process and two are the same run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unblot import api
from unblot.runs.folder import load_model
from unblot.runs.metrics import read_metrics
from unblot.training import checkpoint
from unblot.training.adaptive_times import REFRESH

CHOICES = {
    "network": "unet:width=16,multipliers=1,blocks=1",
    "batch_size": 40,
    "log_every": 1,
    "preview_every": 0,
    "warmup": 0,
}


def train_with_two_processes(*arguments: str) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in CHOICES.items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "unblot", "train"]
    resuming = "--resume" in arguments
    done = subprocess.run(
        [*command, "--quiet", *([] if resuming else flags), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run) if "loss" in line]


def measured(run: Path, step: int) -> dict:
    return next(line for line in read_metrics(run) if "held_out" in line and line["step"] == step)


def test_one_process_and_two_give_the_same_losses_and_take_over_from_each_other(tmp_path):
    api.train("digits", out=tmp_path / "one", quiet=True, steps=24, decay="none", **CHOICES)
    train_with_two_processes("digits", "--steps=16", "--decay=none", "--out", str(tmp_path / "two"))
    api.resume(tmp_path / "two", steps=20, quiet=True)
    train_with_two_processes("--resume", str(tmp_path / "two"), "--steps=24")
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 24
    assert two == pytest.approx(one, rel=1e-5)
    for step in (0, 24):
        one, two = (measured(tmp_path / name, step) for name in ("one", "two"))
        assert two["held_out"] == pytest.approx(one["held_out"], rel=1e-4)
        assert two["training_parts"] == pytest.approx(one["training_parts"], rel=1e-4)


def test_a_network_spread_over_processes_is_the_network_and_the_run_goes_on_with_or_without(tmp_path):
    """With Muon, which has AdamW for a part of the weights."""
    api.train("digits", out=tmp_path / "one", quiet=True, steps=12, decay="none", optimizer="muon", **CHOICES)
    begin = ("digits", "--steps=4", "--decay=none", "--shard=on", "--preview-every=2", "--optimizer=muon")
    train_with_two_processes(*begin, "--out", str(tmp_path / "two"))
    api.resume(tmp_path / "two", steps=8, quiet=True)
    train_with_two_processes("--resume", str(tmp_path / "two"), "--steps=12")
    assert (tmp_path / "two" / "training.log").read_text().count("spread over 2 processes") == 2
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 12
    assert two == pytest.approx(one, rel=1e-5)
    (_, whole), (_, spread) = (load_model(tmp_path / name) for name in ("one", "two"))
    for p, q in zip(whole.parameters(), spread.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "two" / "samples" / "step_00000002.png").exists()


def test_adaptive_times_are_the_same_on_one_process_and_two(tmp_path):
    steps = REFRESH + 8
    api.train("digits", out=tmp_path / "one", quiet=True, steps=steps, decay="none", times="adaptive", **CHOICES)
    begin = ("digits", f"--steps={steps - 4}", "--decay=none", "--times=adaptive")
    train_with_two_processes(*begin, "--out", str(tmp_path / "two"))
    api.resume(tmp_path / "two", steps=steps, quiet=True)
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == steps
    assert two == pytest.approx(one, rel=1e-5)
    (a, _), (b, _) = (checkpoint.load_newest(tmp_path / name) for name in ("one", "two"))
    assert a["task/density"].std() > 0.01
    assert torch.equal(a["task/density"], b["task/density"])
