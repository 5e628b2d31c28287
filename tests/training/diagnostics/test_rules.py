"""Warnings: what was planted is found, and a healthy run has none, whatever its noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblot.training.diagnostics.rules import (
    RECENT,
    Diagnostics,
    colour_drift,
    diverged,
    fine_detail,
    overfitting,
    rate_too_high,
    turned,
)
from unblot.training.diagnostics.summary import gain_of_twice, losses, more_time

PARTS, LEVELS = 8, 5


def measured(held_out, training, noise=0.0, seed=0):
    """Lines by noise level with these mean losses; every part of the pictures has a level and a trend of its own."""
    rng = np.random.default_rng(seed)
    own, trend = rng.normal(1, 0.2, PARTS), rng.normal(0, noise, PARTS)
    lines = []
    for i, (out, seen) in enumerate(zip(held_out, training, strict=True)):
        parts = out * own * (1 + trend * i / len(held_out))
        parts *= 1 if noise else out / parts.mean()
        side = {"held_out": [parts.mean()] * LEVELS, "held_out_parts": list(parts)}
        lines.append({"step": 100 * i, "training": [seen] * LEVELS, "training_parts": [seen] * PARTS, **side})
    return lines


def falling(n=30, floor=0.3):
    return floor + 0.7 * np.exp(-np.arange(n) / 5)


def steps(losses, norms=None):
    norms = np.ones(len(losses)) if norms is None else norms
    pairs = enumerate(zip(losses, norms, strict=True))
    return [{"step": 10 * i, "loss": loss, "grad_norm": norm} for i, (loss, norm) in pairs]


def test_a_planted_overfit_is_found_and_its_turn_named():
    held_out = np.concatenate([falling(15, 0.4), 0.45 + 0.01 * np.arange(15)])
    lines = measured(held_out, falling(30, 0.1))
    assert turned(lines).best_step == 1400
    assert "step 1400" in overfitting(lines)
    assert "steps=1400" in overfitting(lines)


def test_a_rise_without_falling_training_loss_is_no_overfit():
    held_out = np.concatenate([falling(15, 0.4), 0.45 + 0.01 * np.arange(15)])
    assert overfitting(measured(held_out, held_out)) is None


@given(seed=st.integers(0, 10_000), noise=st.floats(0, 0.1))
def test_a_held_out_loss_that_has_come_to_rest_is_no_overfit(seed, noise):
    """The parts of the pictures drift apart by chance while training loss falls: their mean has a spread."""
    assert overfitting(measured(falling(), falling(floor=0.2), noise, seed)) is None


def test_too_little_to_say_says_nothing():
    for lines in ([], measured([1.0], [1.0]), [{**measured([1.0], [1.0])[0], "held_out": None}] * 5):
        assert overfitting(lines) is None
        assert gain_of_twice(lines) is None


@given(seed=st.integers(0, 10_000), spread=st.floats(0.01, 1.2))
def test_a_healthy_loss_has_no_warning_however_small_the_batch(seed, spread):
    rng = np.random.default_rng(seed)
    losses = (0.2 + np.exp(-np.arange(300) / 40)) * np.exp(spread * rng.normal(size=300).clip(-2.5, 2.5))
    norms = np.exp(spread * rng.normal(size=300).clip(-2.5, 2.5))
    lines = steps(losses, norms)
    assert all(rate_too_high(lines[:n]) is None for n in range(RECENT, 301, RECENT))


@pytest.mark.parametrize("key", ["loss", "grad_norm"])
def test_spikes_far_above_the_lines_before_are_found(key):
    rng = np.random.default_rng(0)
    lines = steps(np.exp(0.1 * rng.normal(size=200)), np.exp(0.3 * rng.normal(size=200)))
    assert rate_too_high(lines) is None
    for i in (180, 187, 195):
        lines[i][key] *= 100
    assert "learning_rate=" in rate_too_high(lines)


def test_skipped_steps_and_a_loss_that_rises_for_good_are_found():
    healthy = steps(0.5 + np.exp(-np.arange(200) / 20))
    lost = [{**line, "loss": None} if i in (171, 180, 199) else line for i, line in enumerate(healthy)]
    assert "not finite" in rate_too_high(lost)
    risen = steps(np.concatenate([0.5 + np.exp(-np.arange(100) / 20), np.geomspace(0.5, 0.95, 100)]))
    assert "has risen from 0.5" in rate_too_high(risen)


def test_divergence_is_several_losses_in_a_row_far_above_the_untrained_one():
    assert diverged([0.9, 4, 5, 4, 8, 9], 1.0)
    assert not diverged([4, 5, 0.9, 4, 8], 1.0)
    assert not diverged([4, 5, 9, 4, 8], None)
    assert diverged([0.5, 4], 1.0, in_a_row=1)


def preview(off, z, channel=0, what="mean"):
    offs = {f"{w}_{k}": [0.0, 0.0] for w in ("mean", "std") for k in ("off", "z")} | {"mean": [0.1, 0.2], "std": [1, 1]}
    offs[f"{what}_off"][channel], offs[f"{what}_z"][channel] = off, z
    return {"step": 1, "preview": offs}


def test_colours_that_stay_off_by_more_than_chance_are_found():
    assert colour_drift([preview(0.0, 0.0)] * 2 + [preview(0.3, 9.0)] * 2).startswith("colour drift")
    assert "channel 1" in colour_drift([preview(0.3, 9.0, channel=1)] * 4)
    assert "less contrast" in colour_drift([preview(-0.3, -9.0, what="std")] * 4)
    for healthy in (
        [preview(0.3, 2.0)] * 4,  # chance
        [preview(0.01, 9.0)] * 4,  # nothing that one sees
        [preview(0.3, 9.0), preview(-0.3, -9.0)] * 2,
        [preview(0.0, 0.0)] * 2 + [preview(0.9, 9.0), preview(0.3, 9.0)],  # on the way to what it should be
        [preview(0.3, 9.0)] * 3,  # a young model
        [preview(None, None)] * 4,
    ):
        assert colour_drift(healthy) is None


def detail(*ratios, low=0.8, high=1.2):
    """Previews whose finest octave has these ratios; the next one is right."""
    bounds = {"octaves_low": [low, low, low], "octaves_high": [high, high, high]}
    return [{"step": i, "preview": {"octaves": [ratio, 1.0, 9.0], **bounds}} for i, ratio in enumerate(ratios)]


def test_grain_and_blur_that_stay_are_found():
    grainy = fine_detail(detail(9.0, 5.0, 3.0, 2.9))
    assert grainy.startswith("grainy: details of 2 to 4 pixels have 2.9 times")
    assert "without preset=, network=, parameterization=, spectrum= of your own" in grainy
    assert fine_detail(detail(0.5, 0.4, 0.4, 0.4)).startswith("too smooth")
    second = [{**line, "preview": {**line["preview"], "octaves": [1.0, 2.0]}} for line in detail(1, 1, 1, 1)]
    assert "details of 4 to 8 pixels" in fine_detail(second)
    for healthy in (
        detail(1.1, 1.1, 1.1, 1.1),  # nothing that one sees, nor beyond chance
        detail(3.0, 3.0, 3.0, 3.0, high=2.5),  # chance, with few and odd pictures
        detail(9.0, 9.0, 6.0, 2.0),  # on the way to what it should be
        detail(9.0, 9.0, 9.0),  # a young model
        detail(9.0, 9.0, 0.3, 9.0),
        detail(None, None, None, None),  # real pictures without fine detail
        [preview(0.0, 0.0)] * 4,  # written before there were octaves
    ):
        assert fine_detail(healthy) is None


def test_no_warning_advises_what_the_default_recipe_has_without_saying_so():
    """Nor a network by some of its options: the others would be those of the network, not of the recipe."""
    drift = colour_drift([preview(0.0, 0.0)] * 2 + [preview(0.3, 9.0)] * 2)
    assert "parameterization='edm' where another was given" in drift
    for told in (drift, *(fine_detail(detail(*[ratio] * 4)) for ratio in (9.0, 0.4))):
        assert "unet:" not in told
        assert "'edm'" not in told.replace("'edm' where another", "")


def test_a_warning_is_said_once_also_after_a_resume():
    held_out = np.concatenate([falling(15, 0.4), 0.45 + 0.01 * np.arange(15)])
    lines = measured(held_out, falling(30, 0.1))
    diagnostics = Diagnostics(lines[:10])
    assert len(diagnostics.look(lines)) == 1
    assert diagnostics.look(lines) == []
    assert Diagnostics(lines).look(lines) == []


def test_a_run_never_goes_back_to_untrained_weights():
    lines = measured(0.4 + 0.01 * np.arange(15), falling(15, 0.1))
    assert lines[0]["step"] == 0
    assert turned(lines).best_step == lines[1]["step"]


@pytest.mark.parametrize("power", [0.0, 0.1, 0.5])
def test_twice_the_steps_gain_what_a_power_law_says(power):
    lines = measured(np.arange(1, 31) ** -power, np.arange(1, 31) ** -power)
    for i, line in enumerate(lines):
        line["step"] = 100 * (i + 1)
    assert gain_of_twice(lines) == pytest.approx(1 - 2**-power, abs=1e-6)


def test_whether_more_time_helps_follows_from_the_held_out_loss(tmp_path):
    last = steps([0.5] * 300)
    gaining = measured(np.arange(1, 31) ** -0.3, np.arange(1, 31) ** -0.3)
    assert more_time(gaining + last, tmp_path).startswith("would help")
    assert "--steps 5980" in more_time(gaining + last, tmp_path)
    rising = np.concatenate([np.arange(1, 26) ** -0.3, [0.3808, 0.381, 0.3812, 0.3814, 0.3816]])  # from 0.3807
    assert more_time(measured(rising, rising) + last, tmp_path).startswith("would gain little: about 0.0%")
    resting = measured([0.4] * 30, [0.4] * 30)
    assert more_time(resting + last, tmp_path).startswith("would gain little")
    overfit = measured(np.concatenate([falling(15, 0.4), 0.45 + 0.01 * np.arange(15)]), falling(30, 0.1))
    assert more_time(overfit + last, tmp_path).startswith("would not help")
    assert "best.safetensors" in more_time(overfit + last, tmp_path)
    unknown = [{**line, "held_out": None} for line in resting]
    assert "cannot be judged" in more_time(unknown + last, tmp_path)


def test_the_last_losses_come_with_what_chance_makes_of_their_difference():
    (line,) = measured([0.5], [0.4])
    spread = 2 * np.std(line["held_out_parts"], ddof=1) / PARTS**0.5 / 0.4
    assert losses([line]) == f"training 0.4, held-out 0.5 (+25.0%, give or take {spread:.1%}) at step 0"
