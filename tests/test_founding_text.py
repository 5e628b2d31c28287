"""The founding text's algorithm, written out literally, and ours beside it."""

import pytest
import torch
from torch import Tensor

from oracles import F64, SmallNetwork
from unblot.denoiser import Denoiser
from unblot.losses import training_loss
from unblot.process.levels import NoiseLevel
from unblot.process.schedules import SCHEDULES, uniform_time_levels
from unblot.sampling.loop import sample
from unblot.sampling.solvers import SOLVERS

# betas from 0.0001 to 0.02 in 1000 equal steps, and what follows from them
betas = torch.linspace(0.0001, 0.02, 1000, dtype=F64)
alphas = 1 - betas
alphas_cum = torch.cumprod(alphas, dim=0)
alphas_cum_s = torch.sqrt(alphas_cum)
alphas_cum_sm = torch.sqrt(1 - alphas_cum)


def ours(t: Tensor) -> NoiseLevel:
    """The level of the text's t: our index is t + 1."""
    return SCHEDULES["linear"]()((t + 1).double() / 1000)


def test_levels() -> None:
    level = ours(torch.arange(1000))
    torch.testing.assert_close(level.alpha, alphas_cum_s, rtol=0, atol=1e-12)
    torch.testing.assert_close(level.sigma, alphas_cum_sm, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_loss(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(64, 1, 8, 8, generator=g, dtype=F64).to(dtype) for _ in range(2))
    t = torch.cat([torch.tensor([0, 1, 998, 999]), torch.randint(0, 1000, (60,), generator=g)])
    model = SmallNetwork().to(dtype)

    s, sm = alphas_cum_s[t].view(-1, 1, 1, 1).to(dtype), alphas_cum_sm[t].view(-1, 1, 1, 1).to(dtype)
    literal = ((noise - model(s * x0 + sm * noise, t)) ** 2).mean()

    loss = training_loss(Denoiser(model, "eps"), x0, ours(t), noise).mean()
    assert float((loss - literal).detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_ancestral_sampling(dtype: torch.dtype) -> None:
    """Ho et al. 2020, algorithm 2, with both choices of the variance that its section 3.2 names."""
    model = SmallNetwork().to(dtype)
    steps = uniform_time_levels(SCHEDULES["linear"](), 1000)
    previous = torch.cat([torch.ones(1, dtype=F64), alphas_cum[:-1]])
    variances = {"beta": betas, "posterior": (1 - previous) / (1 - alphas_cum) * betas}
    for name, variance in variances.items():
        g = torch.Generator().manual_seed(1)
        noises = torch.randn(1000, 2, 1, 4, 4, generator=g, dtype=F64).to(dtype)

        x = noises[0]
        with torch.no_grad():
            for t in range(999, -1, -1):
                z = noises[1000 - t] if t > 0 else torch.zeros_like(x)
                eps = model(x, torch.full((2,), t))
                x = (x - betas[t] / alphas_cum_sm[t] * eps) / alphas[t].sqrt() + variance[t].sqrt() * z

        later = iter(noises[1:])
        denoiser = Denoiser(model, "eps")
        y = sample(denoiser, noises[0], steps, SOLVERS["ddpm"](variance=name), lambda drawn=later: next(drawn))
        assert next(later, None) is None  # as many noises as the text uses
        torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-4)
        assert float(x.abs().max()) > 0.1  # something is there to agree on
