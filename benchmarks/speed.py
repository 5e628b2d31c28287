"""How fast the networks train, and what share that is of the machine's own fp32 matrix-product rate.

Forward and backward of a batch, in turns with the matrix product. Counted are the operations of the convolutions and
matrix products of the network as written; a convolution that is computed by a faster algorithm (Winograd) can pass
100 %. `--peer` sets ddpm_unet beside diffusers' UNet2DModel of the same layers, alone and in a whole training step.
Usage: python benchmarks/speed.py [--size 32] [--channels 1] [--batch 64] [--peer] [NETWORK …]
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from measure import matrix_product, report, seconds, summary
from unblot import api
from unblot.config.schema import DataConfig
from unblot.data.dataset import open_data
from unblot.nn import NETWORKS
from unblot.specs import build
from unblot.training.trainer import Trainer, denoising_trainer

EQUAL = "ddpm_unet:width=32,multipliers=1-2-2,blocks=2,attention=1"  # 1.6 M parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["unet:width=64", "ddpm_unet:width=32"])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", action="store_true", help="compare ddpm_unet with diffusers' UNet2DModel as well")
    args = parser.parse_args()
    torch.manual_seed(0)
    product, product_operations = matrix_product()
    shape = (args.channels, args.size, args.size)
    networks = {spec: build(NETWORKS, spec, "network", shape[0], shape[0], shape[1:], 0) for spec in args.networks}
    steps = {spec: training_step(network, args.batch, shape) for spec, network in networks.items()}
    taken = seconds({"product": product, **steps}, args.rounds)
    rate = product_operations / summary(taken.pop("product"))["median"]
    report(
        batch=args.batch,
        picture=shape,
        rounds=args.rounds,
        matrix_product_gflops=round(rate / 1e9, 1),
        networks={
            spec: {
                "parameters": sum(p.numel() for p in networks[spec].parameters()),
                "pictures_per_second": round(args.batch / summary(taken[spec])["median"], 1),
                "step_seconds": summary(taken[spec]),
                "share_of_matrix_product_rate": round(operations_of(step) / summary(taken[spec])["median"] / rate, 3),
            }
            for spec, step in steps.items()
        },
        **(equal_networks(args.batch, args.rounds) if args.peer else {}),
    )


def training_step(network: nn.Module, batch: int, shape: tuple[int, int, int]) -> Callable[[], None]:
    """Forward and backward of one of this package's networks on a batch of pictures of this shape."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fill_zeros(network)
    x = torch.randn(batch, *shape).to(memory_format=torch.channels_last)
    noise = torch.linspace(-3, 3, batch) if network.embeds != "ddpm_index" else torch.arange(batch).float()

    def step() -> None:
        network.zero_grad()
        (network(x, noise, None) - x).square().mean().backward()

    return step


def fill_zeros(network: nn.Module) -> None:
    """Layers that start at zero would let gradients be zero too."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def operations_of(step: Callable[[], Any]) -> float:
    """Floating-point operations of a step's convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def equal_networks(batch: int = 64, rounds: int = 7) -> dict[str, Any]:
    """`ddpm_unet_vs_diffusers`: diffusers' seconds over ours for the same network (1.6 M parameters at 3x32x32).

    `network`: forward and backward. `step`: a whole training step, each with its own loss, optimiser and average, as
    their training script has it and as our engine does. Taken in turns; the median of the rounds' ratios.
    """
    from diffusers_loop import AS_DDPM, DiffusersLoop, unet

    def twin() -> nn.Module:
        return unet(3, 32, (32, 64, 64), **AS_DDPM)

    peer, shape = twin(), (3, 32, 32)
    ours = build(NETWORKS, EQUAL, "network", 3, 3, (32, 32), 0)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (ours, peer)]
    assert sizes[0] == sizes[1], sizes
    x, index = torch.randn(batch, *shape), torch.arange(batch)

    def peer_network() -> None:
        peer.zero_grad()
        (peer(x, index).sample - x).square().mean().backward()

    work: dict[str, Callable[[], Any]] = {
        "ours": training_step(ours, batch, shape),
        "theirs": peer_network,
        "our step": engine(batch, shape, preset="ddpm", network=EQUAL).take_step,
        "their step": DiffusersLoop(twin(), torch.randn(256, *shape), batch).step,
    }
    taken = seconds(work, rounds)
    return {
        "ddpm_unet_vs_diffusers": {
            "parameters": sizes[0],
            "batch": batch,
            "network": ratio(taken["theirs"], taken["ours"]),
            "step": ratio(taken["their step"], taken["our step"]),
        }
    }


def ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Median, least and most of the rounds' ratios."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {k: round(v, 3) for k, v in summary(ratios).items()} | {"seconds": round(statistics.median(ours), 4)}


def engine(batch: int, shape: tuple[int, int, int], **choices: Any) -> Trainer:
    """This package's engine on random pictures of this shape, its output layers not zero."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "data.npy")
        np.save(path, np.random.default_rng(0).integers(0, 256, (max(256, batch), *shape), np.uint8))
        dataset = open_data(path, held_out=0, cache=folder, options={"layout": "NCHW"})
        chosen = {"batch_size": batch, "steps": 1_000_000, **choices}
        trainer = denoising_trainer(api.plan_run(DataConfig(data=path, held_out=0), dataset, chosen), dataset)
    fill_zeros(trainer.denoiser)
    return trainer


if __name__ == "__main__":
    main()
