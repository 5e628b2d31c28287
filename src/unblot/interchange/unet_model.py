"""UNetModel of improved-diffusion and guided-diffusion as its tensors describe it, and the `ddpm_unet` that computes
the same (Nichol & Dhariwal 2021; Dhariwal & Nichol 2021).

Its blocks stand in two lists, of equal length: input_blocks begin with a convolution, then follow, level by level, the
residual blocks and what halves the size; output_blocks go back, each level with one residual block more and what
doubles the size beside its last one. Attention follows a residual block within the same place of a list.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from unblot.errors import UnblotError, printable

FIRST, LAST, LABELS = "input_blocks.0.0.weight", "out.2.weight", "label_emb.weight"
GROUPS, EPS = 32, 1e-5  # of all its group norms
ENDS = {  # modules that are there once, and their names in `ddpm_unet`
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0", "qkv": "qkv"}  # qkv becomes to_q, to_k and to_v


class Heads(NamedTuple):
    """How channels are shared out among attention heads: their number or the channels of each, the other 0.

    split_first: whether an attention's channels are q, k and v of all heads, instead of q, k and v of each head.
    """

    number: int
    channels: int
    split_first: bool


class UNetModel(NamedTuple):
    """What the tensors say. channels: of a picture. labels: 0 for none. widths: channels of each level.

    attended: the levels with attention. blocks: residual blocks of a level going down. resample: of `ddpm_unet`.
    learned_variance: whether half of the output channels are for the variance.
    """

    channels: int
    labels: int
    widths: tuple[int, ...]
    attended: tuple[int, ...]
    blocks: int
    resample: str
    scale_shift: bool
    learned_variance: bool


def described(weights: Mapping[str, Tensor]) -> UNetModel:
    """What these tensors are. Raises UnblotError where they are no UNetModel that a network here computes."""
    (width, channels), outputs = _shape(weights, FIRST)[:2], _shape(weights, LAST)[0]
    if outputs not in (channels, 2 * channels):
        raise UnblotError(f"it takes {channels} channels and gives {outputs}; it does not draw pictures from noise")
    blocks, levels = _levels(weights)
    starts = [1 + level * (blocks + 1) for level in range(levels)]  # of each level in input_blocks
    widths = tuple(_shape(weights, f"input_blocks.{start}.0.out_layers.3.weight")[0] for start in starts)
    if widths[0] != width:
        raise UnblotError(f"its first level has {widths[0]} channels and its first convolution {width}, not the same")
    between = f"input_blocks.{blocks + 1}.0" if levels > 1 else ""
    if between and f"{between}.op.weight" not in weights and f"{between}.in_layers.2.weight" not in weights:
        raise UnblotError("it halves the size without a convolution, which no network here does")
    return UNetModel(
        channels=channels,
        labels=_shape(weights, LABELS)[0] if LABELS in weights else 0,
        widths=widths,
        attended=tuple(i for i, start in enumerate(starts) if f"input_blocks.{start}.1.qkv.weight" in weights),
        blocks=blocks,
        resample="block" if f"{between}.in_layers.2.weight" in weights else "conv",
        scale_shift=_shape(weights, "middle_block.0.emb_layers.1.weight")[0] == 2 * widths[-1],
        learned_variance=outputs == 2 * channels,
    )


def network_of(model: UNetModel, heads: Heads, index: str) -> str:
    """The spec of the `ddpm_unet` that computes what a UNetModel does; index: its option of this name."""
    width = math.gcd(*model.widths)
    options = {
        "width": width,
        "multipliers": "-".join(str(w // width) for w in model.widths),
        "blocks": model.blocks,
        "attention": "-".join(map(str, model.attended)),
        "groups": GROUPS,
        "eps": EPS,
        "head": heads.channels,
        "heads": heads.number,
        "symmetric": True,
        "resample": model.resample,
        "scale_shift": model.scale_shift,
        "embedding": "nichol",
        "index": index,
    }
    return "ddpm_unet:" + ",".join(f"{name}={value}" for name, value in options.items())


def renamed(weights: Mapping[str, Tensor], model: UNetModel, heads: Heads) -> dict[str, Tensor]:
    """The tensors by their names in `ddpm_unet`, float32, without those of the learned variance.

    Raises UnblotError for one that is missing, and for one that has no place there.
    """
    where, found = places(model), {}
    for module in where:
        if module != "label_emb" and not module.endswith(".skip_connection"):  # which not every network, block has
            for name in (f"{module}.weight", f"{module}.bias"):
                _have(weights, name)
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        if module not in where:
            raise UnblotError(f"it has {printable(name)[:80]!r}, for which no network here has a place")
        ours, tensor = where[module], tensor.float()
        if ours == "conv_out":
            tensor = tensor[: model.channels]
        if module.endswith((".qkv", ".proj_out")) and kind == "weight":
            if tensor.ndim != 3 or tensor.shape[2] != 1:
                raise UnblotError(f"its {printable(name)[:80]!r} has the shape {tuple(tensor.shape)}")
            tensor = tensor[:, :, 0]
        if module.endswith(".qkv"):
            for part, own in zip("qkv", _apart(tensor, heads), strict=True):
                found[f"{ours.removesuffix('qkv')}to_{part}.{kind}"] = own
        else:
            found[f"{ours}.{kind}"] = tensor
    return found


def places(model: UNetModel) -> dict[str, str]:
    """The modules of a UNetModel, and what each is called in `ddpm_unet`."""
    where, blocks, levels = dict(ENDS), model.blocks, len(model.widths)

    def put(theirs: str, ours: str, names: Mapping[str, str]) -> None:
        where.update({f"{theirs}.{name}": f"{ours}.{own}" for name, own in names.items()})

    def resampler(theirs: str, ours: str, convolution: str) -> None:
        put(theirs, ours, BLOCK if model.resample == "block" else {convolution: "conv"})

    put("middle_block.0", "mid_block.resnets.0", BLOCK)
    put("middle_block.1", "mid_block.attentions.0", ATTENTION)
    put("middle_block.2", "mid_block.resnets.1", BLOCK)
    for level in range(levels):
        start, up, attention = 1 + level * (blocks + 1), levels - 1 - level, level in model.attended
        for i in range(blocks):
            put(f"input_blocks.{start + i}.0", f"down_blocks.{level}.resnets.{i}", BLOCK)
            if attention:
                put(f"input_blocks.{start + i}.1", f"down_blocks.{level}.attentions.{i}", ATTENTION)
        for i in range(blocks + 1):
            put(f"output_blocks.{up * (blocks + 1) + i}.0", f"up_blocks.{up}.resnets.{i}", BLOCK)
            if attention:
                put(f"output_blocks.{up * (blocks + 1) + i}.1", f"up_blocks.{up}.attentions.{i}", ATTENTION)
        if level < levels - 1:
            resampler(f"input_blocks.{start + blocks}.0", f"down_blocks.{level}.downsamplers.0", "op")
        if level > 0:
            end = up * (blocks + 1) + blocks
            resampler(f"output_blocks.{end}.{1 + attention}", f"up_blocks.{up}.upsamplers.0", "conv")
    return where


def _levels(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """The residual blocks of a level going down, and the number of levels, as output_blocks tell by what doubles."""
    inputs, outputs = (
        {name.split(".")[1] for name in weights if name.startswith(f"{side}_blocks.")} for side in ("input", "output")
    )
    doubling = [
        place
        for place in range(len(outputs))
        for beside in (1, 2)
        for module in ("conv", "in_layers.2")
        if f"output_blocks.{place}.{beside}.{module}.weight" in weights
    ]
    blocks = (doubling[0] if doubling else len(outputs) - 1, len(doubling) + 1)
    if blocks[0] < 1 or not len(inputs) == len(outputs) == (blocks[0] + 1) * blocks[1]:
        raise UnblotError(
            f"its {len(inputs)} input_blocks and {len(outputs)} output_blocks are not levels of as many blocks each "
            "with a convolution between them"
        )
    return blocks


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The shape of a tensor of two axes or more. Raises UnblotError where there is none."""
    _have(weights, name)
    if weights[name].ndim < 2 or 0 in weights[name].shape:
        raise UnblotError(f"its {name!r} has the shape {tuple(weights[name].shape)}")
    return tuple(weights[name].shape)


def _have(weights: Mapping[str, Tensor], name: str) -> None:
    """Raises UnblotError where a tensor is missing."""
    if name not in weights:
        raise UnblotError(f"it has no tensor {name!r}")


def _apart(tensor: Tensor, heads: Heads) -> list[Tensor]:
    """The rows (3·C, …) of one attention that make q, k and v, as three tensors (C, …), head by head in each."""
    width = len(tensor) // 3
    number = heads.number or max(1, width // heads.channels)
    if len(tensor) % (3 * number) or (heads.channels and width % heads.channels):
        raise UnblotError(
            f"its {len(tensor)} channels of queries, keys and values are not shared out by {number} heads"
        )
    if heads.split_first:
        return list(tensor.chunk(3))
    return [part.flatten(0, 1) for part in tensor.unflatten(0, (number, 3, width // number)).unbind(1)]
