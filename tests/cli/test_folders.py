"""Folders that commands write into: nobody else's files are touched, and no two processes write into the same one."""

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unblot
from helpers import TINY, refused
from unblot import UnblotError
from unblot.cli.parser import main
from unblot.data.readers.walking import is_record
from unblot.runs.folder import CONFIG, LOG, MODEL, remove_run
from unblot.system.folders import MANIFEST, claimed, locked, must_be_writable, recorded
from unblot.tuning import search

TRAIN = ["train", "digits", "--quiet", *TINY]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main([*TRAIN, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def tree(folder: Path) -> dict[str, object]:
    """Everything in a folder: the bytes of each file, where each link leads, and the folders."""
    return {
        p.relative_to(folder).as_posix(): os.readlink(p) if p.is_symlink() else None if p.is_dir() else p.read_bytes()
        for p in folder.rglob("*")
    }


def add_foreign_files(folder: Path) -> dict[str, object]:
    """Puts files of somebody else beside everything in a folder; returns them."""
    places = [folder, *(p for p in folder.rglob("*") if p.is_dir() and p.parent.name != "checkpoints")]
    for place in places:
        (place / "mine.txt").write_text("dear")
        (place / "step_1.png").write_text("dear")
        (place / "00000007").mkdir(exist_ok=True)
        (place / "00000007" / "notes").write_text("dear")
        (place / "link").symlink_to(folder.parent)
    return {
        name: value
        for name, value in tree(folder).items()
        if Path(name).name in ("mine.txt", "step_1.png", "notes", "link")
    }


# --- --overwrite


def overwriting(command: str, run: Path, picture: Path) -> list[str]:
    sampling = {"sample": ["sample", str(run), "-n", "3"], "film": ["film", str(run), "-n", "1"]}
    sampling["edit"] = ["edit", "img2img", str(run), str(picture), "-n", "2"]
    if command in sampling:
        return [*sampling[command], "--steps", "2"]
    return TRAIN if command == "train" else ["distill", str(run), "--nfe", "1", "--steps", "1", "--quiet"]


@pytest.mark.parametrize("command", ["train", "distill", "sample", "film", "edit"])
def test_overwriting_replaces_our_files_and_leaves_all_others(command, run, picture, tmp_path, capsys):
    argv, out = [*overwriting(command, run, picture), "--out", str(tmp_path / "out")], tmp_path / "out"
    assert main(argv) == 0
    if command in ("train", "distill"):
        assert main(["sample", str(out), "-n", "2"]) == 0
        (out / "snapshots").mkdir(exist_ok=True)
        (out / "snapshots" / "00000009.safetensors").write_text("old")
        (out / "checkpoints" / "00000099.part").mkdir()
        (out / ".config.json.77.part").write_text("{")
    before = set(tree(out))
    foreign = add_foreign_files(out)
    assert "--overwrite" in refused(capsys, *argv, *(["--seed", "5"] if command == "sample" else []))
    assert main([*argv, "--overwrite"]) == 0
    after = tree(out)
    assert foreign.items() <= after.items()
    if command in ("train", "distill"):
        gone = {"snapshots/00000009.safetensors", "checkpoints/00000099.part/state.json", ".config.json.77.part"}
        assert not (gone | {"samples/sample/000000.png"}) & set(after)
    else:
        assert before <= set(after)
    assert ".lock" not in after


@pytest.mark.parametrize("command", ["train", "distill", "sample", "film", "edit"])
def test_overwriting_a_folder_of_somebody_else_is_refused(command, run, picture, tmp_path, capsys):
    out = tmp_path / "proj"
    for name in ("report/thesis.txt", "samples/mine.png", "000001.png", "grid.png", "film.gif", "config.json"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    before = tree(out)
    for more in ([], ["--overwrite"]):
        told = refused(capsys, *overwriting(command, run, picture), "--out", out, *more)
        assert "run folder" not in told
        assert "holds files" in told
    assert tree(out) == before


@pytest.mark.parametrize(("command", "name"), [("edit", "picture-2.png"), ("film", "strip.png")])
def test_a_file_of_somebody_else_is_seen_before_the_work(command, name, run, picture, tmp_path, capsys, monkeypatch):
    argv, out = [*overwriting(command, run, picture), "--out", tmp_path / "out"], tmp_path / "out"
    out.mkdir()
    (out / name).write_text("dear")
    monkeypatch.setattr("unblot.denoiser.Denoiser.forward", lambda *_: pytest.fail("the work was begun"))
    assert name in refused(capsys, *argv, "--overwrite")
    assert tree(out) == {name: b"dear"}


def test_removing_a_run_leaves_nothing_of_it_behind(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    remove_run(copy)
    assert tree(copy) == {}


@pytest.mark.parametrize("files", [["../mine.txt"], ["/etc/passwd"], [""], [".."], [5], "mine.txt", None])
def test_a_manifest_removes_nothing_outside_its_folder(files, run, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "mine.txt").write_text("dear")
    (out / MANIFEST).write_text(json.dumps({"files": files}))
    before = tree(tmp_path)
    refused(capsys, "sample", run, "-n", "1", "--steps", "1", "--out", out, "--overwrite")
    assert tree(tmp_path) == before


def test_commands_that_read_a_run_change_only_their_own_files(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    add_foreign_files(copy)
    before = tree(copy)
    assert main(["show", str(copy)]) == 0
    assert main(["doctor", "digits", "--no-near"]) == 0
    assert tree(copy) == before
    assert main(["sample", str(copy), "-n", "1", "--steps", "1"]) == 0
    assert before.items() <= tree(copy).items()


def test_commands_that_measure_a_run_change_nothing_but_what_they_make(run, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "parse_budget", lambda text: (0.0, False))  # a search of one candidate
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    add_foreign_files(copy)
    made = {MODEL, "tuning.json", ".lock"}
    for argv in (
        ["evaluate", str(copy), "-n", "60", "--steps", "1", "--likelihood", "0"],
        ["tune", str(copy), "--budget", "10s", "-n", "100"],
        ["ema", str(copy), "--std", "0.1"],
    ):
        before = tree(copy)
        assert main(argv) == 0
        after = tree(copy)
        changed = {name for name in before if before[name] != after.get(name, "gone")}
        assert {name for name in changed if not name.startswith("report/")} <= made
        assert not {name for name in changed if Path(name).name in ("mine.txt", "step_1.png", "notes", "link")}
        assert {name for name in set(after) - set(before) if not name.startswith("report")} <= made


def test_manifests_list_what_was_written(run, picture, tmp_path):
    for command in ("sample", "film", "edit"):
        out = tmp_path / command
        assert main([*overwriting(command, run, picture), "--out", str(out)]) == 0
        assert recorded(out) == set(tree(out))
        assert is_record(MANIFEST, (out / MANIFEST).read_bytes())  # so that it is never data
    unblot.load(run).sample(2, steps=1).save(tmp_path / "saved")
    assert recorded(tmp_path / "saved") == set(tree(tmp_path / "saved"))
    assert is_record(MANIFEST, (tmp_path / "saved" / MANIFEST).read_bytes())


# --- claims


def in_a_process(argv: list[str]) -> int:
    """Runs a command in a process of its own, which is forked, so that it need not import PyTorch again; its number."""
    process = os.fork()
    if not process:
        code = 1
        try:
            code = main(argv)
        finally:
            os._exit(code)
    return process


def test_processes_at_the_same_time_get_folders_of_their_own(run, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    sample = ["sample", str(copy), "-n", "2", "--steps", "1", "--seed"]
    commands = [[*sample, "1"], [*sample, "2"], [*sample, "3"], TRAIN, TRAIN]
    monkeypatch.chdir(tmp_path)
    started = [in_a_process(command) for command in commands]
    assert [os.waitpid(process, 0)[1] for process in started] == [0] * 5
    assert {p.name for p in (copy / "samples").iterdir() if p.is_dir()} == {"sample", "sample-2", "sample-3"}
    seeds = set()
    for folder in (copy / "samples").glob("sample*"):
        about = json.loads((folder / MANIFEST).read_text())
        seeds.add(about["seed"])
        assert json.loads(Image.open(folder / "000001.png").text["unblot"])["seed"] == about["seed"]
    assert seeds == {1, 2, 3}
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"digits", "digits-2"}
    assert all((p / MODEL).is_file() for p in (tmp_path / "runs").iterdir())


def test_a_folder_in_use_is_refused_until_its_process_ends(run, tmp_path, capsys):
    out = tmp_path / "out"
    with locked(out):
        assert "in use by another process" in refused(capsys, "sample", run, "-n", "1", "--out", out)
    assert main(["sample", str(run), "-n", "1", "--steps", "1", "--out", str(out)]) == 0


def test_a_claim_without_result_leaves_nothing(tmp_path):
    for folder in (None, tmp_path / "a" / "b"):
        with pytest.raises(ZeroDivisionError), claimed(folder, tmp_path / "c" / "d"):
            _ = 1 / 0
    assert tree(tmp_path) == {}
    with claimed(None, tmp_path / "x") as first, claimed(None, tmp_path / "x") as second:
        assert (first.name, second.name) == ("x", "x-2")


# --- what can be checked beforehand


def test_a_folder_that_cannot_be_written_into_is_refused_before_the_work(run, tmp_path, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    must_be_writable(tmp_path)
    assert tree(tmp_path) == {}
    must_be_writable(tmp_path / "missing")
    with pytest.raises(UnblotError, match=r"nothing can be written into .*: this is a file; give a folder"):
        must_be_writable(run / MODEL)
    monkeypatch.setattr("unblot.system.folders.tempfile.TemporaryFile", refuse)
    for command in (["evaluate", "-n", "4"], ["tune"], ["ema"]):
        told = refused(capsys, command[0], run, *command[1:])
        assert "nothing can be written into" in told or "no snapshots" in told
        assert "Errno" not in told


def test_files_have_the_mode_that_the_umask_gives(run):
    modes = {stat.S_IMODE((run / name).stat().st_mode) for name in (MODEL, CONFIG, LOG, "metrics.jsonl")}
    assert len(modes) == 1


def test_a_log_that_is_a_link_is_not_followed(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / LOG).unlink()
    (copy / LOG).symlink_to(tmp_path / "outside.txt")
    assert "symbolic link" in refused(capsys, "train", "--resume", copy, "--steps", "6", "--quiet")
    assert not (tmp_path / "outside.txt").exists()


def test_a_home_folder_is_expanded(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["sample", str(run), "-n", "1", "--steps", "1", "--out=~/new"]) == 0
    assert (tmp_path / "new" / "000000.png").is_file()
    shutil.copytree(run, tmp_path / "r")
    assert unblot.load("~/r").path == tmp_path / "r"


# --- data that moved


def test_data_that_moved_is_found_again_and_checked(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "pics").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / "pics" / f"{name}.npy", rng.integers(0, 256, (8, 8), np.uint8))
    monkeypatch.chdir(tmp_path)
    np.save("data.npy", rng.integers(0, 256, (32, 8, 8), np.uint8))
    np.save("other.npy", rng.integers(0, 256, (32, 8, 8), np.uint8))
    assert main(["train", "data.npy", "--out", "run", "--quiet", *TINY]) == 0
    Path("data.npy").rename("moved.npy")
    resume = ["train", "--resume", "run", "--steps", "6", "--quiet"]
    for argv in (resume, ["evaluate", "run", "-n", "4"], ["distill", "run"]):
        told = refused(capsys, *argv)
        assert "relative to where the run was started" in told
        assert "--data PATH" in told
    told = refused(capsys, "explain", "run")
    assert "put it back as it was or train a new run" in told
    assert "--data" not in told
    assert "is not what run" in refused(capsys, *resume, "--data", "other.npy")
    assert main([*resume, "--data", "moved.npy"]) == 0
    assert json.loads(Path("run", CONFIG).read_text())["source"]["data"] == "moved.npy"
    assert main(["train", "--resume", "run", "--steps", "7", "--quiet"]) == 0


# --- a run that was stopped before its first checkpoint


def test_a_run_without_checkpoint_starts_again(run, tmp_path, capsys):
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(run / CONFIG, begun)
    assert "unblot train --resume" in refused(capsys, "sample", begun)
    assert "unblot train --resume" in refused(capsys, *TRAIN, "--out", begun)
    assert main(["train", "--resume", str(begun), "--quiet"]) == 0
    assert (begun / MODEL).read_bytes() == (run / MODEL).read_bytes()
    shutil.copy(run / CONFIG, tmp_path / CONFIG)
    assert main([*TRAIN, "--out", str(begun), "--overwrite"]) == 0
