"""The table of solvers: one step from x_t to x_s, for any schedule and parameterization.

The deterministic ones integrate the probability-flow ODE, `d(x/alpha)/d(sigma/alpha) = eps_hat` with
sigma/alpha as its time; the stochastic ones add fresh noise at every step.
"""

from collections.abc import Callable

from unblot.sampling.loop import Solver
from unblot.sampling.multistep import deis, dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, dpmpp_3m_sde, ipndm, unipc
from unblot.sampling.restarts import edm_churn, restart
from unblot.sampling.singlestep import adaptive, ddim, ddpm, dpmpp_2s, euler, heun

SOLVERS: dict[str, Callable[..., Solver]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "unipc": unipc,
    "deis": deis,
    "ipndm": ipndm,
    "edm_churn": edm_churn,
    "restart": restart,
    "adaptive": adaptive,
}
