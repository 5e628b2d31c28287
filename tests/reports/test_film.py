"""The film as files: pictures, a chart that is there, numbers that say the same, and numbers of steps compared."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import unblot
from helpers import refused
from unblot.cli.parser import main
from unblot.data.values import ValueMap
from unblot.reports import film
from unblot.reports.film import changes_sentence, differences, steps_sentence
from unblot.runs.film import in_steps
from unblot.sampling.changes import Band, Changes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return unblot.train(
        "digits", steps=2, batch_size=4, preview_every=0, out=folder, quiet=True, network="unet:width=16"
    )


def test_the_film_has_a_chart_below_and_its_numbers_beside_it(run, tmp_path, capsys):
    film = ["film", str(run.path), "-n", "1", "--steps", "6", "--label", "3"]
    assert main([*film, "--out", str(tmp_path / "film")]) == 0
    assert json.loads((tmp_path / "film" / "manifest.json").read_text())["labels"] == ["3"]
    told = capsys.readouterr().out.splitlines()[-1]
    found = json.loads((tmp_path / "film" / "changes.json").read_text())
    assert f"half of the coarse change of x0_hat is over after step {found['coarse_half_over_after_step']} of 6" in told
    assert f"half of the fine after step {found['fine_half_over_after_step']}" in told
    assert [row["step"] for row in found["steps"]] == [1, 2, 3, 4, 5, 6]
    for name in ("coarse_share", "fine_share"):
        assert sum(row[name] for row in found["steps"][1:]) == pytest.approx(1)
    strip = np.asarray(Image.open(tmp_path / "film" / "strip.png").convert("RGB")).reshape(-1, 3)
    blue, orange = ([0x2F, 0x74, 0xC4], [0xB0, 0x6A, 0x10])  # the pictures are gray
    assert all((strip == colour).all(axis=1).sum() > 50 for colour in (blue, orange))


def test_one_step_is_a_film_without_changes(run, tmp_path, capsys):
    assert main(["film", str(run.path), "-n", "1", "--steps", "1", "--out", str(tmp_path / "film")]) == 0
    assert "take 2 steps or more" in capsys.readouterr().out


def band(*shares):
    return Band(torch.tensor(shares), torch.tensor(shares).abs())


def test_the_sentence_says_when_half_is_over():
    told = changes_sentence(Changes(4.0, band(0.1, 0.6, 0.3), band(0.0, 0.1, 0.9)))
    assert "after step 3 of 4, half of the fine after step 4 (fine: from 4 cycles a picture on)" in told
    assert changes_sentence(Changes(0.25, band(0.6, 0.4), band(0.0, 0.0))).endswith("is over after step 2 of 3")


def test_steps_compared_are_the_pictures_that_sampling_draws(run, tmp_path, capsys):
    out = tmp_path / "steps"
    assert main(["film", str(run.path), "-n", "3", "--compare-steps", "4,2", "--seed", "5", "--out", str(out)]) == 0
    told, rows = capsys.readouterr().out, json.loads((out / "steps.json").read_text())["rows"]
    drawn = [run.sample(3, steps=steps, seed=5) for steps in (2, 4)]
    assert rows[0]["rms_from_last"] == pytest.approx(differences(drawn, ValueMap.from_dict(run.config.data.values))[0])
    assert [row["steps"] for row in rows] == [2, 4]
    assert rows[1]["rms_from_last"] == 0
    assert f"from 4 steps: 2 steps {rows[0]['rms_from_last']:.2g}" in told
    sheet = np.asarray(Image.open(out / "steps.png"))
    assert np.array_equal(np.asarray(drawn[0].grid(3)), sheet[: sheet.shape[0] // 2 - 2, -drawn[0].grid(3).width :])


def test_one_number_of_steps_is_told_how_to_compare(run):
    assert "give several" in steps_sentence(in_steps(run, 1, [2]), [2], run)


def test_steps_are_chosen_once(run, capsys, tmp_path):
    argv = ["film", run.path, "--out", tmp_path / "out", "--compare-steps"]
    assert "leave out --steps" in refused(capsys, *argv, "4,8", "--steps", "5")
    assert "--compare-steps 4;8" in refused(capsys, *argv, "4;8")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sample", "film"])
def test_a_sampling_is_watched_without_changing_its_pictures(command, run, tmp_path, capsys):
    flags = [command, str(run.path), "-n", "3", "--steps", "4", "--out"]
    assert main([*flags, str(tmp_path / "alone")]) == 0
    assert main([*flags, str(tmp_path / "seen"), "--watch", str(tmp_path / "now.png")]) == 0
    name = film.STRIP if command == "film" else "000002.png"
    assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "seen" / name).read_bytes()
    with Image.open(tmp_path / "now.png") as now:
        one = film.picture(run, np.zeros((3, *run.config.shape), np.float32))
        assert now.size == (2 * one.width + film.GAP, one.height)
        assert len(now.getcolors()) > 10
    assert "name a new file" in refused(capsys, *flags, str(tmp_path / "more"), "--watch", str(tmp_path / "now.png"))


def test_several_numbers_of_steps_are_not_watched(run, tmp_path, capsys):
    watched = ["--watch", str(tmp_path / "now.png"), "--out", str(tmp_path / "film")]
    assert "leave one of them out" in refused(capsys, "film", str(run.path), "--compare-steps", "2,4", *watched)
    assert not (tmp_path / "film").exists()
