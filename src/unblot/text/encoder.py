"""The text encoder: a small transformer that reads tokens in both directions, trained with the denoiser."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.config.schema import TextFacts
from unblot.errors import UnblotError
from unblot.nn.layers import check_sizes, zeroed
from unblot.specs import parse
from unblot.text.frozen import Frozen, FrozenEncoder, FrozenTokenizer
from unblot.text.tokenizer import PAD, Tokenizer

HEAD = 32  # channels of an attention head


class TextEncoder(nn.Module):
    """Tokens (B, L) int64 -> a vector of each token in its text (B, L, width); that of the first sums the text up.

    width: channels, a multiple of 32. depth: blocks. Raises UnblotError for options out of range.
    """

    def __init__(self, facts: TextFacts, *, width: int = 128, depth: int = 2):
        super().__init__()
        check_sizes("text encoder", width=width, depth=depth)
        if width % HEAD:
            raise UnblotError(f"text encoder: width {width} is not a multiple of {HEAD}")
        self.tokenizer, self.width = Tokenizer(facts), width
        # The scale of the activations; with the usual 0.02 words are learned last.
        self.tokens = nn.Parameter(torch.randn(len(self.tokenizer), width))
        self.positions = nn.Parameter(torch.randn(facts.length, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        h = F.embedding(tokens, self.tokens) + self.positions
        mask = (tokens != PAD)[:, None, None]
        for block in self.blocks:
            h = block(h, mask)
        return _norm(h)

    def read(self, texts: Sequence[str]) -> Tensor:
        """The tokens (B, L) of texts, on the encoder's device."""
        return self.tokenizer(texts).to(self.tokens.device)


class Block(nn.Module):
    """Self-attention, then two layers, on (B, L, width), each added to its input; they add nothing at first.

    mask: bool (B, 1, 1, L), true where there is a token to attend to.
    """

    def __init__(self, width: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = zeroed(nn.Linear(width, width))
        self.widen, self.narrow = nn.Linear(width, 4 * width), zeroed(nn.Linear(4 * width, width))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(_norm(h)).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h + self.out(mixed.transpose(1, 2).flatten(2))
        return h + self.narrow(F.gelu(self.widen(_norm(h)), approximate="tanh"))


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


def _norm(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[-1:])
