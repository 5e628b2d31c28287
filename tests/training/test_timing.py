"""Trial steps: what they time on a GPU, and that nothing of them stays. The clock is made up."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from unblot import api
from unblot.training import budget, timing
from unblot.training.prefetch import AHEAD
from unblot.training.timing import STREAK, STREAK_SECONDS, least_seconds, streak

TINY = {"network": "unet:width=16,multipliers=1,blocks=1,attention=", "batch_size": 8, "steps": 4}


class Machine:
    """A trainer whose first AHEAD + 1 steps find their batches made; the others wait for theirs."""

    device = torch.device("cpu")

    def __init__(self, step: float):
        self.now, self.step, self.taken = 0.0, step, 0

    def take_step(self) -> None:
        self.now += 0.001 if self.taken <= AHEAD else self.step
        self.taken += 1


@pytest.mark.parametrize("step", [0.01, 0.2])
def test_a_streak_of_steps_measures_the_making_of_batches_too(step: float) -> None:
    machine = Machine(step)
    times = streak(machine, lambda: machine.now, until=0.0)
    assert times == pytest.approx([step] * len(times))
    assert len(times) >= STREAK
    assert sum(times) >= STREAK_SECONDS
    assert machine.now <= least_seconds(step, torch.device("cuda")) + step
    longer = streak(machine, lambda: machine.now, until=machine.now + 10)
    assert len(longer) == pytest.approx(min(timing.MOST_TRIES, 10 / step - AHEAD), abs=1)


def test_long_steps_are_timed_by_a_few() -> None:
    machine = Machine(5.0)
    machine.taken = AHEAD + 1  # the batches are not what takes long
    assert streak(machine, lambda: machine.now, until=0.0) == pytest.approx([5.0] * timing.TRIES)
    assert machine.now <= least_seconds(5.0, torch.device("cuda"))


def test_a_preview_on_a_gpu_is_timed_after_a_first_one_and_after_a_wait(monkeypatch) -> None:
    done = []
    monkeypatch.setattr(timing, "preview_samples", lambda trainer, steps: (done.append(steps), None))
    monkeypatch.setattr(timing, "preview_decoded", lambda trainer, x0: done.append("decoded"))
    monkeypatch.setattr(timing, "wait_for", lambda device: done.append("waited"))
    timing.preview_time(SimpleNamespace(device=torch.device("cuda")), lambda: float(done.append("read") or 0))
    assert done == [1, "decoded", "waited", "read", 2, "waited", "read", "decoded", "read"]


def test_the_trainer_of_a_trial_is_freed_when_it_is_over(monkeypatch) -> None:
    """Without the garbage collector, which knows nothing of the memory of a GPU."""
    made, closed, make = [], [], budget.denoising_trainer

    def remembered(config, dataset):
        trainer = make(config, dataset)
        made.extend(map(weakref.ref, (trainer, trainer.denoiser, *trainer.optimizers["denoiser"].parts)))
        monkeypatch.setattr(type(trainer.prefetcher), "close", lambda prefetcher: closed.append(prefetcher.waiting))
        return trainer

    monkeypatch.setattr(budget, "denoising_trainer", remembered)
    dataset = api.open_data("digits")
    config = api.plan_run(api.DataConfig(data="digits"), dataset, TINY)
    gc.disable()
    try:
        budget.try_out(config, dataset, lambda: 0.0, preview=True)
        assert [one() for one in made] == [None] * len(made)
        assert closed == [{}]
    finally:
        gc.enable()


def test_a_trial_on_a_cpu_leaves_gpus_alone(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *device: pytest.fail("asked of a GPU"))
    dataset = api.open_data("digits")
    config = api.plan_run(api.DataConfig(data="digits"), dataset, {**TINY, "device": "cpu"})
    budget.try_out(config, dataset, lambda: 0.0)
