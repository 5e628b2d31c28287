"""How fast the networks train, and what share that is of the machine's own fp32 matrix-product rate.

Forward and backward of a batch, in turns with the matrix product. Counted are the operations of the convolutions and
matrix products of the network as written; a convolution that is computed by a faster algorithm (Winograd) can pass
100 %. Usage: python benchmarks/speed.py [--size 32] [--channels 1] [--batch 64] [NETWORK …]
"""

import argparse
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from measure import matrix_product, report, seconds, summary
from unblot.nn import NETWORKS
from unblot.specs import build

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("networks", nargs="*", default=["unet:width=64", "ddpm_unet:width=32"])
parser.add_argument("--size", type=int, default=32)
parser.add_argument("--channels", type=int, default=1)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--rounds", type=int, default=7)
args = parser.parse_args()


def training_step(spec: str) -> tuple[Callable[[], None], float, int]:
    """A training step of the network, its floating-point operations, and its number of parameters."""
    network = build(NETWORKS, spec, "network", args.channels, args.channels, (args.size, args.size), 0)
    network.to(memory_format=torch.channels_last)
    for parameter in network.parameters():  # zeroed layers would let gradients be zero too
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    x = torch.randn(args.batch, args.channels, args.size, args.size).to(memory_format=torch.channels_last)
    noise = torch.linspace(-3, 3, args.batch) if network.embeds != "ddpm_index" else torch.arange(args.batch).float()

    def step() -> None:
        network.zero_grad()
        (network(x, noise, None) - x).square().mean().backward()

    with FlopCounterMode(display=False) as counter:
        step()
    return step, counter.get_total_flops(), sum(p.numel() for p in network.parameters())


torch.manual_seed(0)
product, product_operations = matrix_product()
steps = {spec: training_step(spec) for spec in args.networks}
taken = seconds({"product": product, **{spec: step for spec, (step, _, _) in steps.items()}}, args.rounds)
rate = product_operations / summary(taken.pop("product"))["median"]
report(
    batch=args.batch,
    picture=[args.channels, args.size, args.size],
    rounds=args.rounds,
    matrix_product_gflops=round(rate / 1e9, 1),
    networks={
        spec: {
            "parameters": parameters,
            "pictures_per_second": round(args.batch / summary(taken[spec])["median"], 1),
            "step_seconds": summary(taken[spec]),
            "share_of_matrix_product_rate": round(operations / summary(taken[spec])["median"] / rate, 3),
        }
        for spec, (_, operations, parameters) in steps.items()
    },
)
