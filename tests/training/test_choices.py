"""Choices of a new run are refused before the data is read, each in one line that names it."""

import math

import pytest

import unblot
from unblot import UnblotError, api
from unblot.errors import command_line
from unblot.training.averages.ema import EMAS
from unblot.training.optim import check_optimizer
from unblot.training.plan import check_choices, plan_run


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"batch_size": 0}, "batch_size= must be .*1, not 0"),
        ({"learning_rate": math.nan}, "learning_rate= must be .*, not nan"),
        ({"data_std": math.inf}, "data_std= must be .*, not inf"),
        ({"ema": "power:std=0.5"}, "0.28, not 0.5"),
        ({"ema": "power:std=0.05+power:std=-1"}, "0.28, not -1"),
        ({"ema": "power:std=nan"}, "'nan' is not a finite number"),
        ({"ema": "decay:rate=1"}, "below 1, not 1"),
        ({"optimizer": "adamw:beta1=1.5"}, "beta1 from 0 to below 1, not 1.5"),
        ({"optimizer": "muon:momentum=-0.1"}, "momentum from 0 to below 1"),
        ({"optimizer": "muon:scale=0"}, "scale > 0, not 0"),
        ({"weighting": "min_snr:gamma=0"}, "gamma > 0"),
        ({"objective": "vlb:steps=1"}, "2 steps or more"),
        ({"schedule": "edm:mean=nan"}, "'nan' is not a finite number"),
        ({"network": "unet:width=many"}, "'many' is not of type int"),
        ({"solver": "warp"}, "unknown solver 'warp'"),
        ({"times": "often"}, "unknown times 'often'"),
        ({"preset": "best"}, "unknown preset 'best'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"compile": "maybe"}, "unknown compile='maybe'"),
        ({"shard": "maybe"}, "unknown shard='maybe'"),
        ({"log_to": "excel"}, "unknown log_to='excel'"),
        ({"warp": 1}, "unknown choice 'warp'"),
        ({"held_out": math.nan}, "held_out= must be .*, not nan"),
    ],
)
def test_a_bad_choice_is_refused_before_the_data_is_read(choices, words, monkeypatch, tmp_path):
    monkeypatch.setattr(api, "open_dataset", lambda *given: pytest.fail("the data was read"))
    with pytest.raises(UnblotError, match=words) as error:
        api.train("digits", out=tmp_path / "run", quiet=True, **choices)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_plan_refuses_them_too():
    data = api.open_data("digits")
    for choices in ({"batch_size": 0}, {"ema": "power:std=0.5"}, {"learning_rate": math.nan}):
        with pytest.raises(UnblotError):
            plan_run(api.DataConfig(data="digits"), data, choices)


def test_a_message_names_the_flag_at_the_command_line():
    with command_line(), pytest.raises(UnblotError, match="--batch-size must be"):
        check_choices({"batch_size": 0})


def test_every_default_is_accepted():
    check_choices({})
    for name in EMAS:
        check_choices({"ema": name})
    for spec in ("adamw", "muon"):
        check_optimizer(spec)


@pytest.mark.parametrize(
    "call",
    [
        lambda: unblot.evaluate("no-run", solvers="heun"),
        lambda: unblot.tune("no-run", solver="heun"),
        lambda: unblot.choose_ema("no-run", solver="heun"),
        lambda: unblot.audit("digits", solver="heun"),
        lambda: unblot.pack_data("digits", "shards", solver="heun"),
        lambda: unblot.forecast("digits", devices="1xH100", solvers="heun"),
    ],
)
def test_a_keyword_that_a_function_does_not_have_is_named_with_those_that_it_has(call):
    with pytest.raises(UnblotError, match=r"unknown choice 'solvers?'; choose among .*, "):
        call()


def test_the_doctor_skips_broken_pictures_and_takes_no_other_choice():
    with pytest.raises(UnblotError, match="unknown choice 'on_broken'"):
        unblot.audit("digits", on_broken="stop")
