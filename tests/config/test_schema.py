"""Configurations: there and back, older ones, and numbers within their ranges."""

import json

import pytest

from unblot import UnblotError, api
from unblot.config.schema import DataConfig, RunConfig, SampleConfig
from unblot.errors import flag
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
    assert (flag("n"), flag("batch_size")) == ("-n", "--batch-size")
