"""Stored files: whatever stands in one, it is read with the right types or refused in one line."""

import copy
import json
import os
import random
import shutil
import struct
from dataclasses import asdict, dataclass

import pytest
import torch

import unblot
from helpers import TINY, refused
from small_sets import write
from unblot import UnblotError
from unblot.cli.parser import main
from unblot.nn import NETWORKS
from unblot.runs.budget_plan import BudgetPlan, StoredPlan
from unblot.runs.folder import CONFIG, MODEL, PLAN, TUNING, build_denoiser, load_model, read_config
from unblot.runs.tuning_store import Tuning, write_tuning
from unblot.sampling.settings import Candidate, SamplerConfig
from unblot.system.files import write_json
from unblot.system.folders import MANIFEST
from unblot.system.stored import parse_stored, read_stored

NONSENSE = [None, True, -1, 0, 10**30, 0.5, "300", "", [], [1], {}, {"a": 1}]


@dataclass(frozen=True)
class Kept:
    steps: int
    names: tuple[str, ...] = ()
    share: float | None = None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--quiet", *TINY, "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"steps": "300"}', "Expected `int`, got `str` - at `$.steps`"),
        ('{"steps": 3.5}', "Expected `int`, got `float`"),
        ('{"steps": true}', "Expected `int`, got `bool`"),
        ('{"steps": 1, "names": 5}', "Expected `array`, got `int` - at `$.names`"),
        ('{"steps": 1, "share": NaN}', "no valid JSON"),
        ('{"steps": 1, "share": "x"}', "got `str` - at `$.share`"),
        ("{}", "missing required field `steps`"),
        ('{"steps": 1, "warp": 2}', "unknown field `$.warp`"),
        ("[]", "Expected `object`, got `array`"),
        ('{"steps": 1', "no valid JSON"),
        ("", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ('"\\ud800"', "surrogates not allowed"),
        ('{"steps": 1, "share": 1e999}', "no valid JSON"),
        ('{"steps": 1, "share": -Infinity}', "no valid JSON"),
        ('{"steps": ' + "9" * 5000 + "}", "no valid JSON"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(text, said, tmp_path):
    path = tmp_path / "kept.json"
    path.write_text(text)
    with pytest.raises(UnblotError) as error:
        read_stored(path, Kept, "make it again")
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert str(error.value).endswith("make it again")
    assert "\n" not in str(error.value)


def test_what_fits_is_read_and_defaults_are_filled_in():
    assert parse_stored('{"steps": 3, "names": ["a"]}', Kept, "it") == Kept(3, ("a",))
    assert parse_stored('{"steps": 3, "share": 1}', Kept, "it").share == 1.0
    assert parse_stored('{"steps": 3, "other": 1}', Kept, "it", extra=True) == Kept(3)


def test_a_file_that_is_no_regular_one_is_not_opened(run, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for read in (lambda: read_stored(tmp_path / "pipe", Kept), lambda: read_stored(tmp_path, Kept)):
        with pytest.raises(UnblotError, match="no regular file"):
            read()
    with pytest.raises(UnblotError, match="no such file"):
        read_stored(tmp_path / "missing.json", Kept)
    assert "no model at" in refused(capsys, "show", tmp_path / "pipe")
    (tmp_path / CONFIG).unlink(missing_ok=True)
    os.mkfifo(tmp_path / CONFIG)
    assert "no regular file" in refused(capsys, "train", "--resume", tmp_path)


def places(value, path=()):
    """The paths of all values in JSON, the outermost first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def edited(raw, rng):
    """A copy of JSON with one value replaced, removed or added somewhere."""
    raw = copy.deepcopy(raw)
    *path, last = rng.choice(list(places(raw))[1:])
    at = raw
    for key in path:
        at = at[key]
    if rng.random() < 0.2:
        del at[last]
    elif rng.random() < 0.2 and isinstance(at, dict):
        at["added"] = 1
    else:
        at[last] = rng.choice(NONSENSE)
    return raw


def with_config(model: bytes, config: dict) -> bytes:
    """A model file whose header holds another config."""
    size = struct.unpack("<Q", model[:8])[0]
    header = json.loads(model[8 : 8 + size])
    header["__metadata__"]["unblot"] = json.dumps(config)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + model[8 + size :]


def test_an_edited_config_or_header_is_read_or_refused(run, tmp_path):
    raw, model, rng = json.loads((run / CONFIG).read_text()), (run / MODEL).read_bytes(), random.Random(0)
    refusals = []
    for _ in range(120):
        config = edited(raw, rng)
        (tmp_path / CONFIG).write_text(json.dumps(config))
        (tmp_path / MODEL).write_bytes(with_config(model, config))
        for read in (read_config, load_model):
            try:
                read(tmp_path)
            except UnblotError as e:
                refusals.append(str(e))
    assert len(refusals) > 100
    assert not [told for told in refusals if "\n" in told]


def test_an_edited_plan_tuning_or_manifest_is_read_or_refused(run, tmp_path, capsys):
    copy_of_run, rng = tmp_path / "run", random.Random(0)
    shutil.copytree(run, copy_of_run)
    out = copy_of_run / "samples" / "sample"
    sample = ["sample", str(copy_of_run), "-n", "1", "--steps", "1", "--out", str(out)]
    assert main(sample) == 0
    plan = BudgetPlan(9.0, 1.0, 0, "unet", 9, 8, 9, 72, 1.0, 9.0, 9, 0.1, 0.1, 3, "2026-01-01T00:00:00")
    write_json(copy_of_run / PLAN, asdict(StoredPlan(plan)))
    write_tuning(copy_of_run, Tuning("0", (Candidate(SamplerConfig("heun", "karras", 3), 5, 1.0),), {"n": 9}))
    for path, argv in ((copy_of_run / PLAN, ["show"]), (copy_of_run / TUNING, ["show"]), (out / MANIFEST, sample)):
        kept = json.loads(path.read_text())
        for _ in range(25):
            path.write_text(json.dumps(edited(kept, rng)))
            if main([*argv, str(copy_of_run)] if argv == ["show"] else argv):
                assert capsys.readouterr().err.count("\n") == 1
        path.write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("width=16", "width=6000"),
        ("width=16", "width=1000000000000"),
        ("blocks=1", "blocks=1000000"),
        ("width=16", "width=32"),
        ("width=16", "width=-16"),
    ],
)
def test_a_header_that_describes_a_larger_network_builds_nothing(run, tmp_path, old, new, monkeypatch, capsys):
    config = json.loads((run / CONFIG).read_text())
    config["train"]["network"] = config["train"]["network"].replace(old, new)
    (tmp_path / MODEL).write_bytes(with_config((run / MODEL).read_bytes(), config))
    made = []
    init = torch.nn.Parameter.__new__

    def count(cls, data=None, requires_grad=True):
        if data is not None and data.device.type != "meta":
            made.append(data.numel())
        return init(cls, data, requires_grad)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", count)
    assert "do not fit" in refused(capsys, "show", tmp_path)
    assert made == []


def test_numbers_of_a_header_are_bounded(run, tmp_path, capsys):
    raw, model = json.loads((run / CONFIG).read_text()), (run / MODEL).read_bytes()
    for part, name, value in (("train", "sampling_steps", 10**6), ("data", "height", 10**9), ("data", "width", 0)):
        config = copy.deepcopy(raw)
        config[part][name] = value
        (tmp_path / MODEL).write_bytes(with_config(model, config))
        assert "Traceback" not in refused(capsys, "show", tmp_path)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_has_the_same_tensors_on_the_meta_device(run, network):
    config = json.loads((run / CONFIG).read_text())
    config["train"]["network"] = network
    config = type(read_config(run)).from_dict(config)
    with torch.device("meta"):
        meta = build_denoiser(config).state_dict()
    assert {k: (v.shape, v.dtype) for k, v in meta.items()} == {
        k: (v.shape, v.dtype) for k, v in build_denoiser(config).state_dict().items()
    }


def test_names_cannot_send_escape_sequences_to_the_terminal(run, tmp_path, capsys):
    folder = tmp_path / "\x1b[31mred\x07"
    shutil.copytree(run, folder)
    config = json.loads((folder / CONFIG).read_text())
    config["data"]["name"] = "\x1b[2Jdigits"
    (folder / MODEL).write_bytes(with_config((folder / MODEL).read_bytes(), config))
    assert main(["show", str(folder)]) == 0
    assert main(["sample", str(folder), "-n", "1", "--steps", "1"]) == 0
    told = capsys.readouterr()
    (folder / MODEL).write_bytes(b"")
    assert not {"\x1b", "\x07"} & set(told.out + told.err + refused(capsys, "show", folder))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_that_is_not_utf_8_shows_escapes(run, tmp_path, encoding, monkeypatch):
    folder = tmp_path / "größe-数字"
    shutil.copytree(run, folder)
    with (tmp_path / "out.txt").open("w", encoding=encoding) as stream:
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setattr("sys.stderr", stream)
        assert main(["sample", str(folder), "-n", "1", "--steps", "1"]) == 0
        assert main(["show", str(folder / "missing")]) == 2
    assert "\\u6570" in (tmp_path / "out.txt").read_text(encoding=encoding)


def test_a_model_that_is_loaded_is_the_one_that_was_saved(run):
    config, denoiser = load_model(run)
    again = unblot.load(run)
    assert config == again.config == read_config(run)
    assert all(torch.equal(a, b) for a, b in zip(denoiser.parameters(), again.denoiser.parameters(), strict=True))


def test_a_run_on_data_whose_path_is_no_unicode_text_is_used_like_any_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / os.fsdecode(b"caf\xe9"), *(f"{i}.png" for i in range(12)))
    tiny = ["--network", "mlp:width=8", "--steps", "1", "--batch-size", "4", "--quiet"]
    assert main(["train", str(folder), "--out", "run", *tiny]) == 0
    assert main(["train", "--resume", "run", "--steps", "2", "--quiet"]) == 0
    assert main(["sample", "run", "-n", "1", "--steps", "1"]) == 0
    assert main(["show", "run"]) == 0
    assert "caf" in capsys.readouterr().out
