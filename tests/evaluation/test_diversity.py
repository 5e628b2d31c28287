"""The benchmark of diversity judges as it says: real data passes, a collapsed model fails, sizes match."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import diversity
from unblot.lessons import rivals


@pytest.fixture(scope="module")
def judge() -> diversity.Judge:
    return diversity.Judge(diversity.gaussians(1000, 64))


def test_real_points_reach_every_mode_and_a_collapsed_model_fails(judge: diversity.Judge) -> None:
    real = judge.real()
    assert real["modes"] == 25
    assert real["quality"] == pytest.approx(1 - torch.tensor(-4.5).exp().item(), abs=0.02)  # within 3 deviations, 2-D
    assert real["kl"] < 0.05
    assert not diversity.failed(real, real)
    collapsed = judge.measure(judge.task.training[:1].expand(1000, -1, -1, -1))
    assert collapsed["modes"] == 1
    assert diversity.failed(collapsed, real)
    noise = judge.measure(4 * torch.rand(1000, 2, 1, 1, generator=torch.Generator().manual_seed(0)) - 2)
    assert noise["quality"] < 0.2
    assert diversity.failed(noise, real)
    broken = judge.measure(torch.full((1000, 2, 1, 1), torch.nan))
    assert diversity.failed(broken, real)


def test_the_divergence_of_shares_is_that_of_kullback_and_leibler() -> None:
    counts, truth = torch.tensor([3, 0, 1, 0]), torch.tensor([1, 1, 1, 1])
    assert diversity.share_divergence(counts, truth) == pytest.approx(0.75 * math.log(3))
    assert diversity.share_divergence(truth, truth) == 0
    assert diversity.share_divergence(truth, counts) == math.inf


@pytest.mark.parametrize("model", [rivals.gan, rivals.vae])
@pytest.mark.parametrize(("shape", "parameters"), [((2, 1, 1), 75_000), ((1, 8, 8), 226_000), ((3, 8, 8), 1_000_000)])
def test_rivals_have_as_many_parameters_as_asked_for_and_sample_pictures(model, shape, parameters) -> None:
    trained = model(torch.zeros(300, *shape), 0.1, 0, parameters, 1.0)
    assert abs(trained.parameters / parameters - 1) < 0.2
    assert trained.sample(7).shape == (7, *shape)
    assert trained.sample(7).isfinite().all()
    assert trained.steps >= 1


def test_our_model_takes_the_time_it_is_given_and_samples() -> None:
    points = torch.randn(200, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    trained = rivals.ours(points, 0.3, 0, "mlp:width=8,depth=1")
    assert trained.sample(5).shape == (5, 2, 1, 1)
    assert trained.sample(5).isfinite().all()
    assert trained.parameters > 0


def test_table_shows_every_model() -> None:
    run = {**dict.fromkeys(diversity.FIGURES, 1.0), "copies": None, "failed": True, "parameters": 10, "seconds": 1.0}
    result = {
        "task": "points",
        "real": run,
        "models": {"unblot": {"knob": "mlp", "runs": [run, {**run, "failed": False}]}},
    }
    text = diversity.table([result])
    assert "| points | real |" in text
    assert "| 1 of 2 |" in text
