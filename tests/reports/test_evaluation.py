"""The report: complete, self-contained, repeatable, and its verdicts follow from its metrics."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from oracles import ideal
from pages import NASTY, SHOWN, check
from unblot import api
from unblot.data.dataset import Dataset, open_data
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.evaluation import retrieval
from unblot.evaluation.image_set import ImageSet
from unblot.evaluation.learning import loss_by_level
from unblot.evaluation.measure import Options, likelihood
from unblot.evaluation.memorization import nearness
from unblot.process.randomness import picture_generators
from unblot.process.schedules import SCHEDULES, uniform_time_levels
from unblot.reports import evaluation as reports
from unblot.reports.charts import loss_history
from unblot.reports.comparison import compare
from unblot.reports.evaluation import evaluate_run, history, read_report
from unblot.reports.evaluation_page import page
from unblot.reports.verdicts import QUESTIONS, summary, verdicts
from unblot.runs.folder import METRICS
from unblot.sampling.loop import pictures_noise, sample
from unblot.sampling.solvers import SOLVERS

TINY = {"steps": 2, "batch_size": 8, "network": "unet:width=16,multipliers=1-2", "preview_every": 0, "quiet": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_data("digits", held_out=0.3, cache=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return api.train("digits", held_out=0.3, out=tmp_path_factory.mktemp("runs") / "tiny", **TINY)


def evaluated(run: api.Run, data: Dataset, samples: np.ndarray, folder: Path, **options) -> dict:
    options = {"features": ("pixels:dims=16",), "likelihood": 4, **options}
    return evaluate_run(folder, run.config, run.denoiser, data, samples, Options(**options))


@pytest.fixture(scope="module")
def copier(run: api.Run, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("copier")
    return folder, evaluated(run, data, data.pictures[data.train[:300]], folder)


@pytest.fixture(scope="module")
def honest(run: api.Run, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("honest")
    options = {"features": ("classifier",), "cache": tmp_path_factory.mktemp("cache"), "ode": 2}
    return folder, evaluated(run, data, data.pictures[data.held_out[:300]], folder, **options)


def test_copies_are_called_copies_and_real_pictures_are_not(copier, honest) -> None:
    assert copier[1]["originality"]["samples"]["share"] == 1
    assert copier[1]["verdicts"]["new"]["level"] == "bad"
    assert copier[1]["verdicts"]["new"]["text"].startswith("It copies.")
    assert honest[1]["originality"]["samples"]["share"] < 0.01
    assert honest[1]["verdicts"]["new"]["level"] == "good"
    few = {**honest[1]["originality"]["samples"], "count": 2, "copies": 0, "share": 0.0, "low": 0.0, "high": 0.66}
    report = {**honest[1], "originality": {**honest[1]["originality"], "samples": few}}
    assert verdicts(report)["new"]["text"].startswith("Too few samples to say whether it copies.")
    assert honest[1]["verdicts"]["good"]["level"] == "good"
    assert honest[1]["verdicts"]["varied"]["level"] == "good"


def test_json_is_the_report(honest) -> None:
    folder, report = honest
    assert read_report(folder) == json.loads(json.dumps(report))
    assert {p.name for p in (folder / "report").iterdir()} == {"report.json", "report.html"}
    for row in report["metrics"]["rows"]:
        assert {"name", "value", "features", "n_samples", "n_reference", "reference", "needs"} <= set(row)
        assert re.fullmatch(r"(training|held-out) [0-9a-f]{8}", row["reference"])
        assert (row["value"] is None) == bool(row["needs"])
    assert {row["against"] for row in report["metrics"]["rows"]} == {"training", "held-out", "floor"}
    bound = report["likelihood"]["held_out"]["bound"]
    assert len(bound["each"]) == len(bound["pictures"]) == 4
    total = sum(bound["terms"][term]["value"] for term in ("prior", "steps", "decoder"))
    assert bound["terms"]["total"]["value"] == pytest.approx(total)
    assert report["likelihood"]["held_out"]["ode"]["terms"]["total"]["value"] > 0
    assert len(report["learning"]["bins"]) == 8
    assert [octave["pixels"] for octave in report["spectrum"]["octaves"]] == [2, 4, 8]
    assert report["spectrum"]["texture"] == "right"


def test_a_likelihood_is_found_where_sampling_has_few_levels(run, data) -> None:
    def found(spacing: str) -> dict:
        config = replace(run.config, train=replace(run.config.train, spacing=spacing))
        return likelihood(config, run.denoiser, data, Options(likelihood=2))["training"]["bound"]["terms"]

    expected = found("time")
    for spacing in ("trailing:indices=50", "trailing:indices=999", "listed:ratios=80/6/1.1/0.2"):
        assert found(spacing) == expected, spacing


def test_grainy_and_smooth_samples_are_called_so(honest) -> None:
    report = honest[1]
    for texture, ratio in (("grainy", 1.9), ("smooth", 0.52)):
        octaves = [{**octave, "ratio": ratio} for octave in report["spectrum"]["octaves"]]
        seen = {**report, "spectrum": {"octaves": octaves, "texture": texture}}
        seen = {**seen, "verdicts": verdicts(seen)}
        assert seen["verdicts"]["good"]["level"] == "middling"
        for text in (seen["verdicts"]["good"]["text"], summary(seen)):
            assert texture in text
            assert f"{ratio} times the power of real pictures" in text
        assert texture in compare([report, seen])
    assert "times the power" not in summary(report)


def test_samples_of_nothing_but_noise_are_not_called_half_good(honest) -> None:
    report = honest[1]
    octaves = [{**octave, "ratio": 250.0} for octave in report["spectrum"]["octaves"]]
    found = verdicts({**report, "spectrum": {"octaves": octaves, "texture": "grainy"}})["good"]
    assert found["level"] == "bad"
    assert "250 times the power" in found["text"]


def test_the_page_loads_nothing_from_elsewhere_and_says_everything(honest, data: Dataset) -> None:
    folder, report = honest
    text = (folder / "report" / "report.html").read_text(encoding="utf-8")
    check(text, "classifier features", times=1)
    assert "@import" not in text
    for question in QUESTIONS.values():
        assert question in text
    for title in (
        "See for yourself",
        "The nearest pairs",
        "The metrics",
        "Fine and coarse detail",
        "Classes",
        "Loss by noise level",
        "How probable",
    ):
        assert f"<h2>{title}" in text
    for row in report["metrics"]["rows"]:
        assert row["value"] is None or f"{row['value']:.3g}" in text
        assert row["reference"] in text
    pairs = report["originality"]["pairs"]
    assert text.count('<figure class="copy">') == sum(pair["copy"] for pair in pairs) < len(pairs)
    assert text == page({**report}, data, data.pictures[data.held_out[:300]])


def test_names_are_text_on_the_page_and_in_the_terminal(honest, data: Dataset) -> None:
    report = honest[1]
    names = [f"{NASTY}{i}" for i in range(10)]
    report = {**report, "run": NASTY, "notes": [NASTY], "data": {**report["data"], "name": NASTY, "classes": names}}
    check(page(report, data, data.pictures[data.held_out[:300]]), times=5 + len(names))
    for text in (summary(report), compare([report, report])):
        assert not set("\u202e\u2066\x1b\udcff") & set(text)
        assert SHOWN in text


@pytest.mark.parametrize("name", ["caf\udce9", "\x1b[31m\u202e\n<b>"])
def test_no_name_of_a_class_ends_an_evaluation(run: api.Run, data: Dataset, tmp_path: Path, name: str) -> None:
    data = replace(data, name=name, classes=(name, *data.classes[1:]))
    samples = data.pictures[data.held_out[:100]]
    report = evaluated(run, data, samples, tmp_path, features=("classifier",), likelihood=0)
    assert read_report(tmp_path) == json.loads(json.dumps(report))
    assert (tmp_path / "report" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def curves(history: list[dict]) -> set[str]:
    """The colours of the curves in the chart of a history."""
    return set(re.findall(r"stroke: var\(--(samples|real|training),", loss_history(history)))


def test_the_losses_during_training_are_shown_where_they_were_measured(tmp_path: Path) -> None:
    assert loss_history(history(tmp_path)) == ""
    lines = [{"step": 10 * i, "training": [1 / (1 + i)] * 5, "held_out": [0.5, 1.5]} for i in range(4)]
    steps = [{"step": 5, "loss": None, "grad_norm": 1.0}]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in steps + lines))
    found = history(tmp_path)
    assert [h["step"] for h in found] == [0, 10, 20, 30]
    assert found[3]["training"] == pytest.approx(0.25)
    assert {h["held_out"] for h in found} == {1.0}
    assert curves(found) == {"samples", "real"}
    assert curves([{**h, "held_out": None} for h in found]) == {"real"}
    assert loss_history(found[:2]) == ""


def test_measured_again_it_is_the_same(run: api.Run, data: Dataset, copier, tmp_path: Path) -> None:
    again = evaluated(run, data, data.pictures[data.train[:300]], tmp_path)
    assert {**again, "run": "", "seconds": {}} == {**copier[1], "run": "", "seconds": {}}


def test_summary_and_comparison_show_every_run(copier, honest) -> None:
    text = summary(honest[1])
    for question in QUESTIONS.values():
        assert question in text
    side_by_side = compare([copier[1], honest[1]])
    assert "features do not compare" not in side_by_side
    assert "different features" in side_by_side
    head = side_by_side.splitlines()[0]
    assert copier[1]["run"] in head
    assert honest[1]["run"] in head
    assert "different" not in compare([honest[1], honest[1]])


@pytest.mark.parametrize("rule", [{"flip": True}, {"shift": 2}])
def test_copies_that_are_counted_by_other_rules_are_told_apart(honest, rule: dict) -> None:
    report, caveat = honest[1], "shares of copies do not compare"
    other = {**report, "originality": {**report["originality"], **rule}}
    assert caveat in compare([report, other])
    assert caveat not in compare([other, other, {**report, "originality": None}])


def test_what_does_not_belong_together_is_refused(run: api.Run, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UnblotError, match="do not fit pictures of shape"):
        evaluated(run, data, np.zeros((100, 3, 8, 8), np.uint8), tmp_path)
    with pytest.raises(UnblotError, match="unblot evaluate"):
        read_report(tmp_path)
    (tmp_path / "report").mkdir(exist_ok=True)
    (tmp_path / "report" / "report.json").write_text("{")
    with pytest.raises(UnblotError, match="damaged"):
        read_report(tmp_path)


def damaged(report: dict) -> Iterator[str]:
    """The text of a report with each of its values, in turn, left out or of another kind."""
    for key, value in report.items():
        for other in ({}, [], 5, "x", None, [None], {"x": 1}):
            if type(other) is not type(value):
                yield json.dumps({**report, key: other})
        yield json.dumps({k: v for k, v in report.items() if k != key})
        if isinstance(value, dict):
            yield from (json.dumps({**report, key: json.loads(text)}) for text in damaged(value))


def test_a_damaged_report_is_compared_or_refused_in_one_line(honest, tmp_path: Path) -> None:
    sound = {k: v for k, v in honest[1].items() if k not in ("history", "sampled_with")}
    sound["metrics"] = {**sound["metrics"], "rows": sound["metrics"]["rows"][:2]}
    sound["likelihood"] = {"held_out": {"bound": {"terms": sound["likelihood"]["held_out"]["bound"]["terms"]}}}
    (tmp_path / "report").mkdir()
    texts = [*damaged(sound), "", "null", "[]", "{", "[" * 100_000, b"\xff{}"]
    refused = []
    for text in texts:
        (tmp_path / "report" / "report.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            report = read_report(tmp_path)
        except UnblotError as error:
            refused.append(str(error))
        else:
            assert summary(report)
            assert compare([report, honest[1]])
    assert len(refused) > 100
    assert all("\n" not in line and "is damaged" in line and "unblot evaluate" in line for line in refused)


def test_what_can_be_refused_is_refused_before_sampling(
    run: api.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.Run, "sample", lambda *a, **k: pytest.fail("sampled"))
    for features, words in (("vgg", "unknown features 'vgg'"), ("pixels+random:size=3", "no option 'size=3'")):
        with pytest.raises(UnblotError, match=words):
            api.evaluate(run.path, features=features, quiet=True)
    for name in ("likelihood", "ode"):
        with pytest.raises(UnblotError, match=f"{name}=1: .* give 2 or more, or 0"):
            api.evaluate(run.path, **{name: 1}, quiet=True)
    with pytest.raises(UnblotError, match="unknown features 'vgg'"):
        api.tune(run.path, features="vgg")
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "report").write_text("no folder can be here")
    for work in (api.evaluate, api.tune):
        with pytest.raises(UnblotError, match=r"nothing can be written into .*report.*: this is a file; give a folder"):
            work(tmp_path / "run")


def test_no_more_pictures_go_through_the_network_together_than_asked_for(
    run: api.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, output = [], Denoiser.output
    monkeypatch.setattr(reports, "loss_by_level", partial(loss_by_level, pictures=4))
    monkeypatch.setattr(Denoiser, "output", lambda self, x_t, *rest: sizes.append(len(x_t)) or output(self, x_t, *rest))
    few = {"n": 7, "steps": 1, "guidance": 1.0, "likelihood": 4, "batch_size": 3}
    api.evaluate(run.path, out=tmp_path, **few, features="pixels", quiet=True)
    assert max(sizes) == 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_smallest_sets_are_measured_without_a_warning(tmp_path: Path, count: int) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8))
    run = api.train(str(tmp_path / "a.npy"), out=tmp_path / "run", **{**TINY, "network": "unet:width=16,multipliers=1"})
    told: list[str] = []
    report = api.evaluate(run.path, n=2, steps=2, quiet=True, report=told.append)
    assert told[:2] == ["drawing 2 samples: 50%", "drawing 2 samples: 100%"]
    assert [line for line in told if "likelihood" in line] == ["measuring 2 samples: likelihood"]
    assert (report["originality"] is None) == (report["data"]["training"] < 2)
    assert "no held-out" not in summary(report)
    assert report["learning"] is None
    assert (run.path / "report" / "report.html").exists()


def test_other_data_than_the_run_was_trained_on_is_refused(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    np.save(tmp_path / "a.npy", pictures)
    run = api.train(str(tmp_path / "a.npy"), out=tmp_path / "run", **TINY)
    np.save(tmp_path / "a.npy", 255 - pictures)
    with pytest.raises(UnblotError, match=r"a\.npy.*put it back as it was"):
        api.evaluate(run.path, n=4, quiet=True)
    assert not (run.path / "report").exists()


def test_features_that_are_not_available_are_named_and_the_default_is_used(
    run: api.Run, data: Dataset, tmp_path: Path
) -> None:
    samples = data.pictures[data.held_out[:200]]
    notes: list[str] = []
    options = Options(features=("dinov2:model=/nowhere",), likelihood=0, cache=tmp_path / "cache")
    report = evaluate_run(tmp_path, run.config, run.denoiser, data, samples, options, notes.append)
    assert report["metrics"]["features"] == ["classifier"]
    assert "dinov2" in notes[0]
    assert notes == report["notes"]


def test_points_and_data_without_held_out_pictures_are_measured_as_far_as_they_can_be(tmp_path: Path) -> None:
    for name, held_out in (("moons:count=600", 0.2), ("digits", 0)):
        network = {} if name == "digits" else {"network": "mlp:width=16"}
        run = api.train(name, held_out=held_out, out=tmp_path / name.split(":")[0], **{**TINY, **network})
        data = open_data(name, held_out=held_out)
        report = evaluated(run, data, data.pictures[data.train[:200]], run.path)
        assert report["verdicts"]["good"]["level"] == ("unknown" if name == "digits" else "good")
        assert (report["originality"] is None) == (name != "digits")
        assert report["notes"]
        assert summary(report)


def test_a_failed_report_leaves_the_old_one(
    run: api.Run, data: Dataset, copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copier[0]
    before = (folder / "report" / "report.json").read_bytes()
    monkeypatch.setattr(reports, "verdicts", lambda report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluated(run, data, data.pictures[data.train[:300]], folder)
    assert (folder / "report" / "report.json").read_bytes() == before


def test_the_ideal_denoiser_of_a_finite_set_is_called_a_copier(data: Dataset) -> None:
    members = ImageSet(data.pictures, lambda a: data.values.encode(a, np.float32), data.train[:64])
    noise = pictures_noise(picture_generators(0, range(200)), data.shape, torch.device("cpu"))
    levels = uniform_time_levels(SCHEDULES["cosine"](), 100)
    samples = sample(ideal(members[:]), noise(), levels, SOLVERS["ddim"](), noise)
    found = nearness(ImageSet(data.values.decode(samples.numpy()), members.encode), members)
    assert found.copies().all()
    assert len(found.position.unique()) > 32


def ranked(recall: float, mean_rank: float) -> dict:
    return {"count": 100, "recall_at_1": recall, "low": recall - 0.02, "high": recall + 0.02, "mean_rank": mean_rank}


@pytest.mark.parametrize(
    ("samples", "level"),
    [((0.9, 1.5), "good"), ((0.5, 8.0), "middling"), ((0.05, 40.0), "bad"), ((0.01, 50.0), "bad")],
)
def test_captions_are_obeyed_as_far_as_samples_are_between_real_and_shuffled(honest, samples, level) -> None:
    rows = {"samples": ranked(*samples), "held_out": ranked(0.95, 1.2), "shuffled": ranked(0.01, 50.0)}
    report = {**honest[1], "captions": {"candidates": 100, **rows}}
    report["verdicts"] = verdicts(report)
    assert report["verdicts"]["captions"]["level"] == level
    assert f"comes first for {samples[0]:.0%} of the samples" in report["verdicts"]["captions"]["text"]
    assert "Does it obey captions?" in summary(report)
    assert "captions" not in honest[1]["verdicts"]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return api.train("shapes:count=60,size=8", held_out=0.4, out=tmp_path_factory.mktemp("captioned") / "run", **TINY)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_captioned_run_is_asked_whether_it_obeys_and_told_where_that_is_not_known(
    captioned: api.Run, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "STEPS", 2)
    monkeypatch.setattr(retrieval, "TRUSTED", 2.0 if trusted else 0.0)  # of a judge that has learned nothing
    report = api.evaluate(captioned.path, n=10, steps=1, features="pixels:dims=4", likelihood=0, quiet=True)
    told = [note for note in report["notes"] if "obey" in note]
    shown = (captioned.path / "report" / "report.html").read_text()
    if trusted:
        assert told == []
        assert report["captions"]["samples"]["count"] == 10
        assert "captions" in report["verdicts"]
        assert "Captions" in shown
    else:
        assert len(told) == 1
        assert "the judge cannot be trusted" in told[0]
        assert report["captions"] is None
        assert "captions" not in report["verdicts"]
        assert "Captions" not in shown
