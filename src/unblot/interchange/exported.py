"""The denoiser of a run as other runtimes see it: plain tensors in, x0_hat out."""

import torch
from torch import Tensor, nn

from unblot.denoiser import Condition, Denoiser
from unblot.process.levels import NoiseLevel
from unblot.runs.run import Run


class PlainDenoiser(nn.Module):
    """x0_hat (B, C, H, W) of x_t (B, C, H, W) at a level, alpha and sigma (B,), float64, and what it shows.

    Then follow, as far as the run knows them, label (B,) int64 (the number of classes: no label) and tokens (B, L)
    int64.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, alpha: Tensor, sigma: Tensor, *shown: Tensor) -> Tensor:
        given = list(shown)
        label = given.pop(0) if self.denoiser.num_classes else None
        tokens = given.pop(0) if self.denoiser.text_encoder is not None else None
        return self.denoiser(x, NoiseLevel(alpha, sigma), Condition(label, tokens)).x0


def input_names(run: Run) -> list[str]:
    """The names of the inputs of `PlainDenoiser`, in order."""
    labelled, reads = run.config.data.num_labels > 0, run.denoiser.text_encoder is not None
    return ["x", "alpha", "sigma", *(["label"] if labelled else []), *(["tokens"] if reads else [])]


def examples(run: Run, n: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs of n pictures to compare with: noise of every size; labels and texts take turns, "none" is one."""
    denoiser, g = run.denoiser, torch.Generator().manual_seed(seed)
    share = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    alpha, sigma = torch.cos(share * torch.pi / 2), torch.sin(share * torch.pi / 2)
    x = torch.randn(n, *run.config.shape, generator=g)
    shown = [torch.arange(n) % (denoiser.num_classes + 1)] if denoiser.num_classes else []
    if denoiser.text_encoder is not None:
        assert run.config.data.text is not None
        words = run.config.data.text.words.split(" ")
        shown.append(denoiser.text_encoder.read([" ".join(words[: i % 4]) for i in range(n)]))
    return x, alpha, sigma, *shown
