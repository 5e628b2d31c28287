"""What a file of weights is that cannot become a run: of another trainer, a part of a model, or unknown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open

from unblot.errors import UnblotError, printable
from unblot.interchange.pickled import read_pickled

PICKLED = {".pt", ".pth", ".ckpt", ".bin"}
WAY_OUT = (
    "unblot imports a folder of diffusers with a UNet2DModel, its config.json and its weights, or a checkpoint of "
    "improved-diffusion or guided-diffusion"
)


def refuse_file(path: Path) -> NoReturn:
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
    if {"state", "param_groups"} <= set(names):
        return "the state of an optimizer, without the weights of the network"
    if "conv_in.weight" in names and "time_embedding.linear_1.weight" in names:
        return "the weights of a network of diffusers without the config.json that belongs to them"
    if "state_dict" in names:
        return "a checkpoint of a trainer that unblot does not know"
    shown = printable(", ".join(names[:3])[:80])
    return f"of a network that unblot does not know, with tensors such as {shown}" if names else "without named tensors"
