"""Evaluations with a sampler of one's choice, of pictures from elsewhere, and into a folder of one's choice."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import NETWORK, refused
from unblot import api
from unblot.cli.parser import main
from unblot.config.measuring import OF_THE_RUN, EvaluateConfig
from unblot.errors import UnblotError
from unblot.evaluation.image_set import ImageSet
from unblot.interchange.card import own_report
from unblot.reports.comparison import compare
from unblot.reports.evaluation import JSON, read_report
from unblot.reports.place import place_of_report
from unblot.reports.verdicts import summary
from unblot.runs import bulk
from unblot.runs.folder import REPORT
from unblot.system.files import write_json

TINY = {"steps": 2, "batch_size": 8, "preview_every": 0, "quiet": True}
QUICK = {"features": "pixels:dims=4", "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return api.train("digits", held_out=0.1, out=folder, network=NETWORK, **TINY)


@pytest.fixture(scope="module")
def drawn(run: api.Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A folder of 12 samples with their sheet, and their values."""
    samples = run.sample(12, steps=2, solver="euler")
    return samples.save(tmp_path_factory.mktemp("drawn") / "euler"), samples.array


@pytest.fixture(scope="module")
def judged(run: api.Run, drawn: tuple[Path, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report on these samples."""
    out = tmp_path_factory.mktemp("reports") / "given"
    api.evaluate(run.path, samples=drawn[0], out=out, **QUICK)
    return out


# --- a sampler of one's choice


@pytest.fixture(scope="module")
def heun(run: api.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on samples of another sampler."""
    out = tmp_path_factory.mktemp("reports") / "heun"
    asked = {"solver": "heun", "spacing": "karras", "nfe": 5, "guidance": 1.0}
    api.evaluate(run.path, n=4, likelihood=0, out=out, **asked, **QUICK)
    return out


def test_samples_are_drawn_as_they_are_asked_for(run: api.Run, heun: Path) -> None:
    about = read_report(heun)["sampled_with"]
    assert (about["solver"], about["steps"], about["nfe"]) == ("heun", 3, 5)
    assert about["spacing"].startswith("karras")
    assert "5" in re.search(r"nfe (\d+)", (heun / "report.html").read_text())[1]
    assert not (run.path / "report").exists()


@pytest.mark.parametrize(("choices", "words"), [
    ({"steps": 2, "nfe": 3}, "nfe= chooses the number of steps; leave out steps= or nfe="),
    ({"quality": "best"}, "needs a run that was tuned"),
    ({"quality": "best", "solver": "heun"}, "quality= chooses solver, spacing and steps"),
    ({"solver": "nothing"}, "unknown solver 'nothing'"),
    ({"spacing": "nothing"}, "unknown spacing 'nothing'"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused_as_in_sampling(run: api.Run, choices: dict, words: str) -> None:
    for work in (lambda: run.sample(2, **choices), lambda: api.evaluate(run.path, n=2, quiet=True, **choices)):
        with pytest.raises(UnblotError, match=words):
            work()
    assert not (run.path / "report").exists()


# --- pictures from elsewhere


def test_given_pictures_are_judged_as_they_are(drawn: tuple[Path, np.ndarray], judged: Path) -> None:
    report = read_report(judged)
    folder, array = drawn
    assert report["count"] == 12  # without the sheet of them all
    about = report["sampled_with"]
    assert (about["samples"], about["pictures"], about["hash"]) == (str(folder), 12, ImageSet(array).hash())
    assert (about["solver"], about["steps"], about["run"]) == ("euler", 2, "tiny")
    assert (report["likelihood"], report["learning"], report["history"]) == (None, None, [])
    assert any("left out" in line for line in report["notes"])
    assert report["verdicts"]["learning"]["level"] == "unknown"
    assert f"12 samples (the pictures of {folder})" in summary(report)
    page = (judged / "report.html").read_text()
    assert f"are pictures of “<bdi>{folder}</bdi>”" in page
    assert "million parameters" not in page
    assert "made 12 new ones" not in page


def test_samples_in_shards_and_in_arrays_are_those_in_files(
    run: api.Run, drawn: tuple[Path, np.ndarray], judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MANY", 12)
    monkeypatch.setattr(bulk, "SHARD", 5)
    bulk.sample_to_folder(tmp_path / "shards", run, 12, steps=2, solver="euler")
    np.save(tmp_path / "x.npy", drawn[1])
    expected = read_report(judged)
    for name in ("shards", "x.npy"):
        report = api.evaluate(run.path, samples=tmp_path / name, out=tmp_path / "report", **QUICK)
        assert report["sampled_with"]["hash"] == expected["sampled_with"]["hash"]
        assert report["metrics"] == expected["metrics"]
        assert report["sampled_with"].get("nfe") == (2 * 2 if name == "shards" else None)
    (tmp_path / "shards" / "shard-000001.npy").unlink()
    with pytest.raises(UnblotError, match=r"not finished: shard-000001.npy is not there; run the same unblot sample"):
        api.evaluate(run.path, samples=tmp_path / "shards", **QUICK)


def test_of_more_pictures_than_asked_for_some_are_judged(
    run: api.Run, drawn: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = [
        api.evaluate(run.path, samples=drawn[0], n=5, out=tmp_path, features="pixels:dims=4")["sampled_with"]
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert found[0]["pictures"] == 12
    assert "note: 5 of the 12 pictures of" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "report.json").read_text())["originality"]["pairs"]) == 5


def test_gray_pictures_in_three_equal_channels_are_gray(run: api.Run, tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)
    for i, picture in enumerate(gray):
        Image.fromarray(picture).convert("RGB").save(tmp_path / f"{i}.png")
    report = api.evaluate(run.path, samples=tmp_path, out=tmp_path / "report", **QUICK)
    assert report["sampled_with"]["hash"] == ImageSet(gray[:, None]).hash()


@pytest.mark.parametrize(("array", "words"), [
    (np.zeros((4, 9, 8), np.uint8), r"is 9x8 with 1 channel of uint8; this run's pictures are 8x8 with 1 channel"),
    (np.zeros((4, 8, 8, 3), np.uint8) + np.arange(3, dtype=np.uint8), "8x8 with 3 channels of uint8; this run's"),
    (np.zeros((4, 8, 8), np.float32), "of float32; this run's pictures are 8x8 with 1 channel of uint8"),
    (np.zeros((1, 8, 8), np.uint8), "holds 1 picture; give at least 2"),
])  # fmt: skip
def test_pictures_that_do_not_fit_are_refused(run: api.Run, tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UnblotError, match=words):
        api.evaluate(run.path, samples=tmp_path / "x.npy", **QUICK)
    assert not (run.path / "report").exists()


def test_points_of_double_precision_are_judged_and_not_those_that_are_not_finite(tmp_path: Path) -> None:
    run = api.train("moons:count=100", held_out=0.2, out=tmp_path / "run", network="mlp:width=16", **TINY)
    run.sample(6, steps=1).save(tmp_path / "points")
    points = np.load(tmp_path / "points" / "points.npy").astype(np.float64)
    np.save(tmp_path / "x.npy", points)
    hashes = {
        api.evaluate(run.path, samples=tmp_path / name, quiet=True)["sampled_with"]["hash"]
        for name in ("points", "x.npy")
    }
    assert len(hashes) == 1
    points[3, 1] = np.nan
    np.save(tmp_path / "x.npy", points)
    with pytest.raises(UnblotError, match="NaN or infinite"):
        api.evaluate(run.path, samples=tmp_path / "x.npy", quiet=True)


@pytest.mark.parametrize("name", OF_THE_RUN)
def test_what_is_for_drawing_is_refused_with_pictures_that_are_given(name: str) -> None:
    value = {"solver": "heun", "spacing": "karras", "quality": "best"}.get(name, 3)
    with pytest.raises(
        UnblotError, match=f"{name}=.* is for what the run draws or for its model.*leave one of the two out"
    ):
        EvaluateConfig(samples="x", **{name: value})
    assert EvaluateConfig(samples="x", likelihood=0).samples == "x"


def test_captions_of_given_pictures_are_those_of_the_source_or_the_prompts_they_were_drawn_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = api.train("shapes:count=60,size=8", held_out=0.2, out=tmp_path / "run", network=NETWORK, **TINY)
    prompts = ["a red circle", "a blue star"]
    bulk.sample_to_folder(tmp_path / "files", run, 3, steps=1, prompt=prompts)
    run.sample(3, steps=1, prompt=prompts).save(tmp_path / "saved")
    monkeypatch.setattr(bulk, "MANY", 3)
    bulk.sample_to_folder(tmp_path / "shards", run, 3, steps=1, prompt=prompts)
    shutil.copytree(tmp_path / "files", tmp_path / "named")
    (tmp_path / "named" / "manifest.json").unlink()
    (tmp_path / "named" / "grid.png").unlink()
    for i in range(2):
        (tmp_path / "named" / f"00000{i}.txt").write_text(prompts[i])
    seen: list = []
    monkeypatch.setattr("unblot.reports.evaluation.caption_agreement", lambda *pairs: seen.append(pairs[2]) or "no")
    for name in ("files", "saved", "shards", "named"):
        api.evaluate(run.path, samples=tmp_path / name, **QUICK)
        texts = dict(zip(seen[-1].pictures.indices.tolist(), seen[-1].captions, strict=True))
        third = "" if name == "named" else prompts[0]
        assert [texts[i] for i in range(3)] == [(prompts[0],), (prompts[1],), (third,)], name
    np.save(tmp_path / "x.npy", run.sample(3, steps=1).array)
    report = api.evaluate(run.path, samples=tmp_path / "x.npy", **QUICK)
    assert report["captions"] is None
    assert any("they have none" in line for line in report["notes"])
    assert len(seen) == 4


def test_a_card_tells_no_figures_of_pictures_that_were_given(
    run: api.Run, judged: Path, heun: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    for report, known in ((judged, False), (heun, True)):
        shutil.copytree(report, copy / "report", dirs_exist_ok=True)
        assert (own_report(api.load(copy)) is not None) == known


# --- where the report goes, and side by side


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_a_report_replaces_a_report_alone(run: api.Run, judged: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(judged, tmp_path / "old")
    (tmp_path / "old" / "thesis.txt").write_text("mine")
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8), np.uint8))
    choices = {"samples": tmp_path / "x.npy", **QUICK}
    assert api.evaluate(run.path, out=tmp_path / "old", **choices)["count"] == 3
    assert (tmp_path / "old" / "thesis.txt").read_text() == "mine"
    for text in ("{}", "[1]", "words"):
        (tmp_path / "old" / name).write_text(text)
        with pytest.raises(UnblotError, match=f"{name}' is no (report|page) of unblot; choose another"):
            api.evaluate(run.path, out=tmp_path / "old", **choices)
        assert (tmp_path / "old" / name).read_text() == text
    with pytest.raises(UnblotError, match="this is a file; give a folder"):
        api.evaluate(run.path, out=tmp_path / "x.npy", **choices)


def test_reports_of_one_run_are_compared_and_other_samplers_named(judged: Path, heun: Path) -> None:
    reports = [read_report(judged), read_report(heun)]
    text = compare(reports)
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert f"pictures of {reports[0]['sampled_with']['samples']}, euler, 2 steps" in rows["sampled with"]
    assert "heun, 3 steps, karras" in rows["sampled with"]
    assert rows["network calls"].split() == ["network", "calls", "–", "5"]
    assert rows["network"].split() == ["network", "–", "unet"]
    caveat = "sampled with different samplers"
    assert caveat in text
    assert caveat not in compare([reports[0], reports[0]])
    guided = {**reports[1], "sampled_with": {**reports[1]["sampled_with"], "guidance_low": 0.3}}
    assert caveat in compare([reports[1], guided])
    seeded = {**reports[1], "sampled_with": {**reports[1]["sampled_with"], "seed": 9}}
    assert caveat not in compare([reports[1], seeded])


def test_the_command_line_judges_and_compares(
    run: api.Run, drawn: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "report"
    flags = ["--features", "pixels:dims=4", "--samples", str(drawn[0]), "--out", str(out)]
    assert main(["evaluate", str(run.path), *flags]) == 0
    assert f"look at   {out / 'report.html'}" in capsys.readouterr().out
    assert main(["compare", str(out), str(out)]) == 0
    told = refused(capsys, "evaluate", run.path, *flags, "--steps", 3)
    assert f"--steps 3 is for what the run draws or for its model, and --samples {drawn[0]} gives pictures" in told
    (out / "report.json").write_text("{")
    assert "unblot evaluate RUN --out" in refused(capsys, "compare", out)


def test_other_pictures_do_not_replace_the_evaluation_of_the_run(judged: Path, tmp_path: Path) -> None:
    own, other, report = tmp_path / REPORT, tmp_path / "elsewhere", read_report(judged)
    assert place_of_report(tmp_path, None, judges_given=True) == own
    own.mkdir()
    write_json(own / JSON, report)  # of other pictures itself
    assert place_of_report(tmp_path, None, judges_given=True) == own
    write_json(own / JSON, report | {"sampled_with": {}})
    with pytest.raises(UnblotError, match="give out='FOLDER'"):
        place_of_report(tmp_path, None, judges_given=True)
    assert place_of_report(tmp_path, None, judges_given=False) == own
    assert place_of_report(tmp_path, other, judges_given=True) == other
