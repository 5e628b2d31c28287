"""The REST service: runs as they lie in their folders, uploads, and clear words for what cannot be done."""

import errno
import io
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.testclient import TestClient

import unblot
from helpers import STUDIO_TOKEN, TINY_LATENT_RUN, TINY_RUN
from unblot.errors import UnblotError
from unblot.runs.bulk import sample_to_folder
from unblot.studio import jobs, runs, uploads
from unblot.studio.api import Folders, NewJob, job_arguments
from unblot.studio.app import TOKEN, make_app, stored_token
from unblot.studio.pages import settings_of
from unblot.training import loop


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one trained run, `first`."""
    root = tmp_path_factory.mktemp("studio")
    unblot.train("digits", out=root / "first", quiet=True, held_out_every=2, **{**TINY_RUN, "preview_every": 2})
    return root


@pytest.fixture
def app(root: Path) -> TestClient:
    client = TestClient(make_app(Folders(root, (root,)), STUDIO_TOKEN), "http://127.0.0.1")
    client.headers["Authorization"] = f"Bearer {STUDIO_TOKEN}"
    return client


def test_a_run_is_what_lies_in_its_folder(app: TestClient, root: Path) -> None:
    found = app.get("/api/runs/first").json()
    assert (found["state"], found["step"], found["steps"], found["data"]) == ("finished", 4, 4, "digits")
    assert found["previews"] == ["samples/step_00000002.png", "samples/step_00000004.png"]
    assert app.get("/api/runs").json()["runs"][0]["preview"] == found["previews"][-1]
    curve = app.get("/api/runs/first/curve").json()
    assert [step for step, _ in curve["loss"]["held_out"]] == [0, 2, 4]
    assert [[step for step, _ in level] for level in curve["levels"].values()] == [[0, 2, 4]] * 5
    samples = unblot.load(root / "first").sample(3, steps=2, seed=5)
    samples.save(root / "first" / "samples" / "mine")
    gallery = app.get("/api/runs/first").json()["galleries"][0]
    assert gallery["name"] == "mine"
    assert gallery["about"]["seed"] == 5
    picture = app.get(f"/api/runs/first/files/{gallery['pictures'][0]}")
    assert picture.content.startswith(b"\x89PNG")
    page = app.get(f"/runs/first/picture?path={gallery['pictures'][1]}").text
    assert "<dt>seed</dt><dd>5</dd>" in page
    assert "<dt>index</dt><dd>0</dd>" in page


def test_a_run_whose_decoder_is_still_to_be_fine_tuned_was_stopped(
    app: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(root / "pictures.npy", np.random.default_rng(0).integers(0, 255, (40, 16, 16, 3), np.uint8))
    with monkeypatch.context() as patched:
        patched.setattr(loop, "run_decoder_stage", lambda *_: False)  # as an interrupted one does
        unblot.train(root / "pictures.npy", out=root / "latents", quiet=True, adversarial_steps=3, **TINY_LATENT_RUN)
    found = app.get("/api/runs/latents").json()
    assert (found["state"], found["step"], found["steps"]) == ("stopped", 4, 4)
    page = app.get("/runs/latents").text
    assert "stopped while its decoder was fine-tuned" in page
    assert 'id="go-on" open' in page
    unblot.resume(root / "latents", quiet=True)
    assert app.get("/api/runs/latents").json()["state"] == "finished"
    assert "was stopped" not in app.get("/runs/latents").text


@pytest.mark.parametrize("page", ["/", "/train?data=digits", "/data", "/jobs", "/learn", "/runs/first", "/style.css",
                                  "/runs/first/draw", "/runs/first/edit", "/runs/first/measure",
                                  "/compare", "/compare?a=first&b=first"])  # fmt: skip
def test_every_page_is_there(app: TestClient, page: str) -> None:
    assert app.get(page).status_code == 200


def test_each_frame_of_a_film_can_be_looked_at(app: TestClient, root: Path) -> None:
    shown = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (10, 200)]
    shown[0].save(root / "first" / "samples" / "film.gif", save_all=True, append_images=shown[1:])
    for number, value in enumerate((10, 200)):
        found = app.get(f"/api/runs/first/frames/samples/film.gif?number={number}")
        assert abs(Image.open(io.BytesIO(found.content)).getpixel((0, 0))[0] - value) < 8
    assert "there is no frame 2" in app.get("/api/runs/first/frames/samples/film.gif?number=2").text
    assert 'max="1"' in app.get("/runs/first/picture?path=samples/film.gif").text


def test_the_token_stays_over_restarts_and_is_its_owners_alone(tmp_path: Path) -> None:
    token = stored_token(tmp_path)
    assert stored_token(tmp_path) == token
    assert len(token) >= 24
    assert (tmp_path / TOKEN).stat().st_mode & 0o077 == 0


def test_a_token_that_can_be_guessed_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / TOKEN).parent.mkdir()
    for text in ("", "short\n"):  # as a full disk leaves it
        (tmp_path / TOKEN).write_text(text)
        with pytest.raises(UnblotError, match="remove it, and a new one is made"):
            stored_token(tmp_path)
        with pytest.raises(UnblotError, match="16 or more"):
            make_app(Folders(tmp_path, ()), text.strip())
    assert [path.name for path in (tmp_path / TOKEN).parent.iterdir()] == ["token"]


def test_what_is_not_there_is_said(app: TestClient) -> None:
    for path in ("/api/runs/other", "/runs/other", "/runs/first/nothing", "/jobs/other", "/api/jobs/other"):
        answer = app.get(path)
        assert answer.status_code == 404, path
        assert "there is no" in answer.text


@pytest.mark.parametrize(("job", "words"), [
    ({"command": "rm"}, "unknown command"),
    ({"command": "train"}, "say where the pictures are"),
    ({"command": "train", "data": "/etc"}, "outside of the folders"),
    ({"command": "train", "data": "nothing-here"}, "no such file"),
    ({"command": "train", "data": "digits", "out": "first"}, "there is a run 'first' already"),
    ({"command": "train", "data": "digits", "values": {"steps": "many"}}, "whole number"),
    ({"command": "train", "data": "digits", "values": {"out": "x"}}, "unknown choice"),
    ({"command": "sample", "run": "other"}, "there is no run"),
    ({"command": "edit", "run": "first", "kind": "nonsense"}, "unknown edit"),
    ({"command": "edit", "run": "first"}, "choose a picture"),
    ({"command": "evaluate", "run": "first", "values": {"data": "/etc"}}, "outside of the folders"),
    ({"command": "sample", "run": "first", "values": {"autoguide": "/etc"}}, "outside of the folders"),
    ({"command": "sample", "run": "first", "values": {"autoguide": "../../etc"}}, "outside of the folders"),
    ({"command": "sample", "run": "first", "values": {"autoguide": "snapshots/9.safetensors"}}, "no such file"),
    ({"command": "edit", "run": "first", "pictures": ["/etc/passwd"]}, "outside of the folders"),
    ({"command": "train", "run": "first", "values": {"size": "8"}}, "leave out size (only steps and budget"),
    ({"command": "train", "run": "first", "data": "digits"}, "leave out data"),
    ({"command": "train", "run": "first", "dry_run": True}, "leave out dry_run"),
    ({"command": "train", "data": "digits", "values": {"unlabelled": "false"}}, "must be True or False"),
    ({"command": "sample", "run": "first", "out": "x"}, "sample has no use for out"),
    ({"command": "doctor", "data": "digits", "run": "first"}, "doctor has no use for run"),
    ({"command": "explain", "data": "digits", "run": "first"}, "explain has no use for data"),
    ({"command": "explain", "data": "digits", "values": {"seed": "1"}}, "explain has no use for seed"),
    ({"command": "edit", "run": "first", "kind": "img2img", "mask": "m.png"}, "edit has no use for mask"),
    ({"command": "train", "data": "digits", "out": 90 * "\u4e2d"}, "more than 200 bytes"),
    ({"command": "train", "data": "digits", "values": {"steps": 0}}, "steps= must be"),
    ({"command": "train", "data": "digits", "values": {"steps": 1.5}}, "whole number"),
    ({"command": "train", "data": "digits", "values": {"steps": int(400 * "9")}}, "steps= must be"),
    ({"command": "train", "data": "digits", "values": {"unlabelled": 1}}, "must be True or False"),
    ({"command": "train", "run": "first", "values": {"seed": 0}}, "leave out seed"),
    ({"command": "explain", "data": "digits", "values": {"seed": 0}}, "explain has no use for seed"),
    ({"command": "sample", "run": "first", "values": {"autoguide": 0}}, "no such file"),
    *(({"command": "train", "data": name}, "no such file") for name in ("a\0b", "~nobody-of-this-name/a", "a" * 5000)),
])  # fmt: skip
def test_a_job_that_cannot_run_is_refused_in_one_line(app: TestClient, root: Path, job: dict, words: str) -> None:
    answer = app.post("/api/jobs", json=job)
    assert answer.status_code in (404, 422)
    assert words in answer.json()["detail"]
    assert not (root / jobs.JOBS).exists()


def test_a_job_is_the_command_that_one_would_type(root: Path) -> None:
    folders = Folders(root, (root,))
    train = NewJob(command="train", data="digits", out="new", values={"steps": "3", "unlabelled": True})
    assert job_arguments(folders, train)[0] == ["digits", "--out", str(root / "new"), "--steps=3", "--unlabelled"]
    assert job_arguments(folders, NewJob(command="train", data="digits", dry_run=True)) == (
        ["digits", "--dry-run"],
        None,
    )
    more = NewJob(command="train", run="first", values={"steps": "9", "size": ""})
    assert job_arguments(folders, more)[0] == ["--resume", str(root / "first"), "--steps=9"], "what it prints is shown"
    sent = '{"command": "sample", "run": "first", "values": {"seed": 0, "n": 4, "guidance": 1.5, "label": 0}}'
    flags = ["--seed=0", "-n4", "--guidance=1.5", "--label=0"]
    assert job_arguments(folders, NewJob.model_validate_json(sent))[0] == [str(root / "first"), *flags]


def test_data_may_have_a_colon_in_its_name_and_options_behind_it(root: Path) -> None:
    def data_of(text: str) -> str:
        arguments = job_arguments(Folders(root, (root,)), NewJob(command="doctor", data=text))[0]
        moved = NewJob(command="evaluate", run="first", values={"data": text})
        assert job_arguments(Folders(root, (root,)), moved)[0][1] == f"--data={arguments[0]}"
        return arguments[0]

    (root / "12:30").mkdir(exist_ok=True)
    for place in ("12:30", str(root / "12:30")):
        assert data_of(place) == str(root / "12:30")
        assert data_of(f"{place}:labels=none") == f"{root / '12:30'}:labels=none"
    assert data_of("digits:labels=none") == "digits:labels=none"
    (root / "12:30").rmdir()


def test_a_weaker_model_is_looked_for_in_the_run_first_and_nowhere_outside(root: Path, tmp_path: Path) -> None:
    def guided_by(path: str) -> str:
        job = NewJob(command="sample", run="first", values={"autoguide": path})
        return job_arguments(Folders(root, (tmp_path,)), job)[0][1]

    kept = root / "first" / "snapshots"
    kept.mkdir(exist_ok=True)
    (kept / "9.safetensors").touch()
    (tmp_path / "9.safetensors").touch()
    assert guided_by("snapshots/9.safetensors") == "--autoguide=snapshots/9.safetensors"
    assert guided_by(f"{kept}/../snapshots/9.safetensors") == "--autoguide=snapshots/9.safetensors"
    assert guided_by("9.safetensors") == f"--autoguide={tmp_path / '9.safetensors'}"
    (kept / "8.safetensors").symlink_to("/etc/passwd")
    for path in ("snapshots/8.safetensors", "../../../../etc/passwd", "/etc/passwd"):
        with pytest.raises(UnblotError, match=r"outside of the folders|no such file"):
            guided_by(path)
    for path in kept.iterdir():
        path.unlink()


def test_what_draws_pictures_again_is_all_that_is_recorded_of_them(app: TestClient, root: Path) -> None:
    choices = {"guidance": 1.5, "guidance_low": 0.1, "guidance_high": 9.0, "guidance_rescale": 0.5}
    choices |= {"threshold": "static", "autoguide": "model.safetensors", "label": "3"}
    drawn = unblot.load(root / "first").sample(2, steps=2, seed=5, **choices)
    again = {name: value for name, value in settings_of(drawn.about(1)).items() if name not in ("solver", "spacing")}
    assert again == {**{name: str(value) for name, value in choices.items()}, "steps": "2", "seed": "5"}
    sample_to_folder(root / "first/samples/bulk", unblot.load(root / "first"), 2, steps=2, seed=5, **choices)
    manifest = json.loads((root / "first/samples/bulk/manifest.json").read_text())
    assert settings_of(manifest) == settings_of(drawn.about(1)) | {"n": "2"}
    assert settings_of({"prompts": ["a", "b", "b"]}) == {"prompt": "a\nb\nb"}
    known = {"prompts": ["a fox", "an\nowl", "a fox"], "label": [1, 2], "negative": None, "threshold": "none"}
    assert settings_of(known) == {"prompt": "a fox\nan owl", "label": "1,2"}
    assert 'data-autoguide="model.safetensors"' in app.get("/runs/first/draw").text


def test_uploads_are_kept_in_a_folder_of_their_own(app: TestClient, root: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "a.png")
    content = (root / "a.png").read_bytes()
    names = ["cats/a.png", "../../b.png", "C:\\dogs\\c.png", ".hidden"]
    found = app.post("/api/uploads", files=[("files", ("x.png", content)) for _ in names], data={"paths": names}).json()
    folder = Path(found["folder"])
    assert folder.is_relative_to(root)
    below = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert below == ["b.png", "cats/a.png", "dogs/c.png", "hidden"]
    assert all(Path(path).is_relative_to(folder) for path in found["files"])
    deep = ["set/a/1/x.png", "set/b/1/x.png", "set/b/" + "\U0001f600" * 200 + ".png"]  # what is above all is left out
    found = app.post("/api/uploads", files=[("files", ("x.png", content)) for _ in deep], data={"paths": deep}).json()
    kept = sorted(path.relative_to(found["folder"]).as_posix() for path in Path(found["folder"]).rglob("*.png"))
    assert kept[:2] == ["a/1/x.png", "b/1/x.png"]
    assert kept[2].startswith("b/\U0001f600")
    assert "for each" in app.post("/api/uploads", files={"files": ("x", content)}, data={"paths": ["a", "b"]}).text


def test_removing_a_run_asks_for_its_name_and_leaves_other_files(app: TestClient, tmp_path: Path, root: Path) -> None:
    unblot.train("digits", out=root / "second", quiet=True, **TINY_RUN)
    (root / "second" / "notes.txt").write_text("mine")
    assert app.delete("/api/runs/second?confirm=first").status_code == 422
    assert app.delete("/api/runs/second?confirm=second").status_code == 200
    assert [path.name for path in (root / "second").iterdir()] == ["notes.txt"]


def test_a_long_run_costs_no_more_than_a_short_one(tmp_path: Path) -> None:
    lines = [json.dumps({"step": i, "loss": 1 / (1 + i), "grad_norm": 1.0}) for i in range(100_000)]
    for i in range(0, 100_000, 7_000):
        lines[i] += "\n" + json.dumps({"step": i, "log_snr": [0.0], "training": [0.5], "held_out": [0.5]})
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    del lines
    tracemalloc.start()
    found = runs.curves(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    curve = found["loss"]
    assert len(curve["training"]) == 300
    assert [step for step, _ in curve["held_out"]] == [*range(0, 100_000, 7_000)], "none of the few is missed"
    assert found["levels"] == {"1": curve["held_out"]}
    assert curve["training"][-1][0] == 99_999
    assert most < 30e6, "the file itself has 5 MB, its 100,000 lines in memory some 60"


def test_many_runs_are_listed_a_page_at_a_time(root: Path, tmp_path: Path) -> None:
    config = (root / "first" / "config.json").read_text()
    for i in range(500):
        (tmp_path / f"run-{i:03d}").mkdir()
        (tmp_path / f"run-{i:03d}" / "config.json").write_text(config)
    app = TestClient(make_app(Folders(tmp_path, (tmp_path,)), STUDIO_TOKEN), "http://127.0.0.1")
    app.headers["Authorization"] = f"Bearer {STUDIO_TOKEN}"
    pages = [app.get(f"/api/runs?page={i}").json() for i in (0, 20, 99)]
    assert [page["count"] for page in pages] == [500] * 3
    assert [len(page["runs"]) for page in pages] == [24, 20, 20]
    assert app.get("/learn").text.count("<option") == 1 + 500


def test_a_job_with_a_field_that_is_none_of_its_own_is_refused_by_name(app: TestClient) -> None:
    answer = app.post("/api/jobs", json={"command": "train", "data": "digits", "name": "mine"})
    assert answer.status_code == 422
    assert "name" in answer.text


@pytest.mark.parametrize("names", [["a.png", "a.png"], ["a\x00.png", "a\x07.png"], ["x/.a.png", "x/a.png"]])
def test_two_uploads_of_one_name_are_refused(app: TestClient, root: Path, names: list[str]) -> None:
    before = sorted(root.rglob("*"))
    answer = app.post("/api/uploads", files=[("files", ("x.png", b"x")) for _ in names], data={"paths": names})
    assert answer.status_code == 422
    assert "two files are named 'a.png'" in answer.json()["detail"]
    assert sorted(root.rglob("*")) == before


def test_an_upload_comes_in_several_requests_and_is_one_folder(
    app: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(names: list[str], **more: str) -> Any:
        files = [("files", ("x.png", b"12345")) for _ in names]
        return app.post("/api/uploads", files=files, data={"paths": names, **more})

    first = send(["set/cats/1.png", "set/cats/2.png"]).json()
    assert Path(first["folder"]).name == "cats"
    second = send(["set/dogs/1.png"], upload=first["upload"]).json()
    assert (second["upload"], Path(second["folder"]).name) == (first["upload"], "set")
    kept = {path.relative_to(second["folder"]).as_posix() for path in Path(second["folder"]).rglob("*.png")}
    assert kept == {"cats/1.png", "cats/2.png", "dogs/1.png"}
    assert [Path(path).read_bytes() for path in (*first["files"], *second["files"])] == [b"12345"] * 3
    assert send(["a.png"], upload="0" * 32).status_code == 404
    assert send(["a.png"], upload="../../first").status_code == 422
    for limit, most, words in (("MOST_FILES", 3, "4 files are too many"), ("MOST_BYTES", 19, "larger than")):
        upload = send(["a.png", "b.png"]).json()["upload"]
        monkeypatch.setattr(uploads, limit, most)
        answer = send(["c.png", "d.png"], upload=upload)
        assert (answer.status_code, words in answer.json()["detail"]) == (422, True)
        assert not (root / uploads.UPLOADS / upload).exists()
        monkeypatch.undo()
    upload = send(["a.png"]).json()["upload"]
    assert "two files are named 'b.png'" in send(["b.png", "b.png"], upload=upload).json()["detail"]
    assert not (root / uploads.UPLOADS / upload).exists()
    for taken in ("a.png", "a.png/b.png"):
        answer = send([taken], upload=send(["a.png"]).json()["upload"])
        assert (answer.status_code, "two files are named" in answer.json()["detail"]) == (422, True)


def test_what_the_operating_system_refuses_is_said(
    app: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(code: int) -> Any:
        def fail(*_: Any) -> None:
            raise OSError(code, "as the system says")

        return fail

    async def full(self: UploadFile, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "as the system says")

    for place, name, fail in ((UploadFile, "write", full), (uploads, "_keep", raises(errno.EDQUOT))):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, fail)
            answer = app.post("/api/uploads", files={"files": ("x.png", b"x")})
        assert (answer.status_code, "free some space" in answer.json()["detail"]) == (507, True)
    assert app.post("/api/uploads", content=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 400
    monkeypatch.setattr(runs, "names", raises(errno.EIO))
    answer = app.get("/")
    assert (answer.status_code, "as the system says" in answer.text) == (500, True)
    monkeypatch.setattr(runs, "names", raises(errno.ENAMETOOLONG))
    assert app.get("/api/runs").status_code == 422


@pytest.fixture
def busy(app: TestClient, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A studio with a run, `first`, whose jobs begin and never end."""
    shutil.copytree(root / "first", tmp_path / "first")
    monkeypatch.setattr(jobs, "_start", lambda root, job: None)
    client = TestClient(make_app(Folders(tmp_path, (tmp_path,)), STUDIO_TOKEN), "http://127.0.0.1")
    client.headers["Authorization"] = f"Bearer {STUDIO_TOKEN}"
    return client


def test_a_run_is_trained_by_one_job_at_a_time(busy: TestClient) -> None:
    for job, words in (
        ({"command": "train", "data": "digits", "out": "new"}, "there is a run 'new' already"),
        ({"command": "train", "run": "first", "values": {"steps": "9"}}, "(train, waiting) already"),
    ):
        assert busy.post("/api/jobs", json=job).status_code == 201
        again = busy.post("/api/jobs", json=job)
        assert (again.status_code, words in again.json()["detail"]) == (422, True), again.text


def test_a_run_that_a_job_needs_is_not_removed(busy: TestClient, tmp_path: Path) -> None:
    job = busy.post("/api/jobs", json={"command": "evaluate", "run": "first"}).json()["job"]
    answer = busy.delete("/api/runs/first?confirm=first")
    assert f"needed by job {job['id']} (evaluate, running)" in answer.json()["detail"]
    (tmp_path / jobs.JOBS / job["id"] / "ended.json").write_text('{"code": 0, "time": 0}')
    assert busy.delete("/api/runs/first?confirm=first").status_code == 200


def test_the_name_of_a_run_that_was_removed_can_be_used_again(busy: TestClient, tmp_path: Path) -> None:
    again = {"command": "train", "data": "digits", "out": "first"}
    (tmp_path / "first" / "samples" / "film.gif").unlink(missing_ok=True)  # which a test has put there
    assert busy.delete("/api/runs/first?confirm=first").status_code == 200
    assert not (tmp_path / "first").exists()
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "notes.txt").write_text("mine")
    assert "holds files that are not of a run" in busy.post("/api/jobs", json=again).json()["detail"]
    (tmp_path / "first" / "notes.txt").unlink()
    assert busy.post("/api/jobs", json=again).status_code == 201
