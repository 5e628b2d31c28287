"""The command line: what a person types, right and wrong. Every wrong argument is one line and exit code 2."""

import importlib
import json
import re
import shlex
import shutil
import struct
import subprocess
import sys
from dataclasses import fields
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY, refused
from unblot.api import SPECS
from unblot.cli.parser import main
from unblot.config.schema import TrainConfig
from unblot.config.tables import TABLES, entries
from unblot.runs import describe
from unblot.specs import options_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--out", str(folder), "--quiet", *TINY]) == 0
    return folder


# --- what works


def test_distill_makes_a_run_of_few_evaluations(run, tmp_path, capsys):
    out = tmp_path / "few"
    assert main(["distill", str(run), "--nfe", "1", "--steps", "2", "--out", str(out), "--quiet"]) == 0
    assert f"unblot sample {out}" in capsys.readouterr().out
    assert main(["sample", str(out), "-n", "2"]) == 0
    assert main(["show", str(out)]) == 0
    assert "NFE 1" in capsys.readouterr().out
    assert "--nfe must be from 1 to 4, not 0" in refused(capsys, "distill", run, "--nfe", "0")
    assert "leave out --steps" in refused(capsys, "sample", out, "--steps", "8")


def test_train_leaves_a_run_and_names_what_to_look_at(run, capsys):
    assert {p.name for p in run.iterdir()} >= {"config.json", "model.safetensors", "metrics.jsonl", "samples"}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 4


def test_sample_writes_a_grid_and_single_files_with_their_provenance(run, tmp_path, capsys):
    out = tmp_path / "new"
    flags = ["--label", "3,7", "--steps", "2", "--solver", "ddim:eta=0.5", "--guidance", "1.5", "--out", str(out)]
    assert main(["sample", str(run), "-n", "4", *flags]) == 0
    assert str(out / "grid.png") in capsys.readouterr().out
    names = [*(f"00000{i}.png" for i in range(4)), "grid.png", "manifest.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    picture = Image.open(out / "000003.png")
    assert (picture.size, picture.mode) == ((8, 8), "L")
    about = json.loads(picture.text["unblot"])
    assert (about["index"], about["label"], about["solver"], about["seed"]) == (3, "7", "ddim:eta=0.5", 0)


def test_a_second_draw_does_not_touch_the_first(run, capsys):
    for _ in range(2):
        assert main(["sample", str(run), "-n", "1", "--steps", "1"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first != second


def test_the_model_file_alone_is_enough(run, tmp_path, capsys):
    shutil.copy(run / "model.safetensors", tmp_path)
    assert main(["sample", str(tmp_path / "model.safetensors"), "-n", "2", "--steps", "2", "--seed", "5"]) == 0
    assert main(["sample", str(run), "-n", "2", "--steps", "2", "--seed", "5", "--out", str(tmp_path / "b")]) == 0
    a, b = (np.asarray(Image.open(p / "000001.png")) for p in (tmp_path / "samples" / "sample", tmp_path / "b"))
    assert np.array_equal(a, b)


def test_film_is_a_strip_and_a_moving_picture(run, tmp_path, capsys):
    out = tmp_path / "film"
    assert main(["film", str(run), "-n", "4", "--steps", "5", "--out", str(out)]) == 0
    assert Image.open(out / "film.gif").n_frames > 1
    assert Image.open(out / "strip.png").width > Image.open(out / "film.gif").width


def test_show_says_what_the_run_is(run, capsys):
    assert main(["show", str(run)]) == 0
    told = capsys.readouterr().out
    for word in ("digits", "8 x 8 x 1", "unet:width=16", "edm", "4 steps of 8", "step 4"):
        assert word in told


def test_resume_goes_on_to_more_steps(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    assert main(["train", "--resume", str(folder), "--steps", "6", "--quiet"]) == 0
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6


def test_help_and_wrong_arguments_cost_no_import_of_torch():
    code = "import sys, unblot.cli.parser as c\nfor a in (['--help'], ['train', '--help'], ['nothing']):\n"
    code += " try: c.main(a)\n except SystemExit: pass\nassert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_help_names_every_entry_of_every_table_with_its_options(capsys):
    """The help reads the tables from their source; here that is compared with the tables themselves."""
    tables = {name: importlib.import_module("unblot." + tables_module(path)) for name, path in TABLES.items()}
    told = ""
    for command in ("train", "sample", "evaluate"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told += " ".join(capsys.readouterr().out.split())
    for name, module in tables.items():
        table = getattr(module, name)
        assert list(entries(name)) == list(table)
        assert ", ".join(table) in told, name
        for entry in table:
            factory = table[entry] if isinstance(table, dict) else None  # else the table is a list of names
            made = options_of(factory) if callable(factory) else {}
            assert entries(name)[entry] == {key: str(value) for key, value in made.items()}
            assert not made or f"{entry}:" in told


def tables_module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_every_choice_from_a_table_is_read_from_that_table():
    for f in fields(TrainConfig):
        if f.name in SPECS:
            assert list(entries(f.metadata["table"])) == list(SPECS[f.name])


def test_defaults_that_the_preset_decides_are_not_shown_as_others(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for flag in ("clusters", "optimizer", "steps", "network", "solver"):
        assert re.search(rf"--{flag} .*?\(default: (.*?)\)", told)[1] == "decided by the preset and the data"


def test_a_dry_run_says_what_decides_each_choice_and_writes_no_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--dry-run", "--steps", "40"]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("--"))
    assert told["--steps"] == "40  (given)"
    assert told["--clusters"] == "0  (preset default, from the labels, the captions and the number of pictures)"
    assert told["--preview-every"] == "8  (a fifth of the steps)"
    assert told["--seed"] == "0  (default)"
    assert {f"--{f.name.replace('_', '-')}" for f in fields(TrainConfig)} <= set(told)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_with_a_budget_shows_no_value_that_trial_steps_will_find(capsys):
    assert main(["train", "digits", "--dry-run", "--budget", "1h", "--preview-every", "7"]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("--"))
    later = "-  (trial steps, when training starts)"
    assert {told[f"--{name}"] for name in ("network", "steps", "batch-size", "checkpoint-every")} == {later}
    assert told["--preview-every"] == "7  (given)"
    assert main(["train", "digits", "--dry-run", "--budget", "1h", "--preset", "ddpm"]) == 0
    assert "--network           ddpm_unet" in capsys.readouterr().out


def test_shells_get_a_completion_script():
    done = subprocess.run(
        [sys.executable, "-m", "unblot", "--print-completion", "bash"], capture_output=True, text=True, check=True
    )
    assert "--batch-size" in done.stdout


# --- what is refused


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "COMMAND"),
        (["paint"], "paint"),
        (["train", "--stepz", "3"], "did you mean --steps?; see unblot train --help"),
        (["sample", "runs/x", "--no-such"], "unrecognized arguments: --no-such; see unblot sample --help"),
        (["doctor", "digits", "--page", "page.png"], "give a name that ends in .html"),
        (["train", "--steps", "many"], "many"),
        (["train", "no/such/folder"], "no/such/folder"),
        (["train", "digits", "--steps", "0"], "--steps must be at least 1"),
        (["train", "digits", "--batch-size", "-3"], "--batch-size must be at least 1"),
        (["train", "digits", "--learning-rate", "-1"], "--learning-rate must be at least 0"),
        (["train", "digits", "--label-dropout", "2"], "--label-dropout must be from 0 to 1"),
        (["train", "digits", "--held-out", "1"], "--held-out must be from 0 to 0.9"),
        (["train", "digits", "--seed", "-1"], "--seed must be at least 0"),
        (["train", "digits", "--preset", "best"], "choose one of default, ddpm"),
        (["train", "digits", "--network", "gan"], "choose one of unet"),
        (["train", "digits", "--network", "unet:depth=3"], "its options are: width="),
        (["train", "digits", "--network", "unet:width=wide"], "is not of type int"),
        (["train", "digits", "--schedule", "steep"], "choose one of linear"),
        (["train", "digits", "--parameterization", "w"], "choose one of eps"),
        (["train", "digits", "--weighting", "heavy"], "choose one of none"),
        (["train", "digits", "--decay", "fast"], "choose one of cosine"),
        (["train", "digits", "--ema", "long"], "choose one of power"),
        (["train", "digits", "--solver", "rk"], "choose one of ddpm"),
        (["train", "digits", "--spacing", "rough"], "choose one of time"),
        (["train", "digits", "--augment", "plain"], "--augment plain alone changes nothing"),
        (["train", "digits", "--times", "late"], "choose one of stratified"),
        (["train", "digits", "--precision", "bf16"], "use --precision fp32"),
        (["train", "digits", "--precision", "int4"], "choose auto, fp32 or bf16"),
        (["train", "digits", "--device", "abacus"], "use --device"),
        (["train", "digits", "--preset", "ddpm", "--schedule", "linear_zero_snr"], "--parameterization v"),
        (["train", "--resume", "no/such/run"], "no run at 'no/such/run'"),
        (["sample", "no/such/run"], "no model at"),
        (["show", "no/such/run"], "no model at"),
        (["train", ""], "argument DATA: an empty name"),
        (["train", "digits", "--from", ""], "argument --from: an empty name"),
        (["sample", "runs/x", "--out", ""], "argument --out: an empty name"),
        (["plan", "", "--devices", "2xcpu"], "argument DATA: an empty name"),
        (["plan", "--devices", "2xcpu", "--hours", "nan"], "--hours must be at least 0, not nan"),
        (["plan", "--devices", "2xcpu", "--hours", "inf"], "--hours must be at least 0, not inf"),
        (["plan", "--devices", "2xcpu", "--hours", "-5"], "--hours must be at least 0, not -5.0"),
        (["explain", "--seed", "-1"], "--seed must be at least 0, not -1"),
        (["studio", "--port", "80000"], "--port must be from 0 to 65535, not 80000"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(argv, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in refused(capsys, *argv)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--steps", "0"], "--steps must be from 1 to 10000, not 0"),
        (["-n", "0"], "-n must be at least 1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--solver", "magic"], "choose one of ddpm"),
        (["--solver", "ddpm:variance=big"], "choose one of posterior, beta, learned"),
        (["--solver", "ddim:eta=-1"], "eta >= 0"),
        (["--spacing", "steep"], "choose one of time"),
        (["--label", "10"], "no class '10'; this run knows 0, 1"),
        (["--label", "cat"], "no class 'cat'"),
    ],
)
def test_wrong_sampling_arguments_are_refused(run, flags, told, capsys, tmp_path):
    assert told in refused(capsys, "sample", run, "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("choice", [["--preview-every", "0"], ["--seed", "0"], ["--label-dropout", "0"]])
def test_a_resumed_run_keeps_its_choices_whatever_their_values(run, choice, capsys):
    assert f"leave out {choice[0]} (only" in refused(capsys, "train", "--resume", run, *choice)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nTried 2 TiB"), MemoryError()])
def test_too_little_memory_is_one_line_with_the_way_out(error, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(describe, "describe", Mock(side_effect=error))
    assert refused(capsys, "show", tmp_path) == "unblot: error: out of memory; use a smaller --batch-size or -n\n"


def test_other_failures_of_a_machine_are_no_lack_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(describe, "describe", Mock(side_effect=RuntimeError("a mistake")))
    with pytest.raises(RuntimeError, match="a mistake"):
        main(["show", str(tmp_path)])


def test_nothing_is_overwritten_without_being_asked(run, capsys, tmp_path):
    assert "--overwrite" in refused(capsys, "train", "digits", "--out", run, *TINY)
    (tmp_path / "mine.txt").write_text("dear")
    for command in ("sample", "film"):
        assert "--overwrite" in refused(capsys, command, run, "--out", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_pages_and_shards_take_no_place_of_other_files(capsys, tmp_path):
    mine = tmp_path / "mine.html"
    mine.write_text("<html>dear</html>")
    for command in (["doctor", "digits", "--page"], ["explain", "digits", "--out"]):
        assert "is no page of unblot" in refused(capsys, *command, mine)
    assert "holds files that are no shards" in refused(capsys, "pack", "digits", "--shards", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.html"]
    mine.unlink()
    for _ in range(2):  # a page of unblot is made anew
        assert main(["doctor", "digits", "--no-near", "--page", str(mine)]) == 0


def test_what_is_to_be_typed_next_can_be_typed(tmp_path, capsys):
    out = tmp_path / "my run"
    assert main(["train", "digits", "--out", str(out), "--quiet", *TINY]) == 0
    following = capsys.readouterr().out.partition("next      unblot ")[2].splitlines()[0]
    assert shlex.split(following) == ["sample", str(out)]


def test_resume_takes_its_choices_from_the_run(run, capsys):
    assert "leave out --learning-rate" in refused(capsys, "train", "--resume", run, "--learning-rate", "1")
    assert "leave out DATA" in refused(capsys, "train", "digits", "--resume", run)


# --- model files that are not


def header_of(raw: bytes) -> dict:
    return json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])


def with_header(raw: bytes, header: dict) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + struct.unpack("<Q", raw[:8])[0] :]


def lie_about_shapes(raw: bytes) -> bytes:
    header = header_of(raw)
    entry = next(e for name, e in header.items() if name != "__metadata__" and len(e["shape"]) == 4)
    entry["shape"] = entry["shape"][::-1]
    return with_header(raw, header)


def lie_in_the_config(raw: bytes) -> bytes:
    header = header_of(raw)
    header["__metadata__"]["unblot"] = header["__metadata__"]["unblot"].replace("width=16", "width=24")
    return with_header(raw, header)


def forget_the_config(raw: bytes) -> bytes:
    header = header_of(raw)
    del header["__metadata__"]
    return with_header(raw, header)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda raw: raw[: len(raw) // 2], "not a whole safetensors file"),
        (lambda raw: b"", "not a whole safetensors file"),
        (lambda raw: b"\x89PNG\r\n" + raw[6:], "not a whole safetensors file"),
        (lambda raw: raw[:8] + b"{" * 100, "not a whole safetensors file"),
        (lie_about_shapes, "do not fit"),
        (lie_in_the_config, "do not fit"),
        (forget_the_config, "was not written by unblot"),
    ],
)
def test_a_damaged_model_is_told_in_one_line(run, tmp_path, capsys, damage, told):
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage((run / "model.safetensors").read_bytes()))
    line = refused(capsys, "sample", path)
    assert told in line
    assert str(path) in line


def test_a_snapshot_is_told_from_a_model(run, capsys):
    snapshot = sorted((run / "snapshots").glob("*.safetensors"))[-1]
    assert f"is a snapshot, which is no whole model; draw with weights averaged from it by unblot ema {run}" in refused(
        capsys, "sample", snapshot
    )
