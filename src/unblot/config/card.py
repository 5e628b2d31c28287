"""The choices of `unblot card` and `unblot publish`."""

from dataclasses import dataclass

from unblot.config.options import Checked, device_option, option


@dataclass(frozen=True, kw_only=True)
class CardConfig(Checked):
    """What a model card says beyond what is known of the run."""

    license: str = option(
        "licence of the model as the hub names them, such as apache-2.0 or cc-by-4.0", "card", "NAME", default="unknown"
    )
    n: int = option("samples in the picture", "card", "N", low=1, high=400, default=16)
    seed: int = option("seed of the samples", "card", "N", low=0, default=0)
    device: str = device_option("card")
