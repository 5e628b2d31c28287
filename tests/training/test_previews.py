"""Previews take no more memory than training, and one that fails does not end the run."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from unblot import UnblotError, api
from unblot.runs.folder import LOG
from unblot.training import previews
from unblot.training.trainer import denoising_trainer

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


def test_out_of_memory_in_a_sharded_run_is_an_error_since_other_processes_wait():
    trainer = SimpleNamespace(sharded=True, step=3)
    with (
        pytest.raises(UnblotError, match="after step 3; leave previews out with preview_every=0"),
        previews.left_out_where_it_fails(trainer, pytest.fail),
    ):
        raise torch.OutOfMemoryError


def test_a_preview_is_drawn_as_many_pictures_at_a_time_as_fit_in_the_precision_of_training(monkeypatch):
    dataset = api.open_data("digits")
    trainer = denoising_trainer(api.plan_run(api.DataConfig(data="digits"), dataset, TINY), dataset)
    trainer.micro_batch, inside, sizes, sample = 3, [], [], previews.sample_batches

    class Autocast(nullcontext):
        def __enter__(self):
            inside.append(True)

        def __exit__(self, *error):
            inside.pop()

    def sampled(*given, batch_size, **choices):
        sizes.append(batch_size)
        for x0 in sample(*given, batch_size=batch_size, **choices):
            assert inside
            yield x0

    monkeypatch.setattr(previews, "sample_batches", sampled)
    monkeypatch.setattr(trainer.task, "autocast", Autocast)
    assert len(previews.preview_pictures(trainer, 1)[0]) == previews.PREVIEW_PICTURES
    assert (sizes, inside) == ([3], [])
