"""Adaptive times: the mean stays what it was, its variance falls. Balanced losses: each level counts by its size. With
both a run stays a function of its seed."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unblot import UnblotError, api
from unblot.config.schema import TrainConfig
from unblot.config.tables import entries
from unblot.runs.metrics import read_metrics
from unblot.system.distributed import Group
from unblot.training import checkpoint, loss_by_time
from unblot.training import trainer as engine
from unblot.training.batches import TIMES
from unblot.training.loss_by_time import (
    ADAPTIVE,
    BINS,
    FLOOR,
    KNOWN,
    MEMORY,
    POWER,
    LossByTime,
    density_from,
    sizes_from,
    times_of,
    weight_of,
    weights_from,
)
from unblot.training.prefetch import Prefetcher
from unblot.training.task import DenoisingTask

TINY = {"network": "unet:width=16,multipliers=1,blocks=1,attention=", "steps": 12, "batch_size": 64}
CPU = torch.device("cpu")
EVEN = (torch.arange(2**18, dtype=torch.float64) + 0.5) / 2**18
GOOD = torch.tensor(False)

squares = st.lists(st.floats(0, 1e6), min_size=BINS, max_size=BINS).map(lambda x: torch.tensor(x).double())


def trainer_for(**choices) -> engine.Trainer:
    dataset = api.open_data("digits")
    config = api.plan_run(api.DataConfig(data="digits"), dataset, {**TINY, **choices})
    return engine.Trainer(config, DenoisingTask(config, dataset))


@pytest.fixture
def eager(monkeypatch):
    """A density that changes after every third step, whatever is known."""
    monkeypatch.setattr(loss_by_time, "REFRESH", 3)
    monkeypatch.setattr(loss_by_time, "KNOWN", 1)


# --- the density and its times


@settings(max_examples=30, deadline=None)
@given(squares)
def test_the_weighted_mean_over_its_times_is_the_mean_over_uniform_ones(found):
    """Whatever the losses: exactly where they are constant in a bin, and for any other to the fineness of the sum."""
    density = density_from(sizes_from(torch.full((BINS,), 20.0), found))
    t = times_of(EVEN, density)
    for loss, mean in ((torch.exp(t), torch.exp(EVEN).mean()), ((t * BINS).long() % 3.0, (EVEN * BINS).long() % 3.0)):
        assert (loss * weight_of(t, density)).mean().item() == pytest.approx(mean.mean().item(), rel=3e-3)
    shares = density / BINS
    exact = (shares * found * weight_of((torch.arange(BINS) + 0.5) / BINS, density)).sum()
    assert exact.item() == pytest.approx(found.mean().item(), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(squares)
def test_times_have_the_density_and_rise_with_their_quantiles(found):
    density = density_from(sizes_from(torch.full((BINS,), 20.0), found))
    assert density.mean().item() == pytest.approx(1, rel=1e-12)
    assert density.min() >= FLOOR * (1 - 1e-12)
    t = times_of(EVEN, density)
    assert bool((t.diff() >= 0).all())
    assert 0 < t[0] <= t[-1] < 1
    count = torch.bincount((t * BINS).long(), minlength=BINS).double()
    torch.testing.assert_close(count * BINS / len(EVEN), density, rtol=0, atol=2 * BINS / len(EVEN))


def test_times_are_uniform_to_the_bit_until_every_bin_is_known():
    counts, found = torch.full((BINS,), 100.0), torch.arange(1.0, BINS + 1)
    assert density_from(sizes_from(counts, found)).std() > 0.1
    counts[5] = KNOWN - 1
    for unknown in (
        density_from(sizes_from(counts, found)),
        density_from(sizes_from(counts + 100, 0 * found)),
        LossByTime(CPU, ADAPTIVE).learned,
    ):
        density, t = unknown.double(), torch.cat([EVEN, EVEN.sqrt()])
        assert torch.equal(times_of(t, density), t)
        assert torch.equal(weight_of(t, density), torch.ones(len(t)).double())


def learned(second_moment, steps: int, batch: int = 64) -> LossByTime:
    """Times after `steps` steps of losses whose mean square at time t is `second_moment(t)`."""
    g, times, world = torch.Generator().manual_seed(7), LossByTime(CPU, ADAPTIVE), Group()
    for step in range(steps):
        times.refresh(step)
        strata = (torch.arange(batch) + torch.rand(batch, dtype=torch.float64, generator=g)) / batch
        t = times_of(strata, times.learned)
        spread = torch.randn(batch, generator=g).abs()  # of mean square 1
        times.learn((second_moment(t).sqrt() * spread).float(), t, GOOD, world)
    times.refresh(0)
    return times


def test_it_finds_the_density_of_least_variance():
    def second_moment(t):
        return torch.exp(6 * t)

    times = learned(second_moment, 600)
    middle = (torch.arange(BINS).double() + 0.5) / BINS
    root = second_moment(middle).sqrt()
    best = FLOOR + (1 - FLOOR) * root / root.mean()
    torch.testing.assert_close(times.learned, best, rtol=0.15, atol=0)
    # The mean square of a loss over its density: the variance but for a constant.
    uniform, found, least = ((second_moment(middle) / p).mean() for p in (1.0, times.learned, root / root.mean()))
    assert least < found < least + 0.1 * (uniform - least)


def test_it_follows_a_loss_that_changes():
    times = learned(lambda t: torch.exp(6 * t), 300)
    before = times.learned.clone()
    for _ in range(10 * MEMORY // 8):
        t = times_of((torch.arange(256).double() + 0.5) / 256, times.learned)
        times.learn(torch.exp(-3 * t).float(), t, GOOD, Group())
    times.refresh(0)
    assert before[-1] > 5 * before[0]
    assert times.learned[0] > 5 * times.learned[-1]
    assert times.seen[0].max() <= MEMORY + 256


def test_steps_that_are_skipped_teach_nothing():
    times = learned(lambda t: t, 20)
    before = times.seen.clone()
    t, huge = EVEN[:: len(EVEN) // 64], torch.full((64,), 1e30)  # finite, but its square is not
    for found, bad in ((torch.ones(64), True), (torch.full((64,), torch.nan), True), (huge, False)):
        times.learn(found, t, torch.tensor(bad), Group())
        assert torch.equal(times.seen, before)
    times.learn(torch.ones(64), t, GOOD, Group())
    assert not torch.equal(times.seen, before)


def test_sums_in_another_order_give_the_same_density():
    g = torch.Generator().manual_seed(0)
    found = torch.rand(BINS, generator=g).double()
    counts = torch.full((BINS,), 200.0).double()
    for scale in (1 + 1e-7, 1 - 1e-7, 1 + 3e-7):
        assert torch.equal(density_from(sizes_from(counts, found * scale)), density_from(sizes_from(counts, found)))


# --- the weights of balanced losses


def test_a_level_whose_loss_is_larger_weighs_less():
    counts, found = torch.full((BINS,), 100.0).double(), torch.full((BINS,), 4.0).double()
    found[3], found[7] = 16 * 4.0, 0.0
    weights = weights_from(sizes_from(counts, found))
    assert weights.mean().item() == pytest.approx(1, rel=1e-12)
    assert (weights[3] / weights[0]).item() == pytest.approx(4**-POWER, rel=0.03)
    assert weights[7] == weights.max()
    assert bool(weights.isfinite().all())
    counts[5] = KNOWN - 1
    assert torch.equal(weights_from(sizes_from(counts, found)), torch.ones(BINS).double())


def test_weights_change_the_gradient_and_not_the_loss_that_is_logged(monkeypatch):
    monkeypatch.setattr(loss_by_time, "REFRESH", 4)
    monkeypatch.setattr(loss_by_time, "KNOWN", 1)
    plain, balanced = trainer_for(weighting="none"), trainer_for(weighting="balanced")
    same = [torch.equal(plain.take_step().loss, balanced.take_step().loss) for _ in range(6)]
    assert same == [True] * 5 + [False]  # the fifth step is the first with other weights, and the sixth sees them
    assert balanced.task.by_time.learned.std() > 0.01


def test_the_default_balances_but_not_where_times_are_adaptive_or_another_network_output_is_learned():
    assert trainer_for().config.train.weighting == "balanced"
    for choices in ({"times": "adaptive"}, {"parameterization": "eps"}, {"preset": "ddpm"}):
        assert trainer_for(**choices).config.train.weighting == "none"
    assert trainer_for(parameterization="eps", weighting="balanced").config.train.weighting == "balanced"
    assert trainer_for(objective="vlb").task.by_time is None  # the bound has its own weights
    with pytest.raises(UnblotError, match="adaptive and weighting balanced do not go together"):
        trainer_for(times="adaptive", weighting="balanced")


# --- in training

LEARNED = {"adaptive": ({"times": "adaptive"}, "density"), "balanced": ({"weighting": "balanced"}, "weights")}
both = pytest.mark.parametrize(("learned", "name"), LEARNED.values(), ids=LEARNED.keys())


def test_a_run_is_the_stratified_one_until_the_density_changes(monkeypatch):
    monkeypatch.setattr(loss_by_time, "REFRESH", 4)
    monkeypatch.setattr(loss_by_time, "KNOWN", 1)
    plain, moved = trainer_for(weighting="none"), trainer_for(times="adaptive")
    same = [torch.equal(plain.take_step().loss, moved.take_step().loss) for _ in range(5)]
    assert same == [True] * 4 + [False]


@pytest.mark.parametrize(
    "choices",
    [
        {"times": "adaptive"},
        {"times": "adaptive", "objective": "hybrid"},
        {"times": "adaptive", "objective": "vlb"},
        {"times": "adaptive", "augment": "non_leaking"},
        {"times": "adaptive", "coupling": "ot"},
        {"weighting": "balanced"},
        {"weighting": "balanced", "objective": "hybrid"},
    ],
)
def test_it_resumes_exactly_between_two_changes(eager, choices):
    straight, stopped = trainer_for(**choices), trainer_for(**choices)
    for _ in range(8):
        straight.take_step(), stopped.take_step()
    again = trainer_for(**choices)
    again.restore({name: t.clone().contiguous() for name, t in stopped.tensors().items()}, stopped.step)
    results = [(straight.take_step(), again.take_step()) for _ in range(4)]
    assert all(torch.isfinite(a.loss) and torch.equal(a.loss, b.loss) for a, b in results)
    for name, tensor in straight.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


@both
def test_a_run_folder_holds_all_that_it_needs(eager, tmp_path, learned, name):
    choices = {**TINY, **learned, "preview_every": 0, "checkpoint_every": 5, "log_every": 1}
    run = api.train("digits", out=tmp_path / "run", quiet=True, **choices)
    lines = read_metrics(run.path)
    newest = run.path / "checkpoints" / "00000012"
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    api.resume(run.path, quiet=True)
    assert read_metrics(run.path) == lines
    assert checkpoint.load_newest(run.path)[0][f"task/{name}"].std() > 0.01


@both
def test_batches_made_ahead_take_what_was_learned_up_to_their_own_step(eager, learned, name):
    plain, fed = trainer_for(**learned), trainer_for(**learned)
    fed.prefetcher = Prefetcher(fed.prefetcher.make, CPU)
    fed.prefetcher.worker = engine.Prefetcher.__init__.__globals__["ThreadPoolExecutor"](1)
    results = [(plain.take_step().loss, fed.take_step().loss) for _ in range(8)]
    fed.prefetcher.worker.shutdown()
    assert all(torch.equal(a, b) for a, b in results)
    assert plain.task.by_time.learned.std() > 0.01


@both
def test_a_batch_in_parts_teaches_the_same(eager, learned, name):
    whole, parts = trainer_for(**learned), trainer_for(**learned)
    parts.micro_batch = 7
    for _ in range(5):
        a, b = whole.take_step(), parts.take_step()
        assert b.loss.item() == pytest.approx(a.loss.item(), rel=1e-5)
    torch.testing.assert_close(parts.task.by_time.seen, whole.task.by_time.seen, rtol=1e-4, atol=1e-5)


# --- naming it


def test_the_help_names_all_times_and_another_is_refused():
    table = next(f.metadata["table"] for f in fields(TrainConfig) if f.name == "times")
    assert tuple(entries(table)) == TIMES
    with pytest.raises(UnblotError, match="choose one of stratified, index, adaptive, spacing"):
        trainer_for(times="often")
