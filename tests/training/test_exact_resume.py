"""A run that was stopped and taken up again is the run that was not stopped, byte for byte."""

import signal

import pytest
import torch

from unblot import UnblotError, api
from unblot.runs.folder import LOG, METRICS, MODEL
from unblot.system import files
from unblot.system.compiling import is_compiled
from unblot.system.files import read_tensors
from unblot.training import checkpoint
from unblot.training import trainer as engine
from unblot.training.diagnostics import run_logger
from unblot.training.task import DenoisingTask

TINY = {
    "held_out_every": 4,
    "network": "unet:width=16,multipliers=1,blocks=1,attention=",
    "steps": 12,
    "batch_size": 24,  # not a multiple of RNG_CHUNK
    "log_every": 3,
    "preview_every": 4,
    "checkpoint_every": 4,
}


def trainer_for(choices):
    dataset = api.open_data("digits")
    config = api.plan_run(api.DataConfig(data="digits"), dataset, choices)
    return engine.Trainer(config, DenoisingTask(config, dataset))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "straight"
    api.train("digits", out=folder, quiet=True, **TINY)
    return folder


@pytest.mark.parametrize("stop_at", [1, 4, 7, 11])
def test_interrupted_and_resumed_is_the_same_run(straight, tmp_path, monkeypatch, stop_at):
    take_step = engine.Trainer.take_step

    def interrupted_step(self):
        if self.step + 1 == stop_at:
            signal.raise_signal(signal.SIGINT)
        return take_step(self)

    folder = tmp_path / "run"
    monkeypatch.setattr(engine.Trainer, "take_step", interrupted_step)
    api.train("digits", out=folder, quiet=True, **TINY)
    assert checkpoint.steps_saved(folder)[-1] == stop_at
    monkeypatch.setattr(engine.Trainer, "take_step", take_step)
    api.resume(folder, quiet=True)

    previews = sorted(p.name for p in (straight / "samples").iterdir())
    assert len(previews) == 3
    for name in [MODEL, METRICS, *(f"samples/{p}" for p in previews)]:
        assert (folder / name).read_bytes() == (straight / name).read_bytes(), name
    newest = f"checkpoints/{TINY['steps']:08d}/state.safetensors"
    assert (folder / newest).read_bytes() == (straight / newest).read_bytes()


DROPOUT = [{"network": f"{TINY['network']},dropout=0.3"}, {"network": "mlp:width=16,depth=1,dropout=0.3"}]
FAST = {"warmup": 0, "learning_rate": 0.01}


@pytest.mark.parametrize("choices", [{"optimizer": "muon"}, {"coupling": "ot"}, {"objective": "hybrid"}, *DROPOUT])
def test_every_kind_of_training_resumes_exactly(tmp_path, choices):
    choices = {**TINY, "preview_every": 0, **choices}
    api.train("digits", out=tmp_path / "straight", quiet=True, **choices)
    whole = trainer_for(choices)
    for _ in range(5):
        whole.take_step()
    again = trainer_for(choices)
    again.restore({name: t.clone().contiguous() for name, t in whole.tensors().items()}, whole.step)
    while again.step < choices["steps"]:
        again.take_step()
    assert_same_model(again, tmp_path / "straight")


def assert_same_model(trainer, folder):
    weights = read_tensors(folder / MODEL)[0]
    assert weights.keys() == trainer.ema.weights.keys()
    assert all(torch.equal(weights[name], p) for name, p in trainer.ema.weights.items())


@pytest.mark.parametrize("choices", DROPOUT)
def test_dropout_follows_from_the_seed_and_the_step_and_leaves_the_callers_generator_as_it_was(choices, monkeypatch):
    one, two, other = (trainer_for({**TINY, **FAST, **choices, "seed": seed}) for seed in (0, 0, 1))
    for _ in range(4):  # at first all is zero behind dropout
        other.take_step()
    for trainer in (one, two):
        trainer.restore({name: t.clone() for name, t in other.tensors().items()}, other.step)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    loss = one.take_step().loss
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(two.take_step().loss, loss)
    monkeypatch.setattr(other.prefetcher, "make", one.prefetcher.make)  # the same batch, another seed of its masks
    assert not torch.equal(other.take_step().loss, loss)


def test_a_step_that_is_taken_again_in_parts_has_the_dropout_of_one_that_began_so(monkeypatch):
    losses = engine.Trainer.losses

    def narrow(self, batch):
        found = losses(self, batch)  # dropout has drawn before memory runs out
        if len(batch.x0) > 6:
            raise torch.OutOfMemoryError
        return found

    halved, small = (trainer_for({**TINY, **FAST, **DROPOUT[1]}) for _ in range(2))
    for _ in range(4):
        halved.take_step()
    small.restore({name: t.clone() for name, t in halved.tensors().items()}, halved.step)
    small.micro_batch = 6
    monkeypatch.setattr(engine.Trainer, "losses", narrow)
    assert torch.equal(halved.take_step().grad_norm, small.take_step().grad_norm)


def test_sigterm_finishes_the_step_saves_and_ends_the_process(tmp_path, monkeypatch):
    """As docker stop, Slurm and a machine that is taken back send it."""
    take_step = engine.Trainer.take_step

    def stopped_step(self):
        if self.step + 1 == 3:
            signal.raise_signal(signal.SIGTERM)
        return take_step(self)

    monkeypatch.setattr(engine.Trainer, "take_step", stopped_step)
    with pytest.raises(SystemExit) as ended:
        api.train("digits", out=tmp_path / "run", quiet=True, **TINY)
    assert ended.value.code == 143
    assert checkpoint.steps_saved(tmp_path / "run") == [0, 3]


def test_a_state_is_saved_once(tmp_path, monkeypatch):
    """Also at the end, where a checkpoint is due and the run ends."""
    saved, save = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda run, step, *rest: (saved.append(step), save(run, step, *rest)))
    api.train("digits", out=tmp_path / "run", quiet=True, **TINY)
    assert saved == [0, 4, 8, 12]


def test_steps_after_the_newest_checkpoint_are_taken_again(straight, tmp_path):
    """As after a SIGKILL: more metrics than the checkpoint knows of, and no clean end."""
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    checkpoint_12 = folder / "checkpoints" / "00000012"
    for file in checkpoint_12.iterdir():
        file.unlink()
    checkpoint_12.rmdir()
    (folder / "checkpoints" / "00000012.part").mkdir()
    api.resume(folder, quiet=True)
    assert (folder / METRICS).read_bytes() == (straight / METRICS).read_bytes()
    assert (folder / MODEL).read_bytes() == (straight / MODEL).read_bytes()


def test_more_steps_go_on_from_the_end(straight, tmp_path):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    run = api.resume(folder, steps=14, quiet=True)
    assert run.config.train.steps == 14
    assert checkpoint.steps_saved(folder)[-1] == 14


def test_another_data_set_is_refused(straight, tmp_path):
    import json

    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **{**TINY, "steps": 2})
    config = json.loads((folder / "config.json").read_text())
    config["data"]["fingerprint"] = "of other pictures"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnblotError, match="not what run"):
        api.resume(folder, quiet=True)


def test_a_damaged_newest_checkpoint_is_passed_over(straight, tmp_path):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    newest = folder / "checkpoints" / "00000012" / "state.safetensors"
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1  # one bit
    newest.write_bytes(raw)
    told = []
    _, state = checkpoint.load_newest(folder, told.append)
    assert state["step"] == 8
    assert "00000012" in told[0]
    assert "checksum" in told[0]
    for file in (folder / "checkpoints").rglob("state.json"):
        file.unlink()
    with pytest.raises(UnblotError, match="no checkpoint to go on from"):
        checkpoint.load_newest(folder, told.append)


def test_only_the_newest_checkpoints_are_kept(straight):
    assert checkpoint.steps_saved(straight) == [8, 12]
    assert not list((straight / "checkpoints").glob("*.part"))


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_count():
    trainer = trainer_for(TINY)
    trainer.take_step()
    before = {name: p.detach().clone() for name, p in trainer.denoiser.named_parameters()}
    trainer.task.weighting = lambda level, denoiser: torch.full_like(level.alpha, torch.inf)
    trainer.take_step()
    assert trainer.step == 2
    assert all(torch.equal(p, before[name]) for name, p in trainer.denoiser.named_parameters())
    assert trainer.take_step().skipped_steps == 2
    trainer.task.weighting = lambda level, denoiser: torch.ones_like(level.alpha)
    assert trainer.take_step().skipped_steps == 0
    assert not all(torch.equal(p, before[name]) for name, p in trainer.denoiser.named_parameters())


def test_a_run_that_has_gone_wrong_goes_back_with_a_lower_rate_and_gives_up_with_the_reason(tmp_path, monkeypatch):
    losses, rates = engine.Trainer.losses, []

    def poisoned(self, batch):
        rates.append(self.rate_scale)
        return {name: loss * (torch.inf if self.step >= 8 else 1.0) for name, loss in losses(self, batch).items()}

    monkeypatch.setattr(engine.Trainer, "losses", poisoned)
    monkeypatch.setattr(run_logger, "MOST_SKIPPED_STEPS", 3)
    with pytest.raises(UnblotError, match=r"not finite for 3 steps up to step 12.*learning_rate="):
        api.train("digits", out=tmp_path / "run", quiet=True, **{**TINY, "steps": 30})
    assert sorted(set(rates), reverse=True) == [1.0, 0.5, 0.25, 0.125]
    assert checkpoint.steps_saved(tmp_path / "run")[-1] == 8


@pytest.mark.parametrize("augment", ["plain:shift=1", "non_leaking:probability=0.9"])
def test_augmentation_is_the_same_after_a_stop_and_in_parts(tmp_path, augment):
    whole, parts = trainer_for({**TINY, "augment": augment}), trainer_for({**TINY, "augment": augment})
    plain = trainer_for(TINY)
    parts.micro_batch = 7
    whole.take_step(), plain.take_step()
    batch, bare = whole.task.batches.at(1), plain.task.batches.at(1)
    assert torch.equal(batch.eps, bare.eps)
    assert not torch.equal(batch.x0, bare.x0)
    parts.step = 1
    assert torch.equal(parts.task.batches.at(1).x0, batch.x0)
    assert parts.take_step().loss.item() > 0


def test_a_model_conditioned_on_augmentation_samples_pictures_as_they_are(tmp_path):
    """The conditions change what it predicts, and sampling gives it zeros."""
    trainer = trainer_for({**TINY, "augment": "non_leaking", "learning_rate": 3e-3})
    for _ in range(12):
        trainer.take_step()
    x, level = torch.randn(2, 1, 8, 8), trainer.task.schedule(trainer.task.batches.sampler.at(0).t[:2])
    net = trainer.denoiser.eval()
    zeros = net.output(x, level, None, torch.zeros(2, 9))
    assert torch.equal(net.output(x, level), zeros)
    assert not torch.allclose(net.output(x, level, None, torch.ones(2, 9)), zeros)


def test_a_batch_in_parts_gives_the_same_step(tmp_path):
    whole, parts = trainer_for(TINY), trainer_for(TINY)
    parts.micro_batch = 7
    for _ in range(3):
        a, b = whole.take_step(), parts.take_step()
        assert b.loss.item() == pytest.approx(a.loss.item(), rel=1e-5)
        assert b.grad_norm.item() == pytest.approx(a.grad_norm.item(), rel=1e-4)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("MPS backend out of memory (made up)")])
def test_where_memory_runs_out_the_batch_goes_through_in_parts(error, monkeypatch):
    losses = engine.Trainer.losses

    def narrow(self, batch):
        if len(batch.x0) > 6:
            raise error
        return losses(self, batch)

    trainer, plain = trainer_for(TINY), trainer_for(TINY)
    expected = plain.take_step().loss.item()
    monkeypatch.setattr(engine.Trainer, "losses", narrow)
    assert trainer.take_step().loss.item() == pytest.approx(expected, rel=1e-5)
    assert trainer.micro_batch == 6


def test_another_error_of_the_network_is_raised_as_it_is(monkeypatch):
    def wrong(self, batch):
        raise RuntimeError("shapes cannot be multiplied")

    trainer = trainer_for(TINY)
    monkeypatch.setattr(engine.Trainer, "losses", wrong)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer.take_step()
    assert trainer.micro_batch == TINY["batch_size"]


def test_a_full_disk_loses_nothing_that_was_saved(straight, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, **TINY)
    before = {p: p.read_bytes() for p in folder.rglob("*.safetensors")}

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(UnblotError, match="the disk is full"):
        api.resume(folder, steps=16, quiet=True)
    assert {p: p.read_bytes() for p in folder.rglob("*.safetensors")} == before
    assert not list(folder.rglob("*.part"))


def test_what_does_not_fit_while_compiling_is_tried_is_said_and_undone_where_that_is_dropped(tmp_path, monkeypatch):
    losses = engine.Trainer.losses

    def narrow(self, batch):
        if len(batch.x0) > (6 if is_compiled(self.denoiser.network) else 12):
            raise torch.OutOfMemoryError
        return losses(self, batch)

    def fails(forward, dynamic):
        return lambda *inputs: [][0]

    monkeypatch.setattr(engine.Trainer, "losses", narrow)
    monkeypatch.setattr(torch, "compile", fails)
    trainer = trainer_for({**TINY, "compile": "on"})
    trainer.compile(lambda line: None)
    assert trainer.micro_batch == 12
    api.train("digits", out=tmp_path / "run", quiet=True, **TINY, compile="on")
    assert (tmp_path / "run" / LOG).read_text().count("out of memory: from now on 12 pictures at a time") == 1
