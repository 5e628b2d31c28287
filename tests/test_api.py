"""unblot from Python: the same pictures in any batch, labels, and every entry of every table in a real run."""

import math

import numpy as np
import pytest
import torch

import unblot
from unblot import UnblotError, api
from unblot.config.presets import PRESETS
from unblot.losses import WEIGHTINGS
from unblot.nn import NETWORKS
from unblot.process.parameterizations import PARAMETERIZATIONS
from unblot.process.schedules import SCHEDULES
from unblot.runs.metrics import STEP, of_kind, read_metrics
from unblot.sampling.solvers import SOLVERS

SMALL = {
    "unet": "unet:width=16,multipliers=1,blocks=1",
    "ddpm_unet": "ddpm_unet:width=32,multipliers=1,blocks=1,attention=0",
    "dit": "dit:width=32,depth=1",
    "mlp": "mlp:width=32,depth=1",
}
TINY = {"steps": 3, "preview_every": 0, "batch_size": 8, "sampling_steps": 4, "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return unblot.train("digits", out=tmp_path_factory.mktemp("runs") / "r", network=SMALL["unet"], **TINY)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_picture_is_the_same_in_any_batch(run, solver, batch_size):
    choices = {"steps": 3, "solver": solver, "label": "all", "guidance": 1.5, "seed": 4}
    together = run.sample(20, batch_size=64, **choices).array.astype(int)
    apart = run.sample(20, batch_size=batch_size, **choices).array.astype(int)
    assert np.abs(together - apart).max() <= 1  # one grey level: 1e-5 beside a rounding edge


def test_another_seed_is_another_picture(run):
    assert not np.array_equal(run.sample(1, seed=0).array, run.sample(1, seed=1).array)


def test_loaded_again_it_draws_the_same(run):
    assert np.array_equal(unblot.load(run.path).sample(3).array, run.sample(3).array)


def test_labels_by_name_by_index_and_in_turns():
    classes = ("cat", "dog", "7")
    assert api.choose_labels(None, classes, range(2)) is None
    assert api.choose_labels("dog", classes, range(2)) == [1, 1]
    assert api.choose_labels(2, classes, range(1)) == [2]
    assert api.choose_labels("7,cat", classes, range(3)) == [2, 0, 2]
    assert api.choose_labels(["cat", 1], classes, range(3)) == [0, 1, 0]
    assert api.choose_labels("all", classes, range(4)) == [0, 1, 2, 0]
    for wrong in ("bird", 3, "-1"):
        with pytest.raises(UnblotError, match="no class"):
            api.choose_labels(wrong, classes, range(1))
    with pytest.raises(UnblotError, match="without labels"):
        api.choose_labels("cat", (), range(1))


def test_labels_of_numpy_and_pytorch_and_names_with_commas():
    classes = ("cat", "dog", "tench, Tinca tinca")
    for label in (np.int64(1), np.array(1), torch.tensor(1), [np.int64(1)], np.array(["dog"])):
        assert api.choose_labels(label, classes, range(2)) == [1, 1]
    assert api.choose_labels(torch.tensor([1, 0]), classes, range(3)) == [1, 0, 1]
    assert api.choose_labels("tench, Tinca tinca", classes, range(1)) == [2]
    assert api.choose_labels("dog, cat", classes, range(2)) == [1, 0]
    for wrong in (3.0, np.float32(1), True, [[1]], b"cat"):
        with pytest.raises(UnblotError, match="no class"):
            api.choose_labels(wrong, classes, range(1))


def test_a_later_part_of_a_draw_is_that_part(run):
    whole = run.sample(9, label="3,5", seed=2)
    part = run.sample(4, first=5, label="3,5", seed=2)
    assert np.array_equal(part.array, whole.array[5:])
    assert part.labels == whole.labels[5:]


def test_unknown_choices_are_named(tmp_path):
    with pytest.raises(UnblotError, match="unknown choice 'learning_speed'"):
        unblot.train("digits", out=tmp_path / "r", learning_speed=1)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("data", ["digits", "moons"])
def test_every_preset_trains_and_draws_on_pictures_and_points(preset, data, tmp_path):
    small = SMALL["mlp"] if data == "moons" else SMALL["unet"]
    run = unblot.train(data, out=tmp_path / "r", preset=preset, network=small, **TINY)
    pictures = run.sample(5)
    assert pictures.array.shape == (5, *run.config.data.shape)
    assert pictures.array.dtype == run.config.data.values["dtype"]
    pictures.save(tmp_path / "out")
    assert (tmp_path / "out" / "grid.png").stat().st_size > 0


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(9, 14, 3), (1, 20), (12, 10, 7)], ids=["colour", "one pixel high", "7 channels"])
def test_every_network_trains_on_pictures_of_any_shape(network, shape, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "pictures.npy", rng.integers(0, 256, (64, *shape), np.uint8))
    run = unblot.train(str(tmp_path / "pictures.npy"), out=tmp_path / "r", network=SMALL[network], **TINY)
    height, width, channels = (*shape, 1)[:3]
    assert run.sample(2).array.shape == (2, channels, height, width)
    losses = [line["loss"] for line in of_kind(read_metrics(run.path), STEP)]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_parameterization_learns_on_every_schedule(parameterization, schedule):
    """A few steps bring the loss down from its start; the pairs that cannot work say so."""
    dataset = api.open_data("digits")
    choices = {"parameterization": parameterization, "schedule": schedule, "spacing": "time", "network": SMALL["mlp"]}
    choices |= {"steps": 40, "batch_size": 64, "weighting": "none", "decay": "none", "learning_rate": 3e-3}
    noise_only = schedule.endswith("zero_snr") or schedule.startswith("flow")
    if parameterization == "eps" and noise_only:
        with pytest.raises(UnblotError, match="parameterization='v'"):
            api.plan_run(api.DataConfig(data="digits"), dataset, choices)
        return
    trainer = api.denoising_trainer(api.plan_run(api.DataConfig(data="digits"), dataset, choices), dataset)
    losses = [trainer.take_step().loss for _ in range(40)]
    assert all(math.isfinite(loss) for loss in losses)
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weighting_gives_finite_gradients(weighting):
    dataset = api.open_data("digits")
    choices = {"weighting": weighting, "network": SMALL["unet"], "steps": 3, "batch_size": 16}
    trainer = api.denoising_trainer(api.plan_run(api.DataConfig(data="digits"), dataset, choices), dataset)
    assert all(math.isfinite(norm) for norm in [trainer.take_step().grad_norm for _ in range(3)])


def test_training_leaves_the_callers_randomness_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    unblot.train("digits", out=tmp_path / "r", network=SMALL["unet"], **TINY)
    assert torch.equal(torch.rand(1), expected)
