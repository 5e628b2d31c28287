"""Tuning a run, whole: what it keeps, what sampling then takes, what it refuses."""

from dataclasses import replace

import pytest
import torch

import unblot
from unblot import UnblotError, api
from unblot.cli.parser import main
from unblot.config.measuring import TuneConfig
from unblot.data.dataset import open_data
from unblot.denoiser import Condition, Denoiser
from unblot.evaluation.distances import DistanceTo
from unblot.process.levels import NoiseLevel
from unblot.process.randomness import OF_TUNING
from unblot.process.schedules import karras
from unblot.reports.tuning import table
from unblot.runs import run_data
from unblot.runs.choosing import LABEL_GUIDANCE
from unblot.runs.describe import describe
from unblot.runs.tuning_store import read_tuning, usable
from unblot.sampling.settings import SamplerConfig, choose, describe_sampler
from unblot.system.files import checksum
from unblot.tuning import guidance_candidates as guided
from unblot.tuning import screening, search
from unblot.tuning.reference import reference_of

TINY = {
    "network": "unet:width=16,multipliers=1,blocks=1",
    "steps": 8,
    "preview_every": 0,
    "batch_size": 8,
    "quiet": True,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return unblot.train("digits", out=tmp_path_factory.mktemp("runs") / "r", **TINY)


@pytest.fixture(autouse=True, scope="module")
def brief():
    """A search among few samplers, so that it is quick."""
    with pytest.MonkeyPatch.context() as patch:
        for room in (screening, search):
            patch.setattr(room, "NFES", (4, 9))
        patch.setattr(screening, "DETERMINISTIC", ("dpmpp_2m", "heun"))
        patch.setattr(screening, "STOCHASTIC", ("dpmpp_2m_sde",))
        patch.setattr(screening, "NOISES", 8)
        patch.setattr(screening, "REFINED_TO", 4)
        patch.setattr(guided, "GUIDED_FROM", (4,))
        yield


@pytest.fixture(scope="module")
def tuned(run):
    """The run after `unblot tune`, the numbers of the samples of each call in their order, and the sizes of batches."""
    sampled, sizes, sample_with, output = [], set(), api.Run.sample_with, Denoiser.output

    def recording(self, sampler, config, indices, on_step=None):
        sampled.append(set(indices))
        return sample_with(self, sampler, config, indices, on_step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api.Run, "sample_with", recording)
        patch.setattr(Denoiser, "output", lambda self, x_t, *rest: sizes.add(len(x_t)) or output(self, x_t, *rest))
        small = ["-n", "100", "--features", "pixels:dims=8", "--batch-size", "20"]
        assert main(["tune", str(run.path), *small]) == 0
    return run, sampled, sizes


def test_a_tuned_run_samples_by_what_was_found(tuned):
    run, *_ = tuned
    tuning = read_tuning(run.path, run.denoiser)
    assert [t.nfe for t in tuning.candidates if not t.sampler.guided] == [4, 9]
    assert min(t.spread for t in tuning.candidates) == 0
    assert (run.path / "report" / "tuning.html").read_text(encoding="utf-8").count('<tr class="candidate') == len(
        tuning.candidates
    )
    sampler = choose(usable(tuning, run.path, guided=True).candidates, "good").sampler
    for line in (table(tuning.about, tuning.candidates), describe(run.path)):
        assert describe_sampler(sampler) in line
    about = run.sample(1).provenance
    assert (about["solver"], about["spacing"], about["steps"]) == (sampler.solver, sampler.spacing, sampler.steps)


def test_the_same_search_finds_the_same(tuned):
    run, *_ = tuned
    dataset, config = api.open_data("digits"), TuneConfig(n=100, features="pixels:dims=8", batch_size=20)
    found, others = search.search(run, dataset, reference_of(dataset, config.features), config, lambda line: None)
    assert found.candidates == read_tuning(run.path).candidates
    assert {t.nfe for t in others if not t.sampler.guided} == {4, 9}


def test_the_best_plain_sampler_is_guided_too(run, monkeypatch):
    """By an early snapshot and towards the labels; what nothing beats is measured anew, and kept with its guide."""
    better = dict(zip(guided.AUTOGUIDANCE, (0.5, 0.9), strict=True))
    dataset, config = api.open_data("digits"), TuneConfig(n=100, features="pixels:dims=8")
    measure, weak = reference_of(dataset, config.features), "snapshots/00000002.safetensors"
    used, sample_with = [], api.Run.sample_with

    def noting(self, sampler, config, indices, on_step=None):
        used.append(sampler)
        return sample_with(self, sampler, config, indices, on_step)

    def distance(self, seen):
        return 10 / used[-1].steps * (better[used[-1].guidance] if used[-1].autoguide else 1)

    monkeypatch.setattr(api.Run, "sample_with", noting)
    monkeypatch.setattr(DistanceTo, "__call__", distance)
    found, others = search.search(run, dataset, measure, config, lambda line: None)
    with_guidance = [t for t in others if t.sampler.guided]
    assert {(t.sampler.autoguide, t.sampler.guidance) for t in with_guidance} == {
        *((weak, scale) for scale in guided.AUTOGUIDANCE),
        *((None, scale) for scale in (LABEL_GUIDANCE, *guided.IN_THE_MIDDLE)),
    }
    assert {t.nfe for t in with_guidance} == {6, 8}  # in the middle of the four steps, and in all of them
    kept = {(t.nfe, t.sampler.guidance) for t in found.candidates}
    assert kept == {(4, 1.0), (6, guided.AUTOGUIDANCE[0]), (9, 1.0)}
    assert found.guides == {weak: checksum(run.path / weak)}


def test_the_weaker_model_is_an_early_snapshot(tmp_path):
    assert guided.early_snapshot(tmp_path) is None
    (tmp_path / "snapshots").mkdir()
    for steps, early in ((range(125, 1001, 125), 250), ((300, 400, 1000), 300), ((500, 1000), None), ((1000,), None)):
        for path in (tmp_path / "snapshots").iterdir():
            path.unlink()
        for step in steps:
            (tmp_path / "snapshots" / f"{step:08d}.safetensors").touch()
        found = guided.early_snapshot(tmp_path)
        assert found == (early and f"snapshots/{early:08d}.safetensors")


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 10])
def test_the_middle_interval_leaves_out_both_ends(steps):
    plain = SamplerConfig("dpmpp_2m", "karras", steps)
    inner = guided.guided_forms(plain, karras(), "weak", usual=1.0)[0]
    more = inner.nfe(karras()) - steps
    assert more == max(1, steps - 2 * max(1, steps // 4))
    low, high = inner.guidance_low * 1.01, inner.guidance_high / 1.01
    if more == 1:
        with pytest.raises(UnblotError, match="no noise level"):
            replace(inner, guidance_low=low, guidance_high=high)
    else:
        assert replace(inner, guidance_low=low, guidance_high=high).nfe(karras()) <= steps + more - 2


def test_what_is_reported_is_not_what_was_chosen_by(tuned):
    """No sample of a reported distance was used for the choice of its sampler, and none is one of `evaluate`."""
    run, sampled, _ = tuned
    last = len(read_tuning(run.path).candidates)
    assert len(sampled) > 6
    assert not set.union(*sampled[:-last]) & set.union(*sampled[-last:])
    assert min(set.union(*sampled)) >= OF_TUNING > 10**9


def test_a_few_samples_are_compared_by_the_kernel_distance(tuned):
    about = read_tuning(tuned[0].path).about
    assert (about["distance"], about["evaluated_by"]) == ("Fréchet distance", "Kernel distance")  # of 100, of 25
    assert table(about, read_tuning(tuned[0].path).candidates).startswith("Fréchet distance (pixels:dims=8 features)")


def test_no_more_samples_are_drawn_together_than_asked_for(tuned):
    assert max(tuned[2]) == 40  # guided, each twice


def test_estimates_in_batches_are_those_of_one(run):
    g = torch.Generator().manual_seed(0)
    x, level = torch.randn(7, 1, 8, 8, generator=g), NoiseLevel(torch.tensor(0.6).double(), torch.tensor(0.8).double())
    condition, sizes = Condition(torch.arange(10)), []
    hook = run.denoiser.network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    whole, parts = (screening.in_batches(run, condition, 7, size)(x, level).x0 for size in (64, 3))
    hook.remove()
    assert sizes == [7, 3, 3, 1]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_a_search_out_of_time_keeps_what_it_has(run, monkeypatch):
    monkeypatch.setattr(search, "parse_budget", lambda text: (0.0, False))
    dataset, config = api.open_data("digits"), TuneConfig(n=100)
    found, others = search.search(run, dataset, reference_of(dataset, "pixels:dims=8"), config, lambda line: None)
    assert len(found.candidates) == 1
    assert not others


def test_only_runs_are_tuned(run, capsys):
    assert main(["tune", str(run.path / "model.safetensors")]) == 2
    assert "no run at" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["-n", "10"], ["--budget", "soon"], ["--budget", "+9m"], ["--features", "smell"]])
def test_wrong_choices_are_one_line(run, flags, capsys):
    assert main(["tune", str(run.path), *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_reference_is_what_there_is_enough_of():
    few, many = api.open_data("digits"), api.open_data("digits", held_out=0.5)
    assert reference_of(few, "pixels:dims=16").name == "training pictures"
    found = reference_of(many, "pixels:dims=16")
    assert (found.name, found.count) == ("held-out pictures", len(many.held_out))
    assert reference_of(few, "pixels:dims=16").floor(50) is None
    assert 0 < found.floor(500) < found.floor(64)
    assert found.floor(10**6) is None


def test_the_budget_holds_for_the_features_too(run, monkeypatch):
    dataset = api.open_data("digits")
    assert reference_of(dataset, "pixels:dims=8", seconds=0).count == 256  # what is seen at once
    assert reference_of(dataset, "pixels:dims=8").count == len(dataset.train)
    calls = sum(search.NFES)
    assert search.affordable(2000, 600, 1e-6, 0) == 2000
    slow = [search.affordable(10**6, 600, each, seeing) for each, seeing in ((0.01, 0), (0.01, 0.01 * calls / 2))]
    assert slow[1] == pytest.approx(slow[0] / 2, abs=1)  # two samplers: as long for the features as for the samples
    begun, clock_of = [], search.clock_of

    def reference(*given):
        assert given[-1] == 6.0
        raise UnblotError(f"{len(begun)} clock runs")

    monkeypatch.setattr(search, "reference_of", reference)
    monkeypatch.setattr(search, "clock_of", lambda config: begun.append(1) or clock_of(config))
    with pytest.raises(UnblotError, match="1 clock runs"):
        search.tune_run(run, dataset, TuneConfig(budget="60s"), None)


def test_a_search_needs_the_data_of_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_data, "open_dataset", lambda source, quiet=False: open_data("digits", size="4"))
    with pytest.raises(UnblotError, match="put it back as it was"):
        unblot.tune(run.path)
