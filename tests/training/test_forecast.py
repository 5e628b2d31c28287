"""What a training would take on devices that are not here: the model of a step, and what it is made from."""

import dataclasses

import pytest

from unblot import UnblotError, api
from unblot.cli.parser import main
from unblot.runs.folder import build_denoiser
from unblot.training.adversarial import decoder_seconds
from unblot.training.counting import pass_work, work
from unblot.training.first_stage import SHARE, without_values
from unblot.training.forecast import LAUNCH, UPDATE, Devices, forecast_on, gpus, hours_needed, steps_within
from unblot.training.gpus import GPUS, parse_devices

MLP = {"network": "mlp:width=64", "batch_size": 256}


@pytest.fixture(scope="module")
def config():
    return api.plan("moons", quiet=True, **MLP)


def ring(size: float, n: int, sharded: bool) -> float:
    return 2 * (n - 1) / n * size / 1e6


def test_a_step_is_its_share_and_then_the_gradients_in_a_ring(config):
    found = forecast_on(config, Devices("made up", lambda pictures: pictures / 1000, ring, None, ()), 4)
    parameters = sum(p.numel() for p in build_denoiser(config).parameters())
    assert [step.devices for step in found.steps] == [1, 2, 4, 8, 16]
    assert [step.pictures for step in found.steps] == [256, 128, 64, 32, 16]
    assert [step.computing for step in found.steps] == pytest.approx([0.256, 0.128, 0.064, 0.032, 0.016])
    assert [step.sending for step in found.steps] == pytest.approx(
        [4e-6 * parameters * factor for factor in (0, 1, 1.5, 1.75, 1.875)]
    )
    assert found.wanted.devices == 4
    assert steps_within(found, 1.0) == (0, int(3600 / (0.064 + 6e-6 * parameters)))


def test_scaling_ends_where_one_more_device_gains_less_than_half_of_its_share(config):
    """Computing c/n and sending s seconds, the gain is c/(n·(c + (n + 1)·s)): below 1/(2n) once (n + 1)·s > c."""
    c, s = 0.256, 0.03
    expected = next(n for n in range(1, 16) if (n + 1) * s > c)
    devices = Devices("made up", lambda pictures: pictures / 1000, lambda size, n, sharded: s, None, ())
    assert forecast_on(config, devices, 1).ends == expected
    free = Devices("made up", lambda pictures: pictures / 1000, lambda size, n, sharded: 0.0, None, ())
    assert forecast_on(config, free, 1).ends is None


def test_shares_are_whole_chunks_and_more_devices_than_chunks_are_refused(config):
    free = Devices("made up", lambda pictures: pictures / 1000, lambda size, n, sharded: 0.0, None, ())
    assert forecast_on(config, free, 5).wanted.pictures == 64  # of 16 chunks one process has 4
    with pytest.raises(UnblotError, match="batch_size=272"):
        forecast_on(config, free, 17)


def test_the_operations_of_a_pass_are_six_for_each_weight_of_a_network_of_matrices(config):
    """2 forward, 2 for the gradient of what came in, 2 for that of the weight."""
    denoiser = build_denoiser(config)
    weights = sum(p.numel() for p in denoiser.parameters() if p.ndim == 2)
    flops, kernels = pass_work(config, denoiser)
    assert 5 * weights < flops <= 6 * weights
    assert kernels > 50


def test_a_card_takes_its_operations_or_the_start_of_its_kernels(config):
    gpu, (flops, _) = GPUS["H100"], pass_work(config, build_denoiser(config))
    found = gpus(config, "H100", 0.5)
    assert found.computing(1) == found.computing(2)  # so few are over before the kernels are started
    assert found.computing(1e9) == pytest.approx(1e9 * flops / (0.5 * gpu.flops))
    assert found.sending(1e9, 8, False) == pytest.approx(1.75e9 / gpu.link, rel=0.05)
    assert found.sending(1e9, 16, False) == pytest.approx(1.875e9 / gpu.network, rel=0.05)


@pytest.fixture(scope="module")
def latent_config():
    return api.plan("digits", quiet=True, latent=True, latent_steps=100, steps=300, network="unet:width=16")


def test_the_autoencoder_of_latents_is_trained_first_on_one_device(latent_config):
    devices = Devices("made up", lambda pictures: pictures / 1000, lambda size, n, sharded: 0.0, None, (), first=0.05)
    for count in (1, 4):
        found = forecast_on(latent_config, devices, count)
        assert found.parameters == sum(p.numel() for p in build_denoiser(latent_config).parameters())
        each = latent_config.train.batch_size / count / 1000
        assert hours_needed(found) * 3600 == pytest.approx(100 * 0.05 + 300 * each)
        assert steps_within(found, 1.0) == (100, int((3600 - 100 * 0.05) / each))
    decided = dataclasses.replace(latent_config.latent, latent_steps=None)
    found = forecast_on(dataclasses.replace(latent_config, latent=decided), devices, 1)
    assert found.first_steps == 300  # without a budget as many as the run has
    first, second = steps_within(found, 1.0)  # within a budget a quarter of the time
    assert first == SHARE * 3600 / 0.05
    assert second == int((1 - SHARE) * 3600 / (latent_config.train.batch_size / 1000))


@pytest.mark.parametrize(
    ("choices", "seconds"),
    [
        ({"budget": "1h"}, decoder_seconds(3600)),  # how many steps it takes is not known before
        ({"steps": 300}, decoder_seconds(3600)),
        ({"budget": "1h", "adversarial_steps": 0}, 0),
    ],
)
def test_time_is_kept_for_fine_tuning_of_the_decoder(choices, seconds):
    latent = {"latent": True, "latent_steps": 100, "network": "unet:width=16"}
    found = api.forecast("shapes:count=20,size=16", devices="1xH100", quiet=True, **latent, **choices)
    left = 3600 - seconds - 100 * found.devices.first
    assert steps_within(found, 1.0) == (100, int(left / found.wanted.seconds))


def test_the_first_stage_on_a_gpu_takes_its_operations_or_the_start_of_its_kernels(latent_config):
    gpu, (flops, kernels) = GPUS["H100"], work(without_values(latent_config)[1])
    assert gpus(latent_config, "H100", 1e-6).first == pytest.approx(flops / (1e-6 * gpu.flops))
    assert gpus(latent_config, "H100", 1.0).first == pytest.approx((1 + UPDATE) * kernels * LAUNCH)


def test_devices_are_a_number_and_a_name():
    assert parse_devices("8xh100") == (8, "H100")
    assert parse_devices("cpu") == (1, "cpu")
    for wrong in ("8xV1", "0xH100", "xH100", "H100x8", ""):
        with pytest.raises(UnblotError, match="names no devices; write 8xH100"):
            parse_devices(wrong)


def test_the_command_prints_a_row_for_each_number_of_devices(capsys):
    assert main(["plan", "moons", "--devices", "2xcpu", "--hours", "1", *("--network", "mlp:width=64")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("measured here: ") for line in lines)
    rows = [line.split() for line in lines if line[:7].strip().isdigit()]
    assert [int(row[0]) for row in rows][:2] == [1, 2]
    assert lines[-1].startswith("1h on 2xcpu are ")
    assert main(["plan", "moons", "--devices", "2xH100", "--reached", "2"]) == 2
    assert "--reached 2.0 is no share" in capsys.readouterr().err


def test_the_command_plans_latents_on_the_processors_of_this_machine(capsys):
    latents = ("--latent", "--latent-width", "4", "--latent-factor", "2", "--network", "unet:width=8")
    assert main(["plan", "digits", "--devices", "1xcpu", "--hours", "1", "--batch-size", "16", *latents]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "latents: 4 x 4 x 4, of an own autoencoder: factor 2, width 4, trained with noise of" in "\n".join(lines)
    assert any(line.startswith("its autoencoder is trained first, on one device: ") for line in lines)
    assert "of the autoencoder: " in lines[-1]
