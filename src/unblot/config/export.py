"""The choices of `unblot export` and `unblot import`."""

from dataclasses import dataclass

from unblot.config.options import AS_THE_RUN, SPEC, Checked, option, spacing_option, steps_option


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Checked):
    """What a run is exported to. Fields that are None are taken from the run."""

    to: str = option(
        "onnx, torch for a program of torch.export, or diffusers for a pipeline of that library",
        "export",
        "WHAT",
        default="onnx",
    )
    raw: bool = option("the weights of the last step instead of their average", "export", default=False)
    half: bool = option("keep the weights in float16: half the size", "export", default=False)
    steps: int | None = steps_option("sampler beside it", AS_THE_RUN)
    spacing: str | None = spacing_option("sampler beside it", AS_THE_RUN)


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Checked):
    """What the checkpoint of a network of improved-diffusion or guided-diffusion does not say of itself."""

    size: str | None = option(
        "height and width of its pictures (image_size there)", "checkpoint", "N or HxW", default=None
    )
    heads: int | None = option(
        "number of its attention heads (num_heads there)", "checkpoint", "N", low=1, default=None
    )
    head_channels: int | None = option(
        "channels of an attention head instead (num_head_channels there)", "checkpoint", "N", low=1, default=None
    )
    new_attention_order: bool = option("it was trained with use_new_attention_order", "checkpoint", default=False)
    schedule: str | None = option(
        "its schedule, as cosine:steps=4000 (default: linear, 1000 betas)", "checkpoint", SPEC, default=None
    )
    own_timesteps: bool = option(
        "its network takes the indices of a schedule of other than 1000 steps as they are (rescale_timesteps False), "
        "not in thousandths",
        "checkpoint",
        default=False,
    )
