"""Networks: plain modules from (x, noise, label) to an output of the picture's size, with no diffusion in them."""

from collections.abc import Callable

from torch import nn

from unblot.nn.ddpm_unet import DDPMUNet
from unblot.nn.dit import DiT
from unblot.nn.mlp import MLP
from unblot.nn.unet import UNet

# Each is called with (channels, out_channels, size, num_classes) and its options, and called then with
# x (B, channels, H, W), noise (B,) in the unit that its `embeds` names, label (B,) int64 in 0 … num_classes
# (num_classes: no label) or None. It gives (B, out_channels, H, W).
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "ddpm_unet": DDPMUNet,
    "dit": DiT,
    "mlp": MLP,
}
