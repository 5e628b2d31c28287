"""A run with a budget fills it and decays to its end, whatever the machine does. Clock and speed are made up."""

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from machine import Machine
from unblot import UnblotError, api
from unblot.cli.parser import main
from unblot.config.durations import format_seconds, parse_budget
from unblot.config.presets import ENOUGH_STEPS, ladder
from unblot.nn import NETWORKS
from unblot.runs.budget_plan import BudgetPlan
from unblot.runs.folder import LOG, METRICS, MODEL, PLAN, read_config
from unblot.runs.metrics import read_metrics
from unblot.specs import canonical
from unblot.training import checkpoint, loop
from unblot.training import trainer as engine
from unblot.training.budget import choose, go_on
from unblot.training.budget_controller import MEASURING, BudgetController
from unblot.training.learning_rate import Switch, learning_rate
from unblot.training.task import DenoisingTask

TINY = "unet:width=16,multipliers=1,blocks=1,attention="


def end_of(folder):
    """The state after a run's last step."""
    return checkpoint.load_newest(folder)[1]


SPEEDS = {
    "steady": lambda trainer, now: 0.2,
    "half as fast from the middle on": lambda trainer, now: 0.2 if now < 90 else 0.4,
    "twice as fast from the middle on": lambda trainer, now: 0.2 if now < 90 else 0.1,
    "slow while it is tried": lambda trainer, now: 0.8 if now < 10 else 0.2,
    "now and then four times as slow": lambda trainer, now: 0.8 if int(now) % 7 == 0 else 0.2,
    "slower and slower": lambda trainer, now: 0.1 + now / 600,
    "a stop near the end": lambda trainer, now: 20.0 if 172 < now < 173 else 0.2,
    "a stop of half a minute": lambda trainer, now: 30.0 if 100 < now < 100.2 else 0.2,
}


@pytest.mark.parametrize("name", SPEEDS)
def test_a_budget_is_filled_whatever_the_machine_does(name, monkeypatch, tmp_path):
    machine = Machine(monkeypatch, SPEEDS[name])
    run = api.train("digits", out=tmp_path / "run", quiet=True, budget="3m", network=TINY)
    late = 15 if name == "a stop near the end" else 0  # then it only still decays
    assert machine.gone == pytest.approx(180 + late, rel=0.05)
    train, state = read_config(run.path).train, end_of(run.path)
    assert train.steps == state["step"] == run.config.train.steps
    assert state["seconds"] == pytest.approx(machine.gone, abs=0.5)
    switch = Switch(*state["switch"]) if state["switch"] else None
    assert learning_rate(train, train.steps, switch) == pytest.approx(0, abs=1e-12)
    assert machine.rates[-1] < 0.02 * train.learning_rate
    assert [line["steps"] for line in read_metrics(run.path) if "grad_norm" in line][-1] == train.steps


def test_the_plan_of_a_steady_machine_comes_true(monkeypatch, tmp_path, capsys):
    machine = Machine(monkeypatch, SPEEDS["steady"])
    api.train("digits", out=tmp_path, quiet=True, overwrite=True, budget="3m", network=TINY, held_out_every=0)
    kept = json.loads((tmp_path / PLAN).read_text())
    assert kept["came"]["steps"] == pytest.approx(kept["plan"]["steps"], rel=0.02)
    assert kept["plan"]["pictures"] == 64 * kept["plan"]["steps"]
    assert kept["came"]["seconds"] == pytest.approx(machine.gone - kept["plan"]["used"])
    assert kept["plan"]["overhead_share"] * 170 == pytest.approx(5 * 1, rel=0.2)
    assert main(["show", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert f"{kept['plan']['steps']:,} steps of 64" in told
    assert f"came to {kept['came']['steps']:,} steps" in told


def test_time_that_is_added_is_used_also_where_the_run_goes_wrong_at_once(monkeypatch, tmp_path):
    Machine(monkeypatch, SPEEDS["steady"])
    few = {"network": TINY, "held_out_every": 0, "batch_size": 16}
    before = api.train("digits", out=tmp_path, quiet=True, overwrite=True, budget="1m", **few).config.train.steps
    log, wrong = loop.Loop._log, ["the loss is too large"]
    monkeypatch.setattr(loop.Loop, "_log", lambda self, result: wrong.pop() if wrong else log(self, result))
    after = api.resume(tmp_path, quiet=True, budget="+1m").config.train.steps
    assert after == pytest.approx(2 * before, rel=0.1)


def test_the_same_speed_and_seed_give_the_same_run_as_that_many_steps(monkeypatch, tmp_path):
    """Nothing of the trial steps is left in the run, and nothing is planned anew without need."""

    class Steady:
        now = 0.0

        def __call__(self):
            return Steady.now

    take_step = engine.Trainer.take_step

    def timed_step(trainer):
        Steady.now += 0.4
        return take_step(trainer)

    monkeypatch.setattr(engine.Trainer, "take_step", timed_step)
    monkeypatch.setattr(api, "shared_clock", lambda group: Steady())
    run = api.train(
        "digits", out=tmp_path / "a", quiet=True, budget="10s", network=TINY, batch_size=16, held_out_every=0
    )
    train = run.config.train
    same = {
        k: getattr(train, k)
        for k in ("steps", "batch_size", "log_every", "preview_every", "checkpoint_every", "held_out_every")
    }
    plain = api.train("digits", out=tmp_path / "b", quiet=True, network=TINY, **same)
    a, b = run.denoiser.state_dict(), plain.denoiser.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_machine_that_gets_slower_than_planned_is_said_with_what_the_plan_assumed(monkeypatch, tmp_path):
    for name in ("steady", "half as fast from the middle on"):
        Machine(monkeypatch, SPEEDS[name] if name == "steady" else lambda trainer, now: 0.2 if now < 20 else 0.6)
        api.train("digits", out=tmp_path / name, quiet=True, budget="3m", network=TINY)
        log = (tmp_path / name / LOG).read_text()
        assert "assumes that the machine stays as idle as during" in log
        assert "trial steps of 0.2 s" in log
        assert ("machine   " in log) == (name != "steady")
    assert re.search(r"machine   2\.\d times slower than planned \(0\.\d+ s a step, 0\.2 s in the trial steps\)", log)


def test_measuring_keeps_to_its_share_of_the_time(monkeypatch):
    now = [0.0]
    controller = BudgetController(1000.0, lambda: now[0])
    measured = 0
    for _ in range(500):
        now[0] += 2.0
        if controller.may_measure():
            with controller.overhead("measurements"):
                now[0] += 1.0  # every second step would cost a third of the time
            measured += 1
    assert 5 < measured * 1.0 <= MEASURING * controller.used()
    free = BudgetController(None, lambda: now[0])
    with free.overhead("measurements"):
        now[0] += 100.0
    assert free.may_measure()  # metrics of a run without a budget do not depend on the clock


def test_a_run_with_a_budget_measures_no_more_often_than_pays(monkeypatch, tmp_path):
    machine, measured = Machine(monkeypatch, SPEEDS["steady"]), []
    measure = loop.HeldOutLoss.measure

    def slow(self, *numbers):
        machine.now += 1.0  # as long as five steps
        measured.append(machine.gone)
        return measure(self, *numbers)

    monkeypatch.setattr(loop.HeldOutLoss, "measure", slow)
    api.train("digits", out=tmp_path / "run", quiet=True, budget="3m", network=TINY, held_out_every=1)
    assert 4 <= len(measured) <= MEASURING * 180 + 2  # the first, before any time was used, and the last


def plan_of(**changes):
    plan = {"budget": 20.0, "used": 19.0, "first": 7, "network": "mlp", "parameters": 10**6, "batch_size": 8}
    plan |= {"steps": 0, "pictures": 0, "passes": 0.0, "pictures_per_second": 9.0, "memory": 10**8}
    more = {"overhead_share": 1.0, "step_seconds": 0.2, "trial_steps": 1}
    return BudgetPlan(**{**plan, **more, "ends": "2026-01-01T12:00:00", **changes})


def test_a_plan_in_words_has_no_shares_above_the_whole_and_counts_as_one_does():
    late = str(plan_of())
    assert "no step fits into the time that is left" in late
    assert "%" not in late
    one = str(plan_of(steps=1, pictures=8, overhead_share=0.5))
    assert one.startswith("1 step of 8: 8 pictures")
    assert "50 % of the time for previews, saving and measuring" in one
    assert "during 1 trial step of 0.2 s" in one


def test_the_share_of_a_plan_with_no_time_left_is_the_whole(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, SPEEDS["steady"])
    machine.stop_at = 200
    api.train("digits", out=tmp_path / "run", quiet=True, budget="1m", network=TINY)
    config, dataset = read_config(tmp_path / "run"), api.open_data("digits")
    plan = go_on(config, 200, dataset, BudgetController(60.0, machine, before=59.9))
    assert (plan.steps, plan.overhead_share) == (0, 1.0)


# --- the choice


def facts(**changes):
    from dataclasses import replace

    return replace(api.plan_run(api.DataConfig(data="digits"), api.open_data("digits"), {}).data, **changes)


@pytest.mark.parametrize(
    ("seconds", "budget", "chosen"), [(0.005, 180, 64), (0.06, 180, 32), (2.0, 180, 32), (1.2, 14_400, 64)]
)
def test_the_largest_network_with_enough_steps_is_chosen(monkeypatch, seconds, budget, chosen):
    """A step of width 32 takes so many seconds, others by the square of their width."""

    def step_seconds(trainer, now):
        train = trainer.config.train
        width = int(train.network.split("width=")[1].split(",")[0])
        return seconds * (width / 32) ** 2 * train.batch_size / 64

    machine = Machine(monkeypatch, step_seconds)
    dataset = api.open_data("digits")
    controller = BudgetController(float(budget), machine)

    def configure(**chosen):
        return api.plan_run(api.DataConfig(data="digits"), dataset, chosen)

    config, plan_run = choose(configure, {}, dataset, controller)
    assert f"width={chosen}," in plan_run.network == config.train.network
    assert config.train.batch_size == 64  # twice as large takes twice as long
    step = seconds * (chosen / 32) ** 2
    assert plan_run.steps == config.train.steps == pytest.approx((budget - controller.used()) / step, rel=0.06)
    assert plan_run.pictures_per_second == pytest.approx(64 / step)
    if chosen > 32:
        assert plan_run.steps > ENOUGH_STEPS


def test_a_batch_that_costs_nothing_is_doubled_up_to_a_share_of_the_data(monkeypatch):
    machine = Machine(monkeypatch, lambda trainer, now: 0.01)
    dataset = api.open_data("moons")

    def configure(**chosen):
        return api.plan_run(api.DataConfig(data="moons"), dataset, {"batch_size": 16, **chosen})

    config, _ = choose(configure, {}, dataset, BudgetController(60.0, machine))
    assert config.train.batch_size == min(1024, 16 * 2 ** int(torch.log2(torch.tensor(len(dataset.train) / 256))))


def test_ladders_rise_and_other_presets_and_points_have_one_rung():
    assert len(ladder(facts(height=32, width=32), "default")) > 3
    assert len(ladder(facts(), "ddpm")) == 1
    assert ladder(facts(channels=2, height=1, width=1), "default") == ("mlp",)


def test_what_was_given_stays(monkeypatch, tmp_path):
    Machine(monkeypatch, lambda trainer, now: 0.01)
    given = {"network": TINY, "batch_size": 24, "preview_every": 700, "log_every": 3, "checkpoint_every": 800}
    train = api.train("digits", out=tmp_path / "run", quiet=True, budget="20s", **given).config.train
    assert train.network == canonical(NETWORKS, given.pop("network"), "network")
    assert given == {k: getattr(train, k) for k in given}


# --- going on


def test_a_stopped_run_goes_on_for_the_time_that_was_left(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, SPEEDS["now and then four times as slow"])
    machine.stop_at = 200
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, budget="3m", network=TINY)
    stopped, state = machine.gone, end_of(folder)
    assert state["step"] == 200 < state["steps"]
    assert stopped < 100
    machine.now += 5000  # a night
    api.resume(folder, quiet=True)
    assert machine.gone - 5000 == pytest.approx(180, rel=0.05)
    kept = json.loads((folder / PLAN).read_text())
    assert kept["plan"]["first"] == 200
    assert kept["came"]["steps"] == end_of(folder)["step"] - 200
    assert kept["came"]["seconds"] == pytest.approx(kept["plan"]["budget"] - kept["plan"]["used"], rel=0.1)  # of these
    assert machine.rates[-1] < 0.02 * read_config(folder).train.learning_rate


def test_a_finished_run_that_is_resumed_stays_as_it_is(monkeypatch, tmp_path):
    Machine(monkeypatch, SPEEDS["steady"])
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, budget="1m", network=TINY)
    before = (folder / METRICS).read_bytes(), (folder / MODEL).read_bytes(), (folder / PLAN).read_bytes()
    api.resume(folder, quiet=True)
    assert before == ((folder / METRICS).read_bytes(), (folder / MODEL).read_bytes(), (folder / PLAN).read_bytes())


@pytest.mark.parametrize(("more", "whole"), [("+1m", 120), ("2m", 120), ("+30s", 90)])
def test_more_time_is_filled_too_and_its_rate_rises_without_a_jump_and_decays(monkeypatch, tmp_path, more, whole):
    machine = Machine(monkeypatch, SPEEDS["steady"])
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, budget="1m", network=TINY)
    end, used, before = end_of(folder)["step"], end_of(folder)["seconds"], machine.now
    machine.rates.clear()
    api.resume(folder, quiet=True, budget=more)
    assert used + machine.now - before == pytest.approx(whole, rel=0.05)
    train = read_config(folder).train
    assert parse_budget(train.budget) == (whole, False)
    rates = machine.rates[-(end_of(folder)["step"] - end) :]
    peak = learning_rate(train, end + round(train.warmup * (train.steps - end)))
    assert max(rates) == pytest.approx(peak, rel=0.05)
    assert rates[0] < 0.3 * peak
    assert rates[-1] < 0.05 * peak


def test_more_steps_are_no_cliff(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, SPEEDS["steady"])
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, network=TINY, steps=200, log_every=50)
    api.resume(folder, quiet=True, steps=400)
    changes = torch.tensor(machine.rates).diff().abs()
    assert changes[150:].max() < changes[:10].max()  # the first warm-up's
    assert machine.rates[210] == pytest.approx(learning_rate(read_config(folder).train, 210))
    assert read_config(folder).train.steps == len(machine.rates) == 400


def test_a_resumed_run_knows_its_steps_and_its_switch(monkeypatch, tmp_path):
    """The state is taken up exactly: the next step has the rate that it would have had."""
    machine = Machine(monkeypatch, SPEEDS["half as fast from the middle on"])
    machine.stop_at = 520
    folder = tmp_path / "run"
    api.train("digits", out=folder, quiet=True, budget="3m", network=TINY)
    state = end_of(folder)
    assert state["switch"] is not None
    config = read_config(folder)
    trainer = engine.Trainer(config, DenoisingTask(config, api.open_data("digits")))
    loop.Loop(folder, trainer, loop.Monitor(folder, config, quiet=True), BudgetController()).go_back()
    assert (trainer.step, trainer.config.train.steps, list(trainer.switch)) == (520, state["steps"], state["switch"])
    assert trainer.config == config


def test_a_run_without_a_budget_keeps_its_steps(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, SPEEDS["slower and slower"])
    api.train("digits", out=tmp_path / "run", quiet=True, network=TINY, steps=100)
    state = end_of(tmp_path / "run")
    assert (state["step"], state["steps"], state["switch"], len(machine.rates)) == (100, 100, None, 100)


# --- the learning rate


@given(
    steps=st.integers(20, 5000),
    share=st.floats(0, 1),
    factor=st.floats(0.2, 4),
    decay=st.sampled_from(["cosine", "linear"]),
    warmup=st.sampled_from([0.0, 0.05, 0.2]),
)
def test_the_rate_goes_over_to_another_number_of_steps_without_a_jump(steps, share, factor, decay, warmup):
    from types import SimpleNamespace

    at = round(share * steps)
    old = SimpleNamespace(steps=steps, warmup=warmup, decay=decay, learning_rate=1.0)
    new = SimpleNamespace(**{**vars(old), "steps": at + max(1, round(factor * steps))})
    switch = Switch(at, learning_rate(old, at))
    rates = [learning_rate(new, step, switch) for step in range(at, new.steps + 1)]
    assert 0 <= min(rates) <= max(rates) <= 1
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    renoise = max(1, round(warmup * (new.steps - at)))
    assert abs(rates[0] - switch.rate) <= 1 / renoise + 1e-12
    settled = at + renoise
    assert [learning_rate(new, s) for s in range(settled, new.steps)] == pytest.approx(rates[renoise:-1], abs=1e-12)


# --- what a person writes


@given(st.integers(10, 10**6))
def test_times_are_read_as_they_are_written(seconds):
    assert parse_budget(format_seconds(seconds)) == (seconds, False)
    assert parse_budget("+" + format_seconds(seconds)) == (seconds, True)


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("20", "a number without a unit; say 90s"),
        ("20x", "unknown unit 'x'"),
        ("2 weeks", "unknown unit 'weeks'"),
        ("soon", "is no time"),
        ("-5m", "is no time"),
        ("1..2m", "is no time"),
        ("infs", "is no time"),
        ("0m", "too short: trial steps are part of it; give at least 10s"),
        ("1s", "give at least 10s"),
        ("+20m", "unblot train --resume RUN"),
    ],
)
def test_what_is_no_budget_is_told_in_one_line(budget, told, tmp_path):
    with pytest.raises(UnblotError, match=told.replace("+", r"\+")) as raised:
        api.train("digits", out=tmp_path / "run", quiet=True, budget=budget)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_times_have_fractions_and_several_units():
    assert [parse_budget(t)[0] for t in ("1h30m", "1.5h", "0.5m", "1h 1m 1s", "90s")] == [5400, 5400, 30, 3661, 90]


def test_a_budget_that_allows_next_to_no_steps_is_refused(monkeypatch, tmp_path):
    Machine(monkeypatch, lambda trainer, now: 2.0)
    with pytest.raises(
        UnblotError, match=r"budget='20s' is too short: a step of unet.* takes 2\.0 seconds here.* or a smaller network"
    ):
        api.train("digits", out=tmp_path / "run", quiet=True, budget="20s", network=TINY)
    with pytest.raises(UnblotError, match="or a smaller batch_size"):
        api.train("digits", out=tmp_path / "run", quiet=True, budget="20s")
    assert not (tmp_path / "run").exists()


def test_budget_and_steps_contradict_each_other(monkeypatch, tmp_path):
    Machine(monkeypatch, SPEEDS["steady"])
    with pytest.raises(UnblotError, match="budget= and steps="):
        api.train("digits", out=tmp_path / "run", quiet=True, budget="20s", steps=3)
    api.train("digits", out=tmp_path / "run", quiet=True, steps=3, network=TINY)
    with pytest.raises(UnblotError, match="budget= and steps="):
        api.resume(tmp_path / "run", quiet=True, budget="+20s", steps=9)


def test_a_budget_that_is_used_up_is_told(monkeypatch, tmp_path):
    Machine(monkeypatch, SPEEDS["steady"])
    api.train("digits", out=tmp_path / "run", quiet=True, budget="1m", network=TINY)
    with pytest.raises(UnblotError, match=r"has used (1m|59s|\d+s) already; give more, or \+30s"):
        api.resume(tmp_path / "run", quiet=True, budget="30s")
