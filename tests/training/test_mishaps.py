"""What can happen to a run from outside, and by design: one clear line, and nothing good is lost."""

import json

import numpy as np
from PIL import Image

from unblot import UnblotError, api
from unblot.cli.parser import main
from unblot.runs.folder import BEST, LOG, METRICS, locked
from unblot.runs.metrics import read_metrics
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
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]


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
        assert "in training by another process" in told(capsys)
        assert main(["train", "digits", "--out", str(folder), "--overwrite", "--quiet", *FLAGS]) == 2
        assert "in training by another process" in told(capsys)
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
