"""Batches made ahead are the batches asked for."""

import pytest
import torch
from torch import Tensor

from unblot import UnblotError, api
from unblot.training import trainer as engine
from unblot.training.batches import Batch
from unblot.training.prefetch import AHEAD, Prefetcher
from unblot.training.task import DenoisingTask

CPU = torch.device("cpu")
TINY = {"network": "unet:width=16,multipliers=1,blocks=1,attention=", "steps": 8, "batch_size": 24}


def ahead(make) -> Prefetcher:
    """A feed with the thread that a GPU's has."""
    prefetcher = Prefetcher(make, CPU)
    prefetcher.worker = engine.Prefetcher.__init__.__globals__["ThreadPoolExecutor"](1)
    return prefetcher


def test_a_feed_gives_every_step_that_is_asked_for_in_any_order():
    made = []
    prefetcher = ahead(lambda step: made.append(step) or 10 * step)
    order = [0, 1, 2, 3, 1, 2, 7, 0, 1]
    assert [prefetcher.at(step) for step in order] == [10 * step for step in order]
    prefetcher.worker.shutdown()
    assert made[:4] == [0, 1, 2, 3]  # going forward nothing is made twice
    assert len(prefetcher.waiting) == AHEAD


def test_what_goes_wrong_ahead_is_told_when_its_turn_has_come():
    def make(step: int) -> int:
        if step == 2:
            raise UnblotError("picture 7 is gone")
        return step

    prefetcher = ahead(make)
    assert [prefetcher.at(0), prefetcher.at(1)] == [0, 1]
    with pytest.raises(UnblotError, match="picture 7"):
        prefetcher.at(2)
    assert prefetcher.at(3) == 3


def test_training_is_the_same_with_batches_made_ahead():
    dataset = api.open_data("digits")
    config = api.plan_run(api.DataConfig(data="digits"), dataset, {**TINY, "augment": "plain:shift=1"})
    plain, fed = (engine.Trainer(config, DenoisingTask(config, dataset)) for _ in range(2))
    fed.prefetcher = ahead(fed.prefetcher.make)
    for _ in range(4):
        assert torch.equal(plain.take_step().loss, fed.take_step().loss)
    fed.step = plain.step = 1  # back, as after a recovery
    assert torch.equal(plain.take_step().loss, fed.take_step().loss)


def test_every_part_of_a_batch_is_pinned_and_moved():
    dataset = api.open_data("digits")
    config = api.plan_run(api.DataConfig(data="digits"), dataset, {**TINY, "augment": "non_leaking"})
    trainer = engine.Trainer(config, DenoisingTask(config, dataset))
    batch = trainer.prefetcher.make(0)
    moved = batch.to(torch.device("meta"))
    assert moved.t is batch.t  # levels are computed on the CPU
    tensors = [x for x in moved._replace(t=None) if isinstance(x, Tensor)]
    assert len(tensors) == 4  # pictures, noise, labels and conditions; no second noise, no weight
    assert all(x.device.type == "meta" for x in tensors)
    assert batch._each(lambda x: x)[:1][0] is batch.x0
    assert batch.x0.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("device", "ahead"), [("cuda", True), ("mps", False), ("cpu", False)])
def test_only_cuda_is_given_a_batch_without_a_wait(device, ahead):
    """Elsewhere a copy may be read before it is there."""
    asked = []

    class Pictures:
        def to(self, device, non_blocking=False):
            asked.append((device.type, non_blocking))
            return self

    pictures = Pictures()
    Batch(pictures, torch.zeros(1), pictures).to(torch.device(device))
    assert asked == [(device, ahead)] * 2
