"""What a network's output means: every parameterization says the same picture."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracles import F64, level
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, corrupt, mix
from unblot.process.parameterizations import PARAMETERIZATIONS, edm, eps, flow, network_target, v
from unblot.process.schedules import SCHEDULES

G = torch.Generator().manual_seed(0)
X0, EPS = torch.randn(5, 1, 3, 3, generator=G, dtype=F64), torch.randn(5, 1, 3, 3, generator=G, dtype=F64)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_target_gives_the_picture_back(parameterization, schedule: str) -> None:
    sequence = SCHEDULES[schedule]()(torch.tensor([1e-4, 0.1, 0.5, 0.9, 0.9999], dtype=F64))
    target = network_target(parameterization, sequence, 0.5, X0, EPS)
    c_skip, c_out = parameterization(sequence, 0.5)
    torch.testing.assert_close(mix(c_skip, corrupt(X0, sequence, EPS), c_out, target), X0, rtol=1e-8, atol=1e-8)


def test_targets_are_what_the_papers_name() -> None:
    t = level(0.6, 0.8)
    target = {name: network_target(p, t, 0.5, X0, EPS) for name, p in PARAMETERIZATIONS.items()}
    torch.testing.assert_close(target["eps"], EPS)
    torch.testing.assert_close(target["x0"], X0)
    torch.testing.assert_close(target["v"], 0.6 * EPS - 0.8 * X0)
    torch.testing.assert_close(target["flow"], EPS - X0)


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_edm_at_unit_deviation_is_minus_v(alpha: float, sigma: float) -> None:
    c_skip, c_out = edm(level(alpha, sigma), 1.0)
    v_skip, v_out = v(level(alpha, sigma), 0.3)
    assert float(c_skip) == pytest.approx(float(v_skip), rel=1e-12)
    assert float(c_out) == pytest.approx(-float(v_out), rel=1e-12)


@given(st.floats(0.01, 100), st.floats(0.1, 2))
def test_edm_is_table_1_of_its_paper_where_alpha_is_1(sigma: float, std: float) -> None:
    c_skip, c_out = edm(level(1.0, sigma), std)
    assert float(c_skip) == pytest.approx(std**2 / (sigma**2 + std**2), rel=1e-12)
    assert float(c_out) == pytest.approx(sigma * std / (sigma**2 + std**2) ** 0.5, rel=1e-12)


@given(st.floats(0.0, 1), st.floats(0.05, 1))
def test_edms_target_has_unit_variance(alpha: float, sigma: float) -> None:
    """Its defining property: for data of deviation sd, `E[F²] = 1` at every level, for any alpha."""
    c_skip, c_out = edm(level(alpha, sigma), 0.5)
    on_x0, on_eps = (1 - c_skip * alpha) / c_out, -c_skip * sigma / c_out
    assert float(on_x0**2 * 0.25 + on_eps**2) == pytest.approx(1, rel=1e-9)


def test_pure_noise_suits_all_but_eps() -> None:
    end = NoiseLevel(torch.tensor([0.5, 0.0], dtype=F64), torch.tensor([0.5, 1.0], dtype=F64))
    for parameterization in (v, flow, edm):
        assert all(bool(c.isfinite().all()) for c in parameterization(end, 0.5))
    with pytest.raises(UnblotError, match="parameterization='v'"):
        eps(end, 0.5)
