"""What can happen to a run from outside, and by design: one clear line, and nothing good is lost."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import flags, stopped_after
from unblot import UnblotError, api
from unblot.cli.parser import main
from unblot.runs.folder import BEST, LOG, METRICS, MODEL
from unblot.runs.metrics import read_metrics
from unblot.system.folders import locked
from unblot.training import checkpoint
from unblot.training.diagnostics import run_logger
from unblot.training.diagnostics.held_out import HeldOutLoss
from unblot.training.task import DenoisingTask
from unblot.training.trainer import Trainer

TINY = {
    "network": "unet:width=8,multipliers=1,blocks=1,attention=",
    "steps": 8,
    "batch_size": 16,
    "log_every": 2,
    "held_out_every": 4,
    "preview_every": 0,
    "checkpoint_every": 4,
}
FLAGS = flags(TINY)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def told(capsys):
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("unblot: error: ")
    return error


def test_two_processes_on_one_run_folder(tmp_path, capsys):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    before = contents(folder)
    with locked(folder):
        assert main(["train", "--resume", str(folder), "--steps", "12", "--quiet"]) == 2
        assert "in use by another process" in told(capsys)
        assert main(["train", "digits", "--out", str(folder), "--overwrite", "--quiet", *FLAGS]) == 2
        assert "in use by another process" in told(capsys)
    assert contents(folder) == before
    api.resume(folder, steps=12, quiet=True)


def test_a_picture_deleted_from_the_data(tmp_path, capsys):
    pictures, folder = tmp_path / "pictures", tmp_path / "run"
    pictures.mkdir()
    for i, array in enumerate(np.random.default_rng(0).integers(0, 255, (24, 8, 8), dtype=np.uint8)):
        Image.fromarray(array).save(pictures / f"{i}.png")
    api.train(str(pictures), out=folder, quiet=True, **TINY)
    before = contents(folder)
    (pictures / "7.png").unlink()
    assert main(["train", "--resume", str(folder), "--steps", "12", "--quiet"]) == 2
    assert "put it back as it was" in told(capsys)
    assert contents(folder) == before


def test_a_changed_option_on_resume(tmp_path, capsys):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    before = contents(folder)
    assert main(["train", "--resume", str(folder), "--batch-size", "32"]) == 2
    assert "leave out --batch-size" in told(capsys)
    assert contents(folder) == before
    config = json.loads((folder / "config.json").read_text())
    config["train"]["network"] = config["train"]["network"].replace("width=8", "width=16")
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["train", "--resume", str(folder), "--steps", "12", "--quiet"]) == 2
    assert "do not fit its config.json" in told(capsys)


def test_metrics_that_are_missing_or_torn(tmp_path):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    lines = read_metrics(folder)
    with (folder / METRICS).open("a") as file:
        file.write('{"step": 9, "lo')
    assert read_metrics(folder) == lines
    (folder / METRICS).unlink()
    api.resume(folder, steps=10, quiet=True)
    assert [line["step"] for line in read_metrics(folder)] == [10, 10]
    assert "lines are missing" in (folder / LOG).read_text()


def test_an_infinite_picture_is_named(tmp_path, capsys):
    pictures = np.random.default_rng(0).normal(size=(60, 8, 8)).astype(np.float32)
    pictures[17, 3, 3] = np.inf
    np.save(tmp_path / "poisoned.npy", pictures)
    argv = ["train", str(tmp_path / "poisoned.npy"), "--out", str(tmp_path / "run"), "--quiet", *FLAGS]
    assert main(argv) == 2
    assert "picture 17: some of its values are not finite" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*argv, "--on-broken", "skip"]) == 0


def test_a_picture_that_makes_the_loss_infinite_is_named(monkeypatch):
    dataset = api.open_data("digits")
    config = api.plan_run(api.DataConfig(data="digits"), dataset, TINY)
    trainer = Trainer(config, DenoisingTask(config, dataset))
    trainer.take_step()
    third = int(dataset.train[trainer.task.batches.sampler.at(0).pictures[3]])
    losses = Trainer.losses

    def infinite(self, batch):
        bad = (batch.x0 == dataset.batch(np.array([third]))[0]).flatten(1).all(1)
        return {name: loss.masked_fill(bad, float("inf")) for name, loss in losses(self, batch).items()}

    monkeypatch.setattr(Trainer, "losses", infinite)
    assert (
        run_logger.culprits(dataset, *trainer.last_losses())
        == f"the loss of {dataset.cached.names[third]} was not finite"
    )
    monkeypatch.setattr(Trainer, "losses", losses)
    assert run_logger.culprits(dataset, *trainer.last_losses()).startswith("the last batch held ")


def test_a_learning_rate_of_1_recovers_or_stops_and_says_why(tmp_path):
    folder, choices = tmp_path / "run", {**TINY, "steps": 60, "checkpoint_every": 20, "learning_rate": 1.0}
    stopped = ""
    try:
        run = api.train("digits", out=folder, quiet=True, **choices)
    except UnblotError as e:
        stopped = str(e)
    assert "the learning rate is too high" in stopped or all(p.isfinite().all() for p in run.denoiser.parameters())
    assert "the learning rate is too high; back to step" in (folder / LOG).read_text()


def a_skipped_step(patched):
    take_step = Trainer.take_step

    def skipped(trainer):
        result = take_step(trainer)
        trainer.skipped_steps = torch.tensor(float(trainer.step == 6))
        return result

    patched.setattr(Trainer, "take_step", skipped)


def a_loss_that_diverges(patched):
    patched.setattr(run_logger.RunLogger, "sound", lambda logger: logger.metrics.lines[-1]["step"] < 6)


@pytest.mark.parametrize("wrong", [a_skipped_step, a_loss_that_diverges])
def test_what_is_stopped_where_it_goes_wrong_goes_on_from_the_last_good_checkpoint(wrong, tmp_path, monkeypatch):
    straight = api.train("digits", out=tmp_path / "straight", quiet=True, **TINY).path
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        wrong(patched)
        stopped_after(patched, 6)
        assert api.train("digits", out=folder, quiet=True, **TINY).interrupted
    assert checkpoint.steps_saved(folder) == [0, 4]
    said = "step 6 is not saved, since its loss is not finite or far too large; the run goes on from step 4"
    assert said in (folder / LOG).read_text()
    api.resume(folder, quiet=True)
    assert (folder / MODEL).read_bytes() == (straight / MODEL).read_bytes()


def test_the_best_checkpoint_is_kept_and_an_overfit_run_can_be_drawn_from_it(tmp_path, monkeypatch):
    measure = HeldOutLoss.measure

    def overfit(self, step, *given):
        """Least at step 8, then rising."""
        line = measure(self, step, *given)
        held_out = 1 + 0.1 * abs(step - 8)
        more = {"training": [1 - step / 100] * 5, "held_out": [held_out] * 5, "held_out_parts": [held_out] * 8}
        return {**line, **more}

    monkeypatch.setattr(HeldOutLoss, "measure", overfit)
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **{**TINY, "steps": 24})
    assert checkpoint.steps_saved(folder) == [8, 20, 24]
    assert checkpoint.best_saved(folder) == 8
    log = (folder / LOG).read_text()
    assert log.count("warning: overfitting") == 1
    assert "would not help" in log
    best, last = api.load(folder / BEST), api.load(folder)
    kept = checkpoint.load(folder, 8)[0]
    for (name, a), b in zip(best.denoiser.named_parameters(), last.denoiser.parameters(), strict=True):
        assert a.equal(kept[f"ema/{name}"])
        assert not a.equal(b)
    assert best.sample(2).array.shape == (2, 1, 8, 8)


def damage(path, change):
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))


STATES = {
    "another step": lambda s: s.update(step=7),
    "another rate": lambda s: s.update(rate_scale=3.0),
    "more steps": lambda s: s.update(steps=800),
    "NaN": lambda s: s.update(rate_scale=float("nan")),
    "a missing key": lambda s: s.pop("switch"),
    "no checksum": lambda s: s.pop("state_sha256"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_changed_state_is_a_damaged_checkpoint_and_the_one_before_is_taken(name, tmp_path):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    model = (folder / MODEL).read_bytes()
    damage(folder / "checkpoints" / "00000008" / "state.json", STATES[name])
    api.resume(folder, quiet=True)
    assert "checkpoint passed over" in (folder / LOG).read_text()
    assert (folder / MODEL).read_bytes() == model


def test_a_state_that_is_no_state_is_a_damaged_checkpoint(tmp_path):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    path = folder / "checkpoints" / "00000008" / "state.json"
    for raw in (b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(raw)
        assert checkpoint.load_newest(folder, lambda line: None)[1]["step"] == 4


def test_files_of_others_in_a_checkpoint_stay_when_it_is_written_again(tmp_path):
    place = checkpoint.save(tmp_path, 4, {"x": torch.zeros(2)}, {}, "")
    (place / "notes").mkdir()
    (place / "notes" / "mine.txt").write_text("dear")
    checkpoint.save(tmp_path, 4, {"x": torch.ones(2)}, {}, "")
    assert checkpoint.load(tmp_path, 4)[0]["x"].tolist() == [1, 1]
    for step in (5, 6, 7):
        checkpoint.save(tmp_path, step, {"x": torch.ones(2)}, {}, "")
    assert checkpoint.steps_saved(tmp_path) == [6, 7]
    assert (place / "notes" / "mine.txt").read_text() == "dear"
    (tmp_path / "checkpoints" / "00000008").write_text("dear")
    with pytest.raises(UnblotError, match=r"is no folder.*move it away"):
        checkpoint.save(tmp_path, 8, {"x": torch.ones(2)}, {}, "")
    assert (tmp_path / "checkpoints" / "00000008").read_text() == "dear"
    assert not list(tmp_path.rglob("*.part"))


def test_a_state_that_is_no_regular_file_keeps_nobody_waiting(tmp_path):
    for step in (4, 5):
        checkpoint.save(tmp_path, step, {"x": torch.zeros(2)}, {}, "")
    (tmp_path / "checkpoints" / "00000005" / "state.json").unlink()
    os.mkfifo(tmp_path / "checkpoints" / "00000005" / "state.json")
    assert checkpoint.load_newest(tmp_path, lambda line: None)[1]["step"] == 4


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    for name, seed in (("one", 0), ("other", 1)):
        api.train("digits", out=tmp_path / name, quiet=True, **TINY, seed=seed)
    for step in ("00000004", "00000008"):
        shutil.rmtree(tmp_path / "one" / "checkpoints" / step)
        shutil.copytree(tmp_path / "other" / "checkpoints" / step, tmp_path / "one" / "checkpoints" / step)
    with pytest.raises(UnblotError, match=r"do not fit its config\.json.*another run"):
        api.resume(tmp_path / "one", steps=12, quiet=True)


def test_damaged_metrics_are_cut_at_the_last_newline_and_bad_lines_skipped(tmp_path):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    lines = read_metrics(folder)
    raw = (folder / METRICS).read_bytes().splitlines(keepends=True)
    bad = [b"{not JSON}\n", b"[1]\n", b'{"step": "4", "loss": 1}\n', b'{"step": 4, "loss": "1", "grad_norm": 1}\n']
    (folder / METRICS).write_bytes(b"".join([*raw[:2], *bad, b"\xff\n", *raw[2:-1], raw[-1][:9]]))
    assert read_metrics(folder) == lines[:-1]
    api.resume(folder, steps=12, quiet=True)
    log = (folder / LOG).read_text()
    assert "5 damaged lines skipped" in log
    assert read_metrics(folder)[: len(lines) - 2] == lines[:-2]
    assert read_metrics(folder)[-1]["step"] == 12
    assert (folder / METRICS).read_bytes().endswith(b"}\n")


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again_on_resume(tmp_path):
    straight, folder = tmp_path / "straight", tmp_path / "run"
    api.train("digits", out=straight, quiet=True, **TINY)
    shutil.copytree(straight, folder)
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints" / "00000000.part").mkdir(parents=True)
    left = [f".{MODEL}.7.part", f".{METRICS}.1.part", ".config.json.77.part", "checkpoints/00000000.part"]
    for name in left[:3]:
        (folder / name).write_bytes(b"half")
    mine = folder / "thesis.part"
    mine.write_text("mine")
    (folder / MODEL).unlink()
    api.resume(folder, quiet=True)
    assert (folder / MODEL).read_bytes() == (straight / MODEL).read_bytes()
    assert not any((folder / name).exists() for name in (left[0], *left[2:]))
    assert mine.read_text() == "mine"


def test_fewer_steps_than_were_taken_are_refused_and_nothing_changes(tmp_path):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    before = contents(folder)
    with pytest.raises(UnblotError, match="steps=5 is less than the 8 steps that the run has taken"):
        api.resume(folder, steps=5, quiet=True)
    assert contents(folder) == before


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    take_step = Trainer.take_step

    def spoiled(self):
        result = take_step(self)
        if self.step == 7:
            next(iter(self.ema.weights.values())).fill_(float("nan"))
        return result

    monkeypatch.setattr(Trainer, "take_step", spoiled)
    with pytest.raises(UnblotError, match=r"not finite after step 8, so they are not saved.*learning_rate="):
        api.train("digits", out=folder, quiet=True, **TINY)
    assert checkpoint.steps_saved(folder) == [0, 4]
    assert all(p.isfinite().all() for p in api.load(folder).denoiser.parameters())


def test_another_number_of_threads_is_noted_on_resume(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    api.resume(folder, steps=9, quiet=True)
    assert "CPU threads" not in (folder / LOG).read_text()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    api.resume(folder, steps=10, quiet=True)
    assert "now it uses 7" in (folder / LOG).read_text()


@pytest.mark.parametrize(
    ("augment", "noted"), [("plain:flip=true", True), ("plain:shift=1", False), ("non_leaking", False)]
)
def test_pictures_that_are_turned_under_their_captions_are_noted(augment, noted, tmp_path):
    choices = TINY | {"steps": 1, "augment": augment}
    api.train("shapes:count=60,size=8", out=tmp_path / "run", quiet=True, **choices)
    note = "pictures are mirrored left to right under their captions, which may say what is left and right"
    assert (note in (tmp_path / "run" / LOG).read_text()) == noted


def test_labels_that_are_never_hidden_are_noted(tmp_path):
    api.train("digits", out=tmp_path / "run", quiet=True, **TINY, label_dropout=0.0)
    assert "so classifier-free guidance will not work" in (tmp_path / "run" / LOG).read_text()
    with pytest.raises(UnblotError, match=r"guidance=2\.0 needs a model that also knows pictures without a label"):
        api.distill(tmp_path / "run", quiet=True, guidance=2.0)
