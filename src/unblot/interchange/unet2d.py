"""UNet2DModel of the diffusers library as its config.json describes it, and the `ddpm_unet` that computes the same."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from unblot.errors import UnblotError, arg
from unblot.nn import NETWORKS
from unblot.nn.ddpm_unet import suitable_groups
from unblot.nn.layers import numbers
from unblot.specs import parse

CLASS = "UNet2DModel"
DOWN = {False: "DownBlock2D", True: "AttnDownBlock2D"}  # by whether it has attention
UP = {False: "UpBlock2D", True: "AttnUpBlock2D"}
EMBEDDINGS = {(False, 1): "ho", (True, 0): "nichol"}  # (flip_sin_to_cos, freq_shift) -> option embedding
FIXED: dict[str, tuple[Any, ...]] = {  # what the library can change, and `ddpm_unet` cannot: the values that are its
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "add_attention": (True,),
    "class_embed_type": (None,),
}
KEYS = {  # tensors of before 2023 were called otherwise
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


@dataclass(frozen=True)
class UNetConfig:
    """The options of UNet2DModel with the library's defaults, which a config.json may leave out."""

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture. Raises UnblotError where they are not given."""
        if self.sample_size is None:
            raise UnblotError("it has no sample_size, the height and width of the pictures; write them into it")
        return (self.sample_size, self.sample_size) if isinstance(self.sample_size, int) else self.sample_size


def unet_of(network: str, channels: int, size: tuple[int, int], num_labels: int) -> UNetConfig:
    """The UNet2DModel that computes what a `ddpm_unet` (a spec) for pictures of this size computes.

    Raises UnblotError for another network, and for a size that it pads.
    """
    name, options = parse(NETWORKS, network, "network")
    if name != "ddpm_unet":
        raise UnblotError(
            f"diffusers has no network that computes what {name!r} does; of ours ddpm_unet can be exported to it, and "
            f"each with {arg('to', 'onnx')}"
        )
    widths = [options["width"] * factor for factor in numbers("multipliers", options["multipliers"])]
    multiple = 2 ** (len(widths) - 1)
    if size[0] % multiple or size[1] % multiple:
        raise UnblotError(
            f"pictures of {size[0]}x{size[1]} are padded to a multiple of {multiple} within the network, which "
            f"{CLASS} cannot; train at such a size, or give {arg('to', 'onnx')}"
        )
    if options["resample"] != "conv":
        raise UnblotError(
            f"{CLASS} has no level that is left by a residual block, which this network has ("
            f"resample={options['resample']}); give {arg('to', 'onnx')}"
        )
    levels = range(len(widths))
    attended = [level in numbers("attention", options["attention"]) for level in levels]
    groups = options["groups"] or suitable_groups(options["width"])
    flip, shift = next(key for key, embedding in EMBEDDINGS.items() if embedding == options["embedding"])
    return UNetConfig(
        sample_size=size[0] if size[0] == size[1] else size,
        in_channels=channels,
        out_channels=channels,
        freq_shift=shift,
        flip_sin_to_cos=flip,
        down_block_types=tuple(DOWN[a] for a in attended),
        up_block_types=tuple(UP[a] for a in reversed(attended)),
        block_out_channels=tuple(widths),
        resnet_time_scale_shift="scale_shift" if options["scale_shift"] else "default",
        attn_norm_num_groups=groups if options["scale_shift"] else None,
        layers_per_block=options["blocks"],
        downsample_padding=int(options["symmetric"]),
        dropout=options["dropout"],
        attention_head_dim=_head(options, widths, attended),
        norm_num_groups=groups,
        norm_eps=options["eps"],
        num_class_embeds=num_labels + 1 if num_labels else None,
    )


def network_of(unet: UNetConfig, index: str) -> str:
    """The spec of the `ddpm_unet` that computes what a UNet2DModel does; index: its option of this name.

    Raises UnblotError, with the reason, where none does.
    """
    for name, values in FIXED.items():
        if (value := getattr(unet, name)) not in values:
            _refuse(name, value, values[0])
    widths = list(unet.block_out_channels)
    if not widths or min(widths) < 1 or len(unet.down_block_types) != len(widths):
        _refuse("block_out_channels", widths, "one positive number for each of down_block_types")
    attended = [block == DOWN[True] for block in unet.down_block_types]
    blocks = {"down_block_types": [DOWN[a] for a in attended], "up_block_types": [UP[a] for a in reversed(attended)]}
    for name, known in blocks.items():
        if list(getattr(unet, name)) != known:
            _refuse(name, list(getattr(unet, name)), known)
    if unet.out_channels != unet.in_channels:
        _refuse("out_channels", unet.out_channels, f"in_channels, {unet.in_channels}")
    if unet.time_embedding_dim not in (None, 4 * widths[0]):
        _refuse("time_embedding_dim", unet.time_embedding_dim, 4 * widths[0])
    scale_shift = unet.resnet_time_scale_shift == "scale_shift"
    # With scale_shift None means no norm before the attention in the middle.
    if unet.attn_norm_num_groups not in (unet.norm_num_groups, unet.norm_num_groups if scale_shift else None):
        _refuse("attn_norm_num_groups", unet.attn_norm_num_groups, f"norm_num_groups, {unet.norm_num_groups}")
    embedding = EMBEDDINGS.get((unet.flip_sin_to_cos, unet.freq_shift))
    if embedding is None:
        _refuse("freq_shift", unet.freq_shift, "1 without flip_sin_to_cos, 0 with it")
    width = math.gcd(*widths)
    options = {
        "width": width,
        "multipliers": "-".join(str(w // width) for w in widths),
        "blocks": unet.layers_per_block,
        "attention": "-".join(str(level) for level, attention in enumerate(attended) if attention),
        "dropout": unet.dropout,
        "groups": unet.norm_num_groups,
        "eps": unet.norm_eps,
        "head": unet.attention_head_dim or 0,
        "symmetric": bool(unet.downsample_padding),
        "scale_shift": scale_shift,
        "embedding": embedding,
        "index": index,
    }
    return "ddpm_unet:" + ",".join(f"{name}={value}" for name, value in options.items())


def renamed(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a UNet2DModel by their names of today."""
    found = {}
    for name, tensor in weights.items():
        for old, new in KEYS.items():
            name = name.replace(old, new) if "attentions." in name else name
        found[name] = tensor
    return found


def json_values(unet: UNetConfig) -> dict[str, Any]:
    """The options as plain JSON values, by name."""
    return dict(sorted(dataclasses.asdict(unet).items()))


def _head(options: Mapping[str, Any], widths: list[int], attended: list[bool]) -> int | None:
    """The channels of an attention head, None for all. Raises UnblotError where levels have heads of several sizes."""
    if not options["heads"]:
        return options["head"] or None
    heads = {width // options["heads"] for width, attention in zip(widths, attended, strict=True) if attention}
    heads.add(widths[-1] // options["heads"])  # that in the middle
    if len(heads) > 1:
        raise UnblotError(
            f"{CLASS} has attention heads of one size, and heads={options['heads']} makes them "
            f"{' and '.join(map(str, sorted(heads)))} channels here; give {arg('to', 'onnx')}"
        )
    return heads.pop()


def _refuse(name: str, value: Any, needed: Any) -> NoReturn:
    raise UnblotError(
        f"its {name} is {repr(value)[:200]}, and ddpm_unet, the only network here like it, needs {needed}"
    )
