"""Many samples: the same at once, after a stop and in shards, and no foreign file touched."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unblot
from helpers import TINY_RUN, flags, torchrun
from unblot import UnblotError
from unblot.api import Run
from unblot.runs import bulk
from unblot.runs.folder import save_model
from unblot.sampling.batched import sampling_levels
from unblot.system.distributed import Group

CHOICES = {"steps": 2, "seed": 7, "label": "all"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "r"
    return unblot.train("digits", out=folder, quiet=True, **{**TINY_RUN, "steps": 2})


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(bulk, "SHARD", 8)
    monkeypatch.setattr(bulk, "MANY", 20)


def contents(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("n", [13, 21], ids=["files", "shards"])
def test_killed_anywhere_and_called_again_it_gives_what_an_uninterrupted_call_gives(run, tmp_path, monkeypatch, n):
    bulk.sample_to_folder(tmp_path / "whole", run, n, batch_size=4, **CHOICES)
    sample_with, calls = Run.sample_with, []

    def dying(self, *args, **kwargs):
        calls.append(1)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        return sample_with(self, *args, **kwargs)

    monkeypatch.setattr(Run, "sample_with", dying)
    for _ in range(20):
        try:
            bulk.sample_to_folder(tmp_path / "stopped", run, n, batch_size=4, **CHOICES)
            break
        except KeyboardInterrupt:
            continue
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_missing_sample_is_made_again(run, tmp_path):
    bulk.sample_to_folder(tmp_path / "a", run, 9, batch_size=4, **CHOICES)
    before = contents(tmp_path / "a")
    (tmp_path / "a" / "000006.png").unlink()
    bulk.sample_to_folder(tmp_path / "a", run, 9, batch_size=4, **CHOICES)
    assert contents(tmp_path / "a") == before


@pytest.mark.parametrize("n", [13, 21], ids=["files", "shards"])
def test_processes_share_it_out_without_gap_or_difference(run, tmp_path, n, monkeypatch):
    """One after another in this process, where each knows the folder and need not be told of it."""
    monkeypatch.setattr("unblot.system.folders.decided", lambda group, decide: decide())
    bulk.sample_to_folder(tmp_path / "one", run, n, batch_size=4, **CHOICES)
    for rank in range(3):
        bulk.sample_to_folder(tmp_path / "three", run, n, batch_size=4, group=Group(rank, 3), **CHOICES)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_a_killed_call_resumed_by_two_processes_is_the_same(run, tmp_path):
    command = ["-m", "unblot", "sample", str(run.path), "-n", "300", "--steps", "2", "--batch-size", "5"]
    command += ["--seed", "7", "--out", str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    drawing = subprocess.Popen([sys.executable, *command], env=environment)
    while not len(list(tmp_path.glob("killed/0*.png"))) > 20:
        assert drawing.poll() is None
        time.sleep(0.01)
    drawing.send_signal(signal.SIGKILL)
    assert drawing.wait() == -signal.SIGKILL
    left = tmp_path / "killed" / ".000299.png.1.part"  # as by a process that was killed while it wrote
    left.write_bytes(b"half")
    there = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("killed/0*.png")}
    assert len(there) < 300
    done = torchrun(*command)
    assert done.returncode == 0, done.stderr
    whole = run.sample(300, steps=2, seed=7).array[:, 0].astype(int)
    for i, alone in enumerate(whole):
        drawn = np.asarray(Image.open(tmp_path / "killed" / f"{i:06d}.png")).astype(int)
        assert np.abs(drawn - alone).max() <= 1  # another batch, one grey level
    assert len(list(tmp_path.glob("killed/0*.png"))) == 300
    assert not left.exists()
    begun = 5 * (len(there) // 5)  # a batch that was killed half-written is sampled again as a whole
    kept = {name: at for name, at in there.items() if int(name[:6]) < begun}
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("killed/0*.png")}.items()


def test_of_two_processes_one_is_killed_and_what_is_there_then_is_what_one_process_draws(run, tmp_path):
    bulk.sample_to_folder(tmp_path / "one", run, 19, batch_size=4, **CHOICES)
    command = [str(Path(__file__).with_name("bulk_driver.py")), str(run.path), "-n", "19", "--batch-size", "4"]
    done = torchrun("--max-restarts=1", *command, "--out", str(tmp_path / "two"), *flags(CHOICES))
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if name != "manifest.json" and one[name] != two[name]] == []


def test_sample_i_is_the_same_alone_and_among_many(run, tmp_path):
    bulk.sample_to_folder(tmp_path, run, 13, batch_size=4, **CHOICES)
    for i in (0, 7, 12):
        drawn = np.asarray(Image.open(tmp_path / f"{i:06d}.png")).astype(int)
        alone = run.sample(1, first=i, batch_size=1, **CHOICES).array[0, 0].astype(int)
        assert np.abs(drawn - alone).max() <= 1


def test_overwriting_by_several_processes_loses_nothing(run, tmp_path):
    """Whichever process writes first, the files of an earlier call are removed before."""
    bulk.sample_to_folder(tmp_path / "a", run, 13, batch_size=4, **CHOICES)
    command = ["-m", "unblot", "sample", str(run.path), "-n", "9", "--steps", "2", "--batch-size", "1"]
    done = torchrun(*command, "--out", str(tmp_path / "a"), "--overwrite")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "a").glob("0*.png")) == [f"{i:06d}.png" for i in range(9)]


def test_shards_hold_what_files_hold(run, tmp_path):
    bulk.sample_to_folder(tmp_path, run, 21, **CHOICES)
    drawn = run.sample(21, **CHOICES)
    shards, labels = ([np.load(p) for p in sorted(tmp_path.glob(f"{kind}-*.npy"))] for kind in ("shard", "labels"))
    assert [len(s) for s in shards] == [8, 8, 5]
    assert np.array_equal(np.concatenate(shards), drawn.array)
    assert np.concatenate(labels).tolist() == drawn.labels


def test_other_choices_do_not_mix_with_what_is_there(run, tmp_path):
    bulk.sample_to_folder(tmp_path / "a", run, 5, **CHOICES)
    for change in ({"seed": 8}, {"label": "3"}, {"steps": 3}):
        with pytest.raises(UnblotError, match="other choices"):
            bulk.sample_to_folder(tmp_path / "a", run, 5, **{**CHOICES, **change})
    bulk.sample_to_folder(tmp_path / "a", run, 3, overwrite=True, **CHOICES)
    assert sorted(contents(tmp_path / "a")) == ["000000.png", "000001.png", "000002.png", "grid.png", "manifest.json"]
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["n"] == 3


def test_another_weaker_model_in_the_same_place_does_not_mix_with_what_is_there(run, tmp_path):
    weights, weak = run.denoiser.state_dict(), tmp_path / "weak.safetensors"
    save_model(weak, run.config, {name: 0.9 * w for name, w in weights.items()})
    choices = {**CHOICES, "autoguide": weak, "guidance": 2.0}
    for _ in range(2):
        bulk.sample_to_folder(tmp_path / "a", run, 2, **choices)
    save_model(weak, run.config, {name: 0.8 * w for name, w in weights.items()})
    with pytest.raises(UnblotError, match="samples of another model"):
        bulk.sample_to_folder(tmp_path / "a", run, 2, **choices)


def test_overwriting_leaves_other_peoples_files(run, tmp_path):
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(UnblotError, match="holds files already"):
        bulk.sample_to_folder(tmp_path, run, 2, **CHOICES)
    bulk.sample_to_folder(tmp_path, run, 2, overwrite=True, **CHOICES)
    assert (tmp_path / "mine.txt").read_text() == "dear"


def test_manifest_and_files_say_how_each_picture_came_about(run, tmp_path):
    bulk.sample_to_folder(tmp_path, run, 3, seed=7, steps=4, solver="ddim:eta=0.5", spacing="karras")
    drawn = json.loads((tmp_path / "manifest.json").read_text())["sampled_with"]
    expected = {"run": run.path.name, "seed": 7, "steps": 4, "solver": "ddim:eta=0.5"}
    assert expected.items() <= drawn.items()
    assert drawn["schedule"].startswith("edm")
    assert drawn["nfe"] == 2 * 4  # guided towards its label
    levels = sampling_levels(drawn["schedule"], drawn["spacing"], 4)
    assert drawn["levels"] == pytest.approx((levels.sigma / levels.alpha).tolist(), rel=1e-5)
    about = json.loads(Image.open(tmp_path / "000002.png").text["unblot"])
    level_choices = {name: drawn[name] for name in ("schedule", "spacing", "steps")}
    assert (expected | level_choices | {"index": 2}).items() <= about.items()


def test_nothing_is_written_for_choices_that_cannot_be(run, tmp_path):
    for wrong in ({"solver": "ddim:eta=-1"}, {"label": "cat"}, {"steps": 0}):
        with pytest.raises(UnblotError):
            bulk.sample_to_folder(tmp_path / "out", run, 2, **{**CHOICES, **wrong})
    assert not (tmp_path / "out").exists()
