"""One process and two are the same run."""

import shutil
from pathlib import Path

import pytest
import torch

from helpers import by_two_processes, flags, torchrun
from unblot import UnblotError, api
from unblot.runs.folder import load_model
from unblot.runs.metrics import read_metrics
from unblot.training import checkpoint
from unblot.training.loss_by_time import REFRESH

CHOICES = {
    "network": "unet:width=16,multipliers=1,blocks=1",
    "batch_size": 40,
    "log_every": 1,
    "preview_every": 0,
    "warmup": 0,
}
LAST = REFRESH + 8
WHOLE = {**CHOICES, "decay": "none"}
SPREAD = {**WHOLE, "optimizer": "muon", "times": "adaptive"}
LATENTS = {**CHOICES, "latent": True, "latent_width": 8, "latent_steps": 6, "spectrum": "data", "size": "16"}


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run) if "loss" in line]


def measured(run: Path, step: int) -> dict:
    return next(line for line in read_metrics(run) if "held_out" in line and line["step"] == step)


def learned_by_time(run: Path, name: str) -> torch.Tensor:
    """What the newest checkpoint of a run holds of its losses by time; something was learned."""
    learned = checkpoint.load_newest(run)[0][f"task/{name}"]
    assert learned.std() > 0.01
    return learned


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Runs of two processes: `whole` and `spread`, which one process took over for a while, and `latents`."""
    folder = tmp_path_factory.mktemp("two")

    def run(name: str, steps: int, choices: dict) -> list[str]:
        return ["train", "digits", "--quiet", "--out", str(folder / name), *flags({**choices, "steps": steps})]

    def more(name: str) -> list[str]:
        return ["train", "--quiet", "--resume", str(folder / name), f"--steps={LAST}"]

    spread = {**SPREAD, "shard": "on", "preview_every": 40}
    by_two_processes(run("whole", LAST - 6, WHOLE), run("spread", LAST - 8, spread), run("latents", 8, LATENTS))
    api.resume(folder / "whole", steps=LAST - 3, quiet=True)
    api.resume(folder / "spread", steps=LAST - 4, quiet=True)
    by_two_processes(more("whole"), more("spread"))
    return folder


def test_one_process_and_two_give_the_same_losses_and_take_over_from_each_other(two, tmp_path):
    """With balanced losses, the default, whose weights change after the first REFRESH steps."""
    api.train("digits", out=tmp_path / "one", quiet=True, steps=LAST, **WHOLE)
    runs = tmp_path / "one", two / "whole"
    one, both = map(losses, runs)
    assert len(one) == len(both) == LAST
    assert both == pytest.approx(one, rel=1e-5)
    assert torch.equal(*(learned_by_time(run, "weights") for run in runs))
    for step in (0, LAST):
        one, both = (measured(run, step) for run in runs)
        assert both["held_out"] == pytest.approx(one["held_out"], rel=1e-4)
        assert both["training_parts"] == pytest.approx(one["training_parts"], rel=1e-4)


def test_a_network_spread_over_processes_is_the_network_and_the_run_goes_on_with_or_without(two, tmp_path):
    """With Muon, which has AdamW for a part of the weights, and with times whose density changes after REFRESH."""
    api.train("digits", out=tmp_path / "one", quiet=True, steps=LAST, **SPREAD)
    runs = tmp_path / "one", two / "spread"
    assert (two / "spread" / "training.log").read_text().count("spread over 2 processes") == 2
    one, both = map(losses, runs)
    assert len(one) == len(both) == LAST
    assert both == pytest.approx(one, rel=1e-5)
    assert torch.equal(*(learned_by_time(run, "density") for run in runs))
    (_, whole), (_, spread) = map(load_model, runs)
    for p, q in zip(whole.parameters(), spread.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-3, atol=1e-4)
    assert (two / "spread" / "samples" / "step_00000040.png").exists()


def test_two_processes_learn_the_latents_that_one_does(two, tmp_path):
    """The main process trains the autoencoder and fine-tunes its decoder; the other reads it, and waits."""
    api.train("digits", out=tmp_path / "one", quiet=True, steps=8, **LATENTS)
    assert losses(two / "latents") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert "fine-tuned in 8 steps" in (two / "latents" / "training.log").read_text()


def test_a_killed_process_is_brought_back_and_the_run_is_that_without_a_kill(tmp_path):
    """After step 8, from the checkpoint of step 5."""
    choices = {**CHOICES, "steps": 12, "checkpoint_every": 5, "held_out_every": 0}
    api.train("digits", out=tmp_path / "one", quiet=True, **choices)
    driver = str(Path(__file__).with_name("elastic_driver.py"))
    done = torchrun("--max-restarts=1", driver, str(tmp_path / "two"), "8")
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    assert (tmp_path / "two" / "training.log").read_text().count("12 steps of 40 into") == 2
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 12
    assert two == pytest.approx(one, rel=1e-5)


def test_an_error_of_the_process_that_reads_the_pictures_stops_the_others_with_the_same_line(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"half")
    done = torchrun("-m", "unblot", "train", str(tmp_path), "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("unblot: error:")]
    assert len(lines) == 2
    assert len(set(lines)) == 1
    assert "not one picture can be used" in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_run_that_torchrun_may_start_again_has_a_name_by_which_it_is_found(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(UnblotError, match="out='FOLDER'"):
        api.train("digits", steps=1, quiet=True)


def test_a_start_again_goes_on_where_it_began_and_no_other_start_does(tmp_path, monkeypatch):
    tiny = {**CHOICES, "held_out_every": 0, "out": tmp_path / "run", "quiet": True}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 7")
    api.train("digits", steps=2, **tiny)
    before = losses(tmp_path / "run")
    assert api.train("digits", steps=4, **tiny).config.train.steps == 2
    assert losses(tmp_path / "run") == before
    for other in ("job 8", "none"):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", other)
        with pytest.raises(UnblotError, match="holds a run"):
            api.train("digits", steps=2, **tiny)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with pytest.raises(UnblotError, match="holds a run"):
        api.train("digits", steps=2, **tiny)


def test_a_start_again_before_anything_was_computed_starts_anew(tmp_path, monkeypatch):
    """Killed between the making of its folder and its first line of metrics."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 7")
    tiny = {**CHOICES, "held_out_every": 0, "out": tmp_path / "run", "quiet": True}
    api.train("digits", steps=1, **tiny)
    for path in [*tmp_path.rglob("*")][::-1]:
        if path.is_file() and path.name not in ("config.json", ".launch"):
            path.unlink()
        elif path.is_dir() and path.name in ("checkpoints", "tensorboard", "snapshots"):
            shutil.rmtree(path)
    assert api.train("digits", steps=2, **tiny).config.train.steps == 2
