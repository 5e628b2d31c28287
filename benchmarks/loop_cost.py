"""What sampling costs beyond the network: the time of whole sampling runs over that of the bare network calls in them.

For each solver a batch is sampled, and the network is called on such a batch as often as the solver called it; the two
take turns. Usage: python benchmarks/loop_cost.py [--size 32] [--batch 64] [--network unet:width=64] [--steps 10]
"""

import argparse
import statistics
from functools import partial

import torch

from measure import report, seconds
from unblot.denoiser import Denoiser
from unblot.nn import NETWORKS
from unblot.process.randomness import picture_generators
from unblot.sampling.batched import sampling_levels
from unblot.sampling.loop import pictures_noise, sample
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("solvers", nargs="*", default=list(SOLVERS))
parser.add_argument("--network", default="unet:width=48,multipliers=1-2,patch=2")
parser.add_argument("--size", type=int, default=32)
parser.add_argument("--channels", type=int, default=3)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--rounds", type=int, default=7)
args = parser.parse_args()

shape = (args.channels, args.size, args.size)
torch.manual_seed(0)
network = build(NETWORKS, args.network, "network", args.channels, args.channels, shape[1:], 0)
for parameter in network.parameters():  # zeroed layers would make the adaptive solver's trajectory too easy
    if not parameter.any():
        torch.nn.init.normal_(parameter, std=0.02)
denoiser = Denoiser(network, "edm", 0.5).to(memory_format=torch.channels_last).eval()
levels = sampling_levels("edm", "karras", args.steps)
device = next(network.parameters()).device


def run_solver(solver: str) -> int:
    """Draws a batch as `unblot sample` does, and gives the number of network calls."""
    calls = 0

    def denoise(x, level):
        nonlocal calls
        calls += 1
        return denoiser(x, level)

    noise = pictures_noise(picture_generators(0, range(args.batch)), shape, device)
    sample(denoise, denoiser.prior(levels.at(0)).draw(noise()), levels, build(SOLVERS, solver, "solver"), noise)
    return calls


@torch.no_grad()
def bare(calls: int) -> None:
    """As many calls of the network alone, in the memory format that it is fastest in."""
    x, embedding = x_T.to(memory_format=torch.channels_last), torch.zeros(args.batch)
    for _ in range(calls):
        network(x, embedding, None)


x_T = torch.randn(args.batch, *shape)
metrics = {}
for solver in args.solvers:
    calls = run_solver(solver)
    taken = seconds({"sampling": partial(run_solver, solver), "bare": partial(bare, calls)}, args.rounds, warm_up=1)
    ratios = [whole / net - 1 for whole, net in zip(taken["sampling"], taken["bare"], strict=True)]
    metrics[solver] = {
        "calls": calls,
        "beyond_the_network": round(statistics.median(ratios), 4),
        "least": round(min(ratios), 4),
        "most": round(max(ratios), 4),
    }
report(batch=args.batch, picture=list(shape), network=args.network, steps=args.steps, solvers=metrics)
