"""Adaptive times: the mean stays what it was, its variance falls, and a run stays a function of its seed."""

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
from unblot.training import adaptive_times as adaptive
from unblot.training import checkpoint
from unblot.training import trainer as engine
from unblot.training.adaptive_times import BINS, FLOOR, KNOWN, MEMORY, Adaptive, density_from
from unblot.training.batches import TIMES
from unblot.training.prefetch import Prefetcher
from unblot.training.task import DenoisingTask

TINY = {"network": "unet:width=16,multipliers=1,blocks=1,attention=", "steps": 12, "batch_size": 64}
CPU = torch.device("cpu")
EVEN = (torch.arange(2**18, dtype=torch.float64) + 0.5) / 2**18
GOOD = torch.tensor(False)

squares = st.lists(st.floats(0, 1e6), min_size=BINS, max_size=BINS).map(lambda x: torch.tensor(x).double())


def times_with(density) -> Adaptive:
    times = Adaptive(CPU)
    times.density = density
    return times


def trainer_for(**choices) -> engine.Trainer:
    dataset = api.open_data("digits")
    config = api.plan_run(api.DataConfig(data="digits"), dataset, {**TINY, **choices})
    return engine.Trainer(config, DenoisingTask(config, dataset))


@pytest.fixture
def eager(monkeypatch):
    """A density that changes after every third step, whatever is known."""
    monkeypatch.setattr(adaptive, "REFRESH", 3)
    monkeypatch.setattr(adaptive, "KNOWN", 1)


# --- the density and its times


@settings(max_examples=30, deadline=None)
@given(squares)
def test_the_weighted_mean_over_its_times_is_the_mean_over_uniform_ones(found):
    """Whatever the losses: exactly where they are constant in a bin, and for any other to the fineness of the sum."""
    times = times_with(density_from(torch.full((BINS,), 20.0), found))
    t = times.times(EVEN)
    for loss, mean in ((torch.exp(t), torch.exp(EVEN).mean()), ((t * BINS).long() % 3.0, (EVEN * BINS).long() % 3.0)):
        assert (loss * times.weight(t)).mean().item() == pytest.approx(mean.mean().item(), rel=3e-3)
    shares = times.density / BINS
    exact = (shares * found * times.weight((torch.arange(BINS) + 0.5) / BINS)).sum()
    assert exact.item() == pytest.approx(found.mean().item(), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(squares)
def test_times_have_the_density_and_rise_with_their_quantiles(found):
    density = density_from(torch.full((BINS,), 20.0), found)
    assert density.mean().item() == pytest.approx(1, rel=1e-12)
    assert density.min() >= FLOOR * (1 - 1e-12)
    t = times_with(density).times(EVEN)
    assert bool((t.diff() >= 0).all())
    assert 0 < t[0] <= t[-1] < 1
    count = torch.bincount((t * BINS).long(), minlength=BINS).double()
    torch.testing.assert_close(count * BINS / len(EVEN), density, rtol=0, atol=2 * BINS / len(EVEN))


def test_times_are_uniform_to_the_bit_until_every_bin_is_known():
    counts, found = torch.full((BINS,), 100.0), torch.arange(1.0, BINS + 1)
    assert density_from(counts, found).std() > 0.1
    counts[5] = KNOWN - 1
    for unknown in (
        density_from(counts, found),
        density_from(counts + 100, 0 * found),
        Adaptive(CPU).density,
    ):
        times, t = times_with(unknown.double()), torch.cat([EVEN, EVEN.sqrt()])
        assert torch.equal(times.times(t), t)
        assert torch.equal(times.weight(t), torch.ones(len(t)).double())


def learned(second_moment, steps: int, batch: int = 64) -> Adaptive:
    """Times after `steps` steps of losses whose mean square at time t is `second_moment(t)`."""
    g, times, world = torch.Generator().manual_seed(7), Adaptive(CPU), Group()
    for step in range(steps):
        times.refresh(step)
        strata = (torch.arange(batch) + torch.rand(batch, dtype=torch.float64, generator=g)) / batch
        t = times.times(strata)
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
    torch.testing.assert_close(times.density, best, rtol=0.15, atol=0)
    # The mean square of a loss over its density: the variance but for a constant.
    uniform, found, least = ((second_moment(middle) / p).mean() for p in (1.0, times.density, root / root.mean()))
    assert least < found < least + 0.1 * (uniform - least)


def test_it_follows_a_loss_that_changes():
    times = learned(lambda t: torch.exp(6 * t), 300)
    before = times.density.clone()
    for _ in range(10 * MEMORY // 8):
        t = times.times((torch.arange(256).double() + 0.5) / 256)
        times.learn(torch.exp(-3 * t).float(), t, GOOD, Group())
    times.refresh(0)
    assert before[-1] > 5 * before[0]
    assert times.density[0] > 5 * times.density[-1]
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
        assert torch.equal(density_from(counts, found * scale), density_from(counts, found))


# --- in training


def test_a_run_is_the_stratified_one_until_the_density_changes(monkeypatch):
    monkeypatch.setattr(adaptive, "REFRESH", 4)
    monkeypatch.setattr(adaptive, "KNOWN", 1)
    plain, moved = trainer_for(), trainer_for(times="adaptive")
    same = [torch.equal(plain.take_step().loss, moved.take_step().loss) for _ in range(5)]
    assert same == [True] * 4 + [False]


@pytest.mark.parametrize(
    "choices", [{}, {"objective": "hybrid"}, {"objective": "vlb"}, {"augment": "non_leaking"}, {"coupling": "ot"}]
)
def test_it_resumes_exactly_between_two_changes(eager, choices):
    choices = {**choices, "times": "adaptive"}
    straight, stopped = trainer_for(**choices), trainer_for(**choices)
    for _ in range(8):
        straight.take_step(), stopped.take_step()
    again = trainer_for(**choices)
    again.restore({name: t.clone().contiguous() for name, t in stopped.tensors().items()}, stopped.step)
    results = [(straight.take_step(), again.take_step()) for _ in range(4)]
    assert all(torch.isfinite(a.loss) and torch.equal(a.loss, b.loss) for a, b in results)
    assert again.task.adaptive.density.std() > 0.01
    for name, tensor in straight.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


def test_a_run_folder_holds_all_that_it_needs(eager, tmp_path):
    choices = {**TINY, "times": "adaptive", "preview_every": 0, "checkpoint_every": 5, "log_every": 1}
    run = api.train("digits", out=tmp_path / "run", quiet=True, **choices)
    lines = read_metrics(run.path)
    newest = run.path / "checkpoints" / "00000012"
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    api.resume(run.path, quiet=True)
    assert read_metrics(run.path) == lines
    assert checkpoint.load_newest(run.path)[0]["task/density"].std() > 0.01


def test_batches_made_ahead_take_the_density_of_their_own_step(eager):
    plain, fed = trainer_for(times="adaptive"), trainer_for(times="adaptive")
    fed.prefetcher = Prefetcher(fed.prefetcher.make, CPU)
    fed.prefetcher.worker = engine.Prefetcher.__init__.__globals__["ThreadPoolExecutor"](1)
    results = [(plain.take_step().loss, fed.take_step().loss) for _ in range(8)]
    fed.prefetcher.worker.shutdown()
    assert all(torch.equal(a, b) for a, b in results)
    assert plain.task.adaptive.density.std() > 0.01


def test_a_batch_in_parts_teaches_the_same(eager):
    whole, parts = trainer_for(times="adaptive"), trainer_for(times="adaptive")
    parts.micro_batch = 7
    for _ in range(5):
        a, b = whole.take_step(), parts.take_step()
        assert b.loss.item() == pytest.approx(a.loss.item(), rel=1e-5)
    torch.testing.assert_close(parts.task.adaptive.seen, whole.task.adaptive.seen, rtol=1e-4, atol=1e-5)


# --- naming it


def test_the_help_names_all_times_and_another_is_refused():
    table = next(f.metadata["table"] for f in fields(TrainConfig) if f.name == "times")
    assert tuple(entries(table)) == TIMES
    with pytest.raises(UnblotError, match="choose one of stratified, index, adaptive, spacing"):
        trainer_for(times="often")
