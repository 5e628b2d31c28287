"""The denoiser: from x_t, its noise level and what the picture shows to x0_hat."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.errors import UnblotError
from unblot.nn.autoencoder import Autoencoder
from unblot.process.levels import NoiseLevel, broadcast, log_noise_ratio, mix, norm, per_picture
from unblot.process.parameterizations import PARAMETERIZATIONS
from unblot.process.prior import Prior
from unblot.process.schedules import INDEX_EMBEDDINGS, Index, ddpm_index
from unblot.process.spectrum import Spectrum
from unblot.system.device import own_precision
from unblot.text.encoder import TextEncoder
from unblot.text.frozen import FrozenEncoder
from unblot.text.layout import Layout
from unblot.text.tokenizer import PAD


class Condition(NamedTuple):
    """Conditioning of a batch: class labels (B,) int64 and caption tokens (B, L) int64, each None if absent.

    text: (B, L, D), the encoded tokens, and layout: (B, C, h, w), what they say of the picture, if already computed.
    """

    label: Tensor | None = None
    tokens: Tensor | None = None
    text: Tensor | None = None
    layout: Tensor | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is neither label nor text."""
        return self.label is None and self.tokens is None

    def rows(self, part: slice | Tensor) -> "Condition":
        """The condition of some of the pictures."""
        return Condition(*(None if x is None else x[part] for x in self))

    def to(self, device: torch.device) -> "Condition":
        """The condition on the device."""
        return Condition(*(None if x is None else x.to(device) for x in self))


class Denoised(NamedTuple):
    """The estimate x0_hat, (B, C, H, W), and the learned reverse variance.

    variance_interpolation: (B, C, H, W) in [0, 1], between the posterior variance (0) and beta (1), in the logarithm
    (v of Nichol & Dhariwal 2021, eq. 15); None where the variance is not learned.
    """

    x0: Tensor
    variance_interpolation: Tensor | None = None


class Denoiser(nn.Module):
    """A network with its parameterization, `x0_hat = c_skip·x_t + c_out·F(c_in·x_t, level, condition)`.

    network: computes F; its `embeds` names the noise embedding that it takes: "log_noise_ratio", the default, which is
    log(sigma/alpha), or one of INDEX_EMBEDDINGS. parameterization: a name in PARAMETERIZATIONS. data_std: standard
    deviation of the data in the network's range. num_classes: labels are 0 … num_classes − 1, and num_classes is "no
    label"; 0 for a model without labels. augmentations: the number of augmentation parameters, which are further input
    channels of constant value; they are zeros in sampling (Karras et al. 2022, appendix F.2). learned_variance: the
    network has twice the output channels, the second half for the variance. spectrum: of the data, for c_skip, c_out
    and c_in of each frequency (with edm only). text_encoder: of a model that reads captions. layout: what it makes of
    them beforehand, further input channels as many as a picture has.

    index: of a level, for a network that embeds one of INDEX_EMBEDDINGS. autoencoder: of a model of latents, frozen;
    None where x0 is the picture itself. Raises UnblotError for a network with another `embeds`.
    """

    def __init__(
        self,
        network: nn.Module,
        parameterization: str,
        data_std: float = 1.0,
        num_classes: int = 0,
        augmentations: int = 0,
        learned_variance: bool = False,
        spectrum: Spectrum | None = None,
        text_encoder: TextEncoder | FrozenEncoder | None = None,
        index: Index = ddpm_index,
        layout: Layout | None = None,
    ):
        super().__init__()
        self.network = network
        self.text_encoder, self.layout = text_encoder, layout
        self.augmentations = augmentations
        self.learned_variance = learned_variance
        self.spectrum = spectrum
        self.num_classes = num_classes
        self.parameterization = PARAMETERIZATIONS[parameterization]
        self.data_std = data_std
        self.embed = _embedding(network, index)
        self.autoencoder: Autoencoder | None = None

    def prior(self, level: NoiseLevel) -> Prior:
        """What x_T is drawn from where sampling begins at this level ()."""
        return Prior(level, self.data_std, self.spectrum)

    def latents(self, pictures: Tensor) -> Tensor:
        """The x0 of pictures (B, C, H, W) in the network's range: they themselves, or their latents.

        An autoencoder computes in the precision of what it is given, also in mixed precision.
        """
        with torch.no_grad(), own_precision(pictures):
            return pictures if self.autoencoder is None else self.autoencoder.encode(pictures)

    def pictures(self, x0: Tensor, size: tuple[int, int]) -> Tensor:
        """The pictures of x0, of this height and width, in the network's range: x0 itself, or its latents decoded.

        Computed in the precision of x0, as in `latents`.
        """
        with torch.no_grad(), own_precision(x0):
            return x0 if self.autoencoder is None else self.autoencoder.decode(x0, *size)

    def condition(self, label: Tensor | None = None, captions: Sequence[str] | None = None) -> Condition:
        """The condition of labels (B,) and captions, a text for each picture, on this denoiser's device.

        Either is None where there is none, and is left out where the denoiser does not know it.
        """
        device = next(self.parameters()).device
        known = None if label is None or not self.num_classes else label.to(device)
        return Condition(
            known, self.text_encoder.read(captions) if self.text_encoder and captions is not None else None
        )

    def unconditional(self, condition: Condition, negative: str = "") -> Condition:
        """No label and no text for as many pictures as the condition has, or a negative prompt instead of no text."""
        label, tokens = condition.label, condition.tokens
        if label is not None:
            label = torch.full_like(label, self.num_classes)
        if tokens is not None and self.text_encoder is not None:
            tokens = self.text_encoder.read([negative]).expand_as(tokens)
        return Condition(label, tokens)

    def encoded(self, condition: Condition | None) -> Condition:
        """The condition with its text encoded and laid out; "no text" is the same for all pictures, (1, L, D)."""
        condition = condition or Condition()
        if self.text_encoder is None or condition.text is not None:
            return condition
        tokens = self.text_encoder.read([""]) if condition.tokens is None else condition.tokens
        text = self.text_encoder(tokens)
        layout = None if self.layout is None else self.layout(text, _mask(tokens))
        return Condition(condition.label, tokens, text, layout)

    def network_conditioning(self, condition: Condition | None, count: int) -> list[Tensor | None]:
        """The network's conditioning arguments for `count` pictures.

        The label (count,) or None, and with a text encoder the text (count, L, D) and its mask (count, 1, 1, L).
        """
        label, tokens, text = self.encoded(condition)[:3]
        if tokens is None or text is None:
            return [label]
        return [label, text.expand(count, -1, -1), _mask(tokens).expand(count, -1, -1, -1)]

    @property
    def added_channels(self) -> int:
        """Channels of the network's input beside those of x_t."""
        return self.augmentations + (0 if self.layout is None else self.layout.channels)

    def output(
        self,
        x_t: Tensor,
        level: NoiseLevel,
        condition: Condition | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """The network's output F (B, C, H, W), for a level () or (B,) and augmentation parameters (B, K) or None.

        With a learned variance 2·C channels, of which the second half are the logits of `variance_interpolation`.
        """
        condition = self.encoded(condition)
        x = broadcast(1 / norm(level, self.data_std), x_t) * x_t
        seen = None if self.spectrum is None else self.spectrum.precondition(x, level, self.data_std)
        x = x if seen is None else seen.input.contiguous(memory_format=torch.channels_last)
        if self.augmentations:
            given = x.new_zeros(x.shape[0], self.augmentations) if augmentation is None else augmentation
            x = torch.cat([x, given[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        if condition.layout is not None:
            layout = F.interpolate(condition.layout.to(x.dtype) / self.data_std, size=x.shape[2:], mode="bilinear")
            x = torch.cat([x, layout.expand(x.shape[0], -1, -1, -1)], 1).contiguous(memory_format=torch.channels_last)
        output = self.network(x, per_picture(self.embed(level), x_t), *self.network_conditioning(condition, x.shape[0]))
        if seen is None:
            return output
        f, variance = output.to(x_t.dtype).tensor_split([x_t.shape[1]], 1)  # no variance channels: an empty tensor
        return torch.cat([seen.output(f), variance], 1)

    def forward(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None = None) -> Denoised:
        """x0_hat for x_t (B, C, H, W) at a level () or (B,); condition: None for no label and no text."""
        return self.to_denoised(self.output(x_t, level, condition), x_t, level)

    def to_denoised(self, output: Tensor, x_t: Tensor, level: NoiseLevel) -> Denoised:
        """Converts the network's output F for x_t to x0_hat and the learned variance."""
        c_skip, c_out = self.parameterization(level, self.data_std)
        output = output.to(x_t.dtype)  # mixed precision ends here
        if not self.learned_variance:
            return Denoised(mix(c_skip, x_t, c_out, output))
        f, logits = output.chunk(2, 1)
        return Denoised(mix(c_skip, x_t, c_out, f), torch.sigmoid(logits))


def _mask(tokens: Tensor) -> Tensor:
    """Where there are tokens (B, L), for attention to them: bool (B, 1, 1, L)."""
    return (tokens != PAD)[:, None, None]


def _embedding(network: nn.Module, index: Index) -> Index:
    """The function from a level to what the network embeds: log(sigma/alpha), or `index`."""
    embeds = getattr(network, "embeds", "log_noise_ratio")
    if embeds == "log_noise_ratio":
        return log_noise_ratio
    if embeds not in INDEX_EMBEDDINGS:
        names = ", ".join(["log_noise_ratio", *INDEX_EMBEDDINGS])
        raise UnblotError(f"the network's `embeds` is {str(embeds)[:80]!r}; choose one of {names}")
    return index
