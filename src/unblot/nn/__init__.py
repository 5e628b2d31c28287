"""Networks: plain modules from (x, noise, label, text) to an output of the picture's size; no diffusion in them."""

from collections.abc import Callable

from torch import nn

from unblot.nn.ddpm_unet import DDPMUNet
from unblot.nn.dit import DiT
from unblot.nn.mlp import MLP
from unblot.nn.unet import UNet

# Each is built from (channels, out_channels, size, num_classes) and its options. It is called with x (B, channels, H,
# W), noise (B,) in the unit that `embeds` names, and label (B,) int64 in 0 … num_classes (num_classes: no label) or
# None, and returns (B, out_channels, H, W). A network that `reads_text` is built with the channels of a text's vectors
# after num_classes, 0 for none, and called with text (B, L, those) and mask (B, 1, 1, L), true where there is a vector.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "ddpm_unet": DDPMUNet,
    "dit": DiT,
    "mlp": MLP,
}
