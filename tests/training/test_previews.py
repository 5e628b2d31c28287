"""Previews take no more memory than training."""

from contextlib import nullcontext

from unblot import api
from unblot.training import previews
from unblot.training.trainer import denoising_trainer

TINY = {"network": "unet:width=16,multipliers=1,blocks=1,attention=", "steps": 4, "batch_size": 8, "preview_every": 2}


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
