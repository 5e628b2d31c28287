"""The diffusers library's UNet2DModel in the loop of its unconditional training script, with that script's defaults."""

import torchvision_stand_in  # noqa: F401  # comes before diffusers

# isort: split

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from unblot.nn.ddpm_unet import suitable_groups


def unet(channels: int, size: int, widths: tuple[int, ...], attention: int = -2, **options: Any) -> UNet2DModel:
    """UNet2DModel with attention at one size, the last but one in its training script; `options` are its own.

    Groups of norms: the default's 32, fewer where under 4 channels a group would be left.
    """
    attended = [level == attention % len(widths) for level in range(len(widths))]
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=widths,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attended),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attended)),
        **{"norm_num_groups": suitable_groups(min(widths)), **options},
    )


AS_DDPM: dict[str, Any] = {  # how google/ddpm-cifar10-32 is configured, and with it this package's ddpm_unet
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}


class DiffusersLoop:
    """`step()` is one step of examples/unconditional_image_generation/train_unconditional.py, `average` its EMA.

    AdamW at 1e-4, warm-up and a cosine over 100 epochs, 1000 linear betas, eps-prediction, gradients
    clipped at 1. pictures: (N, C, H, W) in [-1, 1], from memory where the script reads files, to its advantage. bf16:
    its --mixed_precision. labels: (N,) for a model with class embeddings.
    """

    def __init__(
        self,
        model: nn.Module,
        pictures: Tensor,
        batch: int = 16,
        device: str = "cpu",
        bf16: bool = False,
        labels: Tensor | None = None,
        warmup: int = 500,
    ):
        self.model, self.batch, self.device, self.bf16 = model.to(device), batch, device, bf16
        self.noising = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        steps = 100 * -(-len(pictures) // batch)
        self.rates = get_scheduler("cosine", self.optimizer, num_warmup_steps=warmup, num_training_steps=steps)
        self.average = EMAModel(parameters, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
        self.pictures, self.labels, self.batches = pictures, labels, endless(len(pictures), batch)
        self.model.train()

    def step(self) -> None:
        """One step, with the loss read at its end, as the script logs it."""
        rows = next(self.batches)
        clean = self.pictures[rows].to(self.device)
        given = {} if self.labels is None else {"class_labels": self.labels[rows].to(self.device)}
        noise = torch.randn(clean.shape, device=self.device)
        timesteps = torch.randint(0, self.noising.config.num_train_timesteps, (len(clean),), device=self.device).long()
        noisy = self.noising.add_noise(clean, noise, timesteps)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            predicted = self.model(noisy, timesteps, **given).sample
        loss = mse_loss(predicted.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.rates.step()
        self.optimizer.zero_grad()
        self.average.step(self.model.parameters())
        loss.item()

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights by name."""
        names = [name for name, _ in self.model.named_parameters()]
        return {name: p.detach().clone().contiguous() for name, p in zip(names, self.average.shadow_params)}


def endless(count: int, batch: int) -> Iterator[Tensor]:
    """Batches of 0 … count − 1 in a new order on every pass; the last one of a pass is left out if it is not whole."""
    if count < batch:
        raise ValueError(f"{count} pictures are not a batch of {batch}")
    while True:
        order = torch.randperm(count)
        yield from (part for part in order.split(batch) if len(part) == batch)
