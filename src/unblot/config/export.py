"""The choices of `unblot export`."""

from dataclasses import dataclass

from unblot.config.options import Checked, option, spacing_option, steps_option


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
    steps: int | None = steps_option("sampler beside it")
    spacing: str | None = spacing_option("sampler beside it")
