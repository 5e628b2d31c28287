"""Configurations: there and back, older ones, and numbers within their ranges."""

import dataclasses
import json
import math

import numpy as np
import pytest

from unblot import UnblotError, api
from unblot.config.measuring import EmaConfig
from unblot.config.presets import PRESETS, reasons, resolve
from unblot.config.sampling import SampleConfig
from unblot.config.schema import DataConfig, RunConfig, TrainConfig
from unblot.errors import command_line, flag
from unblot.specs import canonical


@pytest.fixture(scope="module")
def config():
    return api.plan_run(DataConfig(data="digits"), api.open_data("digits"), {})


def test_there_and_back(config):
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_older_configuration_takes_the_default_of_a_newer_field(config):
    raw = config.to_dict()
    del raw["train"]["augment"]
    assert RunConfig.from_dict(raw) == config


def test_a_field_that_is_unknown_or_cannot_be_guessed_is_named(config):
    for change, told in (({"warp": 1}, "warp"), ({}, "network")):
        raw = config.to_dict()
        raw["train"] |= change
        if not change:
            del raw["train"]["network"]
        with pytest.raises(UnblotError, match=told):
            RunConfig.from_dict(raw)
    for nonsense in (None, [], "text", {"train": 3}):
        with pytest.raises(UnblotError, match="another version"):
            RunConfig.from_dict(nonsense)


def test_every_spec_is_written_out_in_full(config):
    for name in api.SPECS:
        spec = getattr(config.train, name)
        assert canonical(api.SPECS[name], spec, name) == spec


def test_numbers_are_held_to_their_ranges():
    with pytest.raises(UnblotError, match="batch_size= must be at least 1, not 0"):
        SampleConfig(batch_size=0)
    with pytest.raises(UnblotError, match=r"held_out= must be from 0 to 0\.9, not nan"):
        DataConfig(held_out=float("nan"))
    with pytest.raises(UnblotError, match=r"std= must be a finite number, not -inf"):
        EmaConfig(std=-math.inf)
    with pytest.raises(UnblotError, match=r"guidance= must be a finite number, not nan"):
        SampleConfig(guidance=math.nan)
    with command_line(), pytest.raises(UnblotError, match="--batch-size must be at least 1, not 0"):
        SampleConfig(batch_size=0)
    assert (flag("n"), flag("batch_size")) == ("-n", "--batch-size")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("steps", "300", "must be a whole number, not '300'"),
        ("steps", 3.5, "must be a whole number, not 3.5"),
        ("steps", True, "must be a whole number, not True"),
        ("steps", 2**70, "must be at least 1"),
        ("learning_rate", "fast", "must be a number, not 'fast'"),
        ("network", 5, "must be text, not 5"),
    ],
)
def test_a_value_of_another_type_is_refused(config, name, value, said):
    with pytest.raises(UnblotError, match=f"^{name}= {said}"):
        dataclasses.replace(config.train, **{name: value})
    with pytest.raises(UnblotError, match=f"^{name}= {said}"):
        resolve(config.data, {name: value})


def test_numbers_of_numpy_are_stored_as_plain_ones():
    config = SampleConfig(seed=np.int64(3), guidance=np.float32(1.5))
    assert json.dumps([config.seed, config.guidance]) == "[3, 1.5]"
    assert DataConfig(size=32).size == "32"
    assert DataConfig(size=(48, 64)).size == "48x64"


def test_every_field_of_a_training_says_what_decides_it(config):
    fields = {f.name for f in dataclasses.fields(TrainConfig)}
    for preset in PRESETS:
        why = reasons(config.data, {"preset": preset, "steps": 5})
        assert set(why) == fields
        assert (why["steps"], why["seed"], why["log_to"]) == ("given", "default", "default")
        assert why["clusters"].startswith(f"preset {preset}")
