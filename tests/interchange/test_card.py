"""Model cards, and runs on the hub: a stand-in of its API on this machine takes the place of the hub."""

import copy
import dataclasses
import http.server
import json
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file

import unblot
from helpers import refused, shaken
from unblot import UnblotError
from unblot.cli.parser import main
from unblot.config.card import CardConfig
from unblot.config.export import ImportConfig
from unblot.config.transfer import Origin
from unblot.interchange.card import card, plain
from unblot.interchange.imports import import_run
from unblot.interchange.publish import without_paths
from unblot.reports.evaluation import read_report
from unblot.runs.folder import CONFIG, MODEL, load_model, remove_run
from unblot.runs.hub import hub_name
from unet_model import unet_model

TINY = {
    "network": "unet:width=16,multipliers=1,blocks=1",
    "steps": 3,
    "preview_every": 0,
    "batch_size": 8,
    "sampling_steps": 2,
    "quiet": True,
}
ODD = "<script>alert(1)</script>|[x](javascript:y) _a_ **b** `c` $d$ www.e.f http://g @h\n# i"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    made = unblot.train("digits", out=place / "<b>digits|1", **TINY)
    unblot.evaluate(made.path, n=60, features="pixels", likelihood=0, quiet=True)
    return made


def test_a_card_says_what_the_run_is_and_is_read_by_the_hub(run, capsys):
    from huggingface_hub import ModelCard

    assert main(["card", str(run.path), "--license", "cc-by-4.0", "-n", "4"]) == 0
    readme = run.path / "card" / "README.md"
    assert str(readme) in capsys.readouterr().out
    text = readme.read_text()
    for words in (
        "8×8 pixels",
        f"{run.config.data.count:,}; others were held out",
        "unet:width=16",
        "3 steps of 8",
        "10: 0, 1, 2",
        "60 samples against",
    ):
        assert words in text
    report = json.loads((run.path / "report" / "report.json").read_text())
    copies = report["originality"]["samples"]
    assert f"| samples | {copies['copies']} of 60" in text
    precision = next(r for r in report["metrics"]["rows"] if (r["name"], r["against"]) == ("precision", "floor"))
    assert f"{precision['value']:.3g} ({precision['low']:.3g} to {precision['high']:.3g})" in text
    card = ModelCard.load(readme).data
    assert (card.license, card.library_name, card.pipeline_tag) == (
        "cc-by-4.0",
        "unblot",
        "unconditional-image-generation",
    )
    assert {result.metric_type for result in card.eval_results} >= {"precision", "recall"}
    assert Image.open(readme.with_name("samples.png")).width > 100


def test_names_with_markup_are_shown_as_they_are(run):
    shown = plain(ODD)
    assert not re.search(r"[<>|\[\]*`$@\n]|://|www\.|(^| )_", shown)
    assert plain("dpmpp_2m 5.3-x") == "dpmpp_2m 5.3-x"
    classes = (ODD, *run.config.data.classes[1:])
    data = dataclasses.replace(run.config.data, classes=classes, name='a: "b" # c\u202e')
    odd = dataclasses.replace(run, config=dataclasses.replace(run.config, data=data))
    text = unblot.write_card(odd, CardConfig(n=1)).read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == 'a: "b" # c\\u202e'
    body = text.split("---\n", 2)[2]
    assert "<script" not in body
    assert "<b>" not in body


def test_without_an_evaluation_it_says_so_and_a_run_takes_its_card_along(tmp_path):
    run = unblot.train("moons", out=tmp_path / "r", **{**TINY, "network": "mlp:width=8,depth=1"})
    text = unblot.write_card(run, CardConfig(n=3)).read_text()
    assert text.count("Not measured.") == 2
    assert "points in the plane" in text
    remove_run(run.path)
    assert not (run.path / "card").exists()


def test_figures_of_other_weights_are_told_from_those_of_these(run, tmp_path):
    report = read_report(run.path)
    other = shaken(dataclasses.replace(run, denoiser=copy.deepcopy(run.denoiser)))
    averaged = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, ema="power:std=0.2"))
    unknown = {**report, "model": {k: v for k, v in report["model"].items() if k != "fingerprint"}}
    bare = {k: v for k, v in unknown.items() if k != "sampled_with"}
    fewer = {**report, "model": {**report["model"], "steps": 2}}
    sampled = {"solver": "ddim", "steps": 2}
    for made, kept, words in (
        (run, report, None),
        (run, unknown, None),
        (run, bare, None),
        (run, fewer, "measured after 2 steps"),
        (other, report, "measured with other weights"),
        (other, unknown, None),
        (dataclasses.replace(run, config=averaged), unknown, "measured with other weights"),
    ):
        text = card(made, CardConfig(), kept, sampled)
        assert text.count("They were measured") == (0 if words is None else 2)
        assert words is None or words in text
        assert ("model-index" in text) == (words is None)


@pytest.mark.filterwarnings("ignore::unblot.errors.UnblotNote")
def test_of_an_imported_run_it_states_no_training_that_nobody_knows(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(unet_model(multipliers=(1,)).state_dict(), file)
    imported = unblot.load(import_run(file, ImportConfig(size="8", heads=1), tmp_path / "run"))
    text = card(imported, CardConfig(), None, {"solver": "ddim", "steps": 2})
    for name in ("training pictures", "training"):
        assert f"| {name} | not known: the run was imported |" in text
    for row in ("| network | ddpm_unet:", "| prediction | eps, ", "| sampling | ", "| size | 8×8"):
        assert row in text
    assert not re.search(r"held out|optimizer|learning rate|\| (averages|augmentation|fingerprint) ", text)


def test_a_licence_that_is_none_is_refused(run, capsys):
    assert "is no name of a licence" in refused(capsys, "card", run.path, "--license", "my: own")


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for the files in `folder`, of the model ada/digits."""

    folder: Path

    def do_HEAD(self, body=False):
        found = re.fullmatch(r"/ada/digits/resolve/main/([\w.]+)", self.path)
        file = self.folder / found[1] if found else None
        if file is None or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if found else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        self.send_response(200)
        for name, value in {
            "ETag": f'"{len(content)}"',
            "X-Repo-Commit": "a" * 40,
            "Content-Length": len(content),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_GET(self):
        self.do_HEAD(body=True)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(run, tmp_path, monkeypatch):
    """A folder whose files are those of the model ada/digits on a stand-in of the hub; at first a published run's."""
    from huggingface_hub import constants

    from unblot.interchange.publish import gather

    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    gather(run, tmp_path / "there")
    handler = type("Handler", (Hub,), {"folder": tmp_path / "there"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path / "here")
        yield tmp_path / "there"
        server.shutdown()


def test_a_run_of_the_hub_is_drawn_from_as_any_other(run, hub, monkeypatch, capsys):
    assert main(["sample", "hf:ada/digits", "-n", "2", "--steps", "2"]) == 0
    place = Path("runs/ada--digits")
    assert str(place) in capsys.readouterr().err  # where it is from now on
    assert {p.name for p in place.iterdir()} == {MODEL, CONFIG, "samples"}
    drawn = np.asarray(Image.open(place / "samples" / "sample" / "000001.png"))
    assert np.array_equal(drawn, run.sample(2, steps=2).array[1, 0])
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)  # what was taken once needs no network
    assert len(unblot.load("hf:ada/digits").sample(1, steps=1).array) == 1
    assert unblot.plan("digits", from_="hf:ada/digits", quiet=True).origin.share == 1


@pytest.mark.filterwarnings("ignore::unblot.errors.UnblotNote")
def test_what_is_made_of_a_run_of_the_hub_is_beside_its_folder_or_in_it(hub, capsys):
    few = {"nfe": 1, "steps": 1, "batch_size": 4, "preview_every": 0, "held_out_every": 0, "quiet": True}
    assert unblot.distill("hf:ada/digits", **few).path == Path("runs/ada--digits-distilled")
    weaker = ["--autoguide", "hf:ada/digits", "--guidance", "2"]
    assert main(["sample", "hf:ada/digits", "-n", "1", "--steps", "1", *weaker]) == 0
    capsys.readouterr()
    assert main(["evaluate", "hf:ada/digits", "-n", "60", "--features", "pixels", "--likelihood", "0"]) == 0
    assert Path(capsys.readouterr().out.split("look at")[-1].strip()).is_file()


def test_what_is_not_at_the_hub_or_not_a_run_is_one_line(hub, monkeypatch, capsys):
    assert "there is no such model" in refused(capsys, "show", "hf:ada/nothing")
    assert "is no name on the hub" in refused(capsys, "show", "hf:../digits")
    (hub / MODEL).write_bytes(b"\x80\x04")  # as a pickle begins
    assert "is not a whole safetensors file" in refused(capsys, "show", "hf:ada/digits")
    (hub / MODEL).unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "elsewhere")
    assert "has no model.safetensors" in refused(capsys, "show", "hf:ada/digits")
    assert not Path("runs").exists()


def test_without_a_network_it_is_one_line(run, hub, monkeypatch, capsys):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("connection\nrefused")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", unreachable)
    for command in (["sample", "hf:ada/digits"], ["publish", run.path, "ada/digits", "-n", "1"]):
        assert "hf:ada/digits: the hub cannot be used (connection refused); check the network" in refused(
            capsys, *command
        )
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'unblot[hub]'" in refused(capsys, "sample", "hf:ada/digits")


def test_publishing_sends_the_run_and_no_path_of_this_machine(run, monkeypatch, capsys):
    sent, made = {}, []

    class Api:
        def create_repo(self, name, private, exist_ok):
            made.append((name, private, exist_ok))
            return f"https://huggingface.co/{name}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            sent.update({p.name: p.read_bytes() for p in Path(folder_path).iterdir()})

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert main(["publish", str(run.path), "ada/digits", "--private", "-n", "1"]) == 0
    assert "unblot sample hf:ada/digits" in capsys.readouterr().out
    assert made == [("ada/digits", True, True)]
    assert set(sent) == {MODEL, CONFIG, "README.md", "samples.png"}
    assert all(str(run.path.parent).encode() not in content for content in sent.values())


def test_paths_lose_all_but_their_last_part(run):
    source = dataclasses.replace(run.config.source, data="/home/ada/cats")
    train = dataclasses.replace(run.config.train, text_encoder="transformers:model=/home/ada/bert,size=8")
    origin = Origin("/home/ada/runs/dogs", "0" * 64, 1.0, (), ())
    whole = dataclasses.replace(run.config, source=source, train=train, origin=origin)
    assert "/home" not in json.dumps(without_paths(whole).to_dict())
    assert without_paths(run.config) == run.config


def test_names_on_the_hub():
    assert hub_name("hf:ada/digits-1") == hub_name("ada/digits-1") == "ada/digits-1"
    for wrong in ("digits", "hf:a/b/c", "a/..", "-a/b", "a b/c", "a/b\n"):
        with pytest.raises(UnblotError, match="is no name on the hub"):
            hub_name(wrong)


def test_what_is_published_is_a_whole_model(run, tmp_path):
    from unblot.interchange.publish import gather

    gather(run, tmp_path)
    config, denoiser = load_model(tmp_path)
    assert config == run.config
    assert all((a == b).all() for a, b in zip(denoiser.parameters(), run.denoiser.parameters(), strict=True))
