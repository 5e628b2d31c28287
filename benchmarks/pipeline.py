"""Time for a picture: ours with few network calls, against diffusers' DDPM pipeline of 1000 steps on an equal network.

Both networks have the same layers and the same weights: ours is `ddpm_unet`, theirs UNet2DModel. The two sample batches
in turns. `--timed` steps of the pipeline's 1000 are timed, and counted up (its steps are all alike); 1000 times them
all. Usage: python benchmarks/pipeline.py [--nfe 10] [--solver unipc] [--batch 64] [--timed 50]
"""

import argparse

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from measure import report, seconds, summary
from unblot.denoiser import Denoiser
from unblot.nn import NETWORKS
from unblot.nn.ddpm_unet import suitable_groups
from unblot.sampling.batched import sample_batches
from unblot.specs import build

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--nfe", type=int, default=10)
parser.add_argument("--solver", default="unipc")
parser.add_argument("--size", type=int, default=28)
parser.add_argument("--channels", type=int, default=1)
parser.add_argument("--width", type=int, default=32)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--timed", type=int, default=50)
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()

torch.manual_seed(0)
shape = (args.channels, args.size, args.size)
spec = f"ddpm_unet:width={args.width},multipliers=1-2-2,blocks=2,attention=1"
ours = build(NETWORKS, spec, "network", args.channels, args.channels, shape[1:], 0)
theirs = UNet2DModel(
    sample_size=args.size,
    in_channels=args.channels,
    out_channels=args.channels,
    flip_sin_to_cos=False,
    freq_shift=1,
    downsample_padding=0,
    norm_eps=1e-6,
    norm_num_groups=suitable_groups(args.width),
    attention_head_dim=None,
    block_out_channels=[args.width, 2 * args.width, 2 * args.width],
    layers_per_block=2,
    down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
).eval()
ours.load_state_dict(theirs.state_dict())
denoiser = Denoiser(ours, "eps").to(memory_format=torch.channels_last).eval()
pipeline = DDPMPipeline(theirs, DDPMScheduler(num_train_timesteps=1000))
pipeline.set_progress_bar_config(disable=True)


def draw_ours() -> None:
    """A batch by our solver, from noise to x0."""
    how = {"schedule": "linear", "spacing": "log_snr", "solver": args.solver, "steps": args.nfe}
    list(sample_batches(denoiser, shape, range(args.batch), batch_size=args.batch, **how))


def draw_theirs() -> None:
    """A batch by the pipeline, in as many steps as are timed."""
    pipeline(batch_size=args.batch, num_inference_steps=args.timed, output_type="np")


taken = seconds({"ours": draw_ours, "theirs": draw_theirs}, args.rounds, warm_up=1)
ours_each = [s / args.batch for s in taken["ours"]]
theirs_each = [s / args.batch * 1000 / args.timed for s in taken["theirs"]]
report(
    picture=list(shape),
    network=spec,
    batch=args.batch,
    nfe=args.nfe,
    solver=args.solver,
    pipeline_steps_timed=args.timed,
    seconds_a_picture={"ours": summary(ours_each), "pipeline_of_1000": summary(theirs_each)},
    times_less=round(summary(theirs_each)["median"] / summary(ours_each)["median"], 1),
)
