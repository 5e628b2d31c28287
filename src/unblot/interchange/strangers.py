"""What a file of weights is that cannot become a run: of another trainer, a part of a model, or unknown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from unblot.errors import UnblotError, printable
from unblot.interchange.pickled import read_pickled

PICKLED = {".pt", ".pth", ".ckpt", ".bin"}
WAY_OUT = "unblot imports a folder of diffusers with a UNet2DModel: its config.json and its weights"


def refuse_file(path: Path) -> None:
    """Raises UnblotError that says what this file is, and why it cannot be imported."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as f:
                names, ours = list(f.keys()), "unblot" in (f.metadata() or {})
        except (SafetensorError, ValueError, OSError) as e:
            raise UnblotError(f"{str(path)!r} is not a whole safetensors file ({e})") from None
        if ours:
            raise UnblotError(f"{str(path)!r} is a model of unblot already: unblot sample {path}")
        reason = reason_of(dict.fromkeys(names))
    elif path.suffix in PICKLED:
        reason = reason_of(read_pickled(path))
    else:
        reason = "a file of no kind that holds weights"
    raise UnblotError(f"{str(path)!r} is {reason}; {WAY_OUT}")


def reason_of(found: Mapping[Any, Any]) -> str:
    """What named tensors, or a checkpoint that holds some, are, and what unblot lacks for them."""
    names = [name for name in found if isinstance(name, str)]
    if any("lora" in name.lower() for name in names):
        return "a LoRA, an addition to another model's weights"
    if any(name.startswith(("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")) for name in names):
        return "a model of latents and texts, as Stable Diffusion"
    if {"model", "ema"} <= set(names):
        return (
            "a checkpoint of denoising-diffusion-pytorch, whose Unet has linear attention, RMS norms and a first "
            "convolution of 7x7, which no network here computes"
        )
    if "input_blocks.0.0.weight" in names:
        return f"a network of improved-diffusion or guided-diffusion, {_nichol(found)}"
    if "conv_in.weight" in names and "time_embedding.linear_1.weight" in names:
        return "the weights of a network of diffusers without the config.json that belongs to them"
    if "state_dict" in names:
        return "a checkpoint of a trainer that unblot does not know"
    shown = printable(", ".join(names[:3])[:80])
    return f"of a network that unblot does not know, with tensors such as {shown}" if names else "without named tensors"


def _nichol(found: Mapping[Any, Any]) -> str:
    """What a UNetModel of Nichol & Dhariwal has that ddpm_unet lacks, as far as its tensors' shapes tell."""
    shapes = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in found.items()}
    level, channels = shapes.get("middle_block.0.emb_layers.1.weight"), shapes.get("middle_block.0.out_layers.3.weight")
    first, last = shapes.get("input_blocks.0.0.weight"), shapes.get("out.2.weight")
    if level and channels and level[0] == 2 * channels[0]:
        return "whose blocks scale and shift their channels by the level, where those of ddpm_unet add to them"
    if first and last and len(first) > 1 and last[0] == 2 * first[1]:
        return "which learns its variance, in another form than any objective here"
    return "which does not say its number of attention heads; convert it to diffusers, whose config.json does"
