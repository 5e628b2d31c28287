"""The text encoder: a small transformer that reads tokens in both directions, trained with the denoiser."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.config.schema import TextFacts
from unblot.errors import UnblotError
from unblot.nn.layers import channel_norm, check_sizes, zeroed
from unblot.specs import parse
from unblot.text.frozen import Frozen, FrozenEncoder, FrozenTokenizer
from unblot.text.tokenizer import PAD, Tokenizer

HEAD = 32  # channels of an attention head


class TextEncoder(nn.Module):
    """Tokens (B, L) int64 -> a vector of each token in its text (B, L, width); that of the first sums the text up.

    width: channels, a multiple of 32. depth: blocks. kernel: tokens side by side, an odd number, that the feed-forward
    layers of a block read. layout: squares along the longer side of a picture for which its mean is told, see `Layout`;
    0 for none. Raises UnblotError for options out of range.
    """

    def __init__(self, facts: TextFacts, *, width: int = 128, depth: int = 2, kernel: int = 1, layout: int = 0):
        super().__init__()
        check_sizes("text encoder", width=width, depth=depth, kernel=kernel, layout=layout)
        if width % HEAD:
            raise UnblotError(f"text encoder: width {width} is not a multiple of {HEAD}")
        if not kernel % 2:
            raise UnblotError(f"text encoder: kernel {kernel} is not odd: a token and as many on either side")
        self.tokenizer, self.width, self.squares = Tokenizer(facts), width, layout
        # The scale of the activations; with the usual 0.02 words are learned last.
        self.tokens = nn.Parameter(torch.randn(len(self.tokenizer), width))
        self.positions = nn.Parameter(torch.randn(facts.length, width))
        self.blocks = nn.ModuleList(Block(width, kernel) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        h = F.embedding(tokens, self.tokens) + self.positions
        mask = tokens != PAD
        for block in self.blocks:
            h = block(h, mask)
        return channel_norm(h)

    def read(self, texts: Sequence[str]) -> Tensor:
        """The tokens (B, L) of texts, on the encoder's device."""
        return self.tokenizer(texts).to(self.tokens.device)


class Block(nn.Module):
    """Self-attention, then two layers, on (B, L, width), each added to its input; they add nothing at first.

    kernel: tokens side by side that the first of the two layers reads, a convolution over the text (FastSpeech, Ren et
    al. 2019): so an adjective finds its noun at once, which attention must first learn for every pair of positions.
    mask: bool (B, L), true where there is a token.
    """

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = zeroed(nn.Linear(width, width))
        self.places = sorted(range(-(kernel // 2), kernel // 2 + 1), key=abs)
        self.widen, self.narrow = nn.Linear(kernel * width, 4 * width), zeroed(nn.Linear(4 * width, width))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(channel_norm(h)).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        h = h + self.out(mixed.transpose(1, 2).flatten(2))
        seen = self.with_neighbours(channel_norm(h) * mask[..., None])
        return h + self.narrow(F.gelu(self.widen(seen), approximate="tanh"))

    def with_neighbours(self, h: Tensor) -> Tensor:
        """Each token (B, L, width), then the one before and the one after it, and so on: (B, L, kernel·width).

        The token itself comes first: so an encoder of another kernel begins with what this one has learned of it.
        """
        length, side = h.shape[1], max(self.places)
        padded = F.pad(h, (0, 0, side, side))
        return torch.cat([padded[:, side + place :][:, :length] for place in self.places], -1)


def none(facts: TextFacts) -> None:
    """No text encoder: captions are not read."""
    return None


TEXT_ENCODERS: dict[str, Callable[..., TextEncoder | FrozenEncoder | None]] = {
    "transformer": TextEncoder,
    "transformers": FrozenEncoder,
    "none": none,
}


def tokenizer_of(spec: str, facts: TextFacts) -> Tokenizer | FrozenTokenizer:
    """How the text encoder of a spec reads a text."""
    name, options = parse(TEXT_ENCODERS, spec, "text encoder")
    if name == "transformers":
        return FrozenTokenizer(Frozen(options["model"], options["sha256"], options["size"]), facts.length)
    return Tokenizer(facts)
