"""What a training can do without is left out where memory does not suffice for it; the run goes on."""

from types import SimpleNamespace

import pytest
import torch

from unblot import UnblotError, api
from unblot.runs.folder import LOG
from unblot.runs.metrics import HELD_OUT, of_kind, read_metrics
from unblot.training import previews
from unblot.training.diagnostics.held_out import HeldOutLoss
from unblot.training.left_out import NEVER, left_out_where_it_fails

TINY = {"network": "unet:width=16,multipliers=1,blocks=1,attention=", "steps": 4, "batch_size": 8, "preview_every": 2}


def out_of_memory(trainer, steps):
    raise torch.OutOfMemoryError("made up")


def out_of_memory_on_an_apple_gpu(trainer, steps):
    raise RuntimeError("MPS backend out of memory (made up)")


def not_finite(trainer, steps):
    return torch.full((4, *trainer.config.data.shape), torch.nan), None


@pytest.mark.parametrize(
    ("drawn", "why"),
    [
        (out_of_memory, "out of memory"),
        (out_of_memory_on_an_apple_gpu, "out of memory"),
        (not_finite, "NaN or infinite"),
    ],
)
def test_a_preview_that_fails_is_left_out_with_a_note(tmp_path, monkeypatch, drawn, why):
    monkeypatch.setattr(previews, "preview_pictures", drawn)
    run = api.train("digits", out=tmp_path / "run", quiet=True, **TINY)
    log = (run.path / LOG).read_text()
    for step in (2, 4):
        assert f"no preview after step {step}: " in log
    assert log.count(why) == 2
    assert not list((run.path / "samples").glob("*.png"))


def test_a_measurement_that_fails_is_left_out_with_a_note(tmp_path, monkeypatch):
    measure = HeldOutLoss.measure

    def at_the_beginning_alone(measurement, step, *given):
        return out_of_memory(measurement, step) if step else measure(measurement, step, *given)

    monkeypatch.setattr(HeldOutLoss, "measure", at_the_beginning_alone)
    run = api.train("digits", out=tmp_path / "run", quiet=True, **TINY, held_out_every=2)
    log = (run.path / LOG).read_text()
    for step in (2, 4):
        assert f"no held-out loss after step {step}: out of memory" in log
    assert [line["step"] for line in of_kind(read_metrics(run.path), HELD_OUT)] == [0]
    assert run.sample(2).array.shape[0] == 2


@pytest.mark.parametrize(("what", "setting"), NEVER.items())
def test_out_of_memory_is_an_error_where_other_processes_wait(what, setting):
    with (
        pytest.raises(UnblotError, match=f"no {what} after step 3; leave it out with {setting}=0"),
        left_out_where_it_fails(what, SimpleNamespace(step=3), pytest.fail, others_wait=True),
    ):
        raise torch.OutOfMemoryError


@pytest.mark.parametrize(("what", "error"), [("preview", RuntimeError), ("held-out loss", UnblotError)])
def test_other_errors_end_the_run(what, error):
    with pytest.raises(error, match="made up"), left_out_where_it_fails(what, None, pytest.fail, False):
        raise error("made up")
