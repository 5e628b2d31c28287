"""The colours behind full transparency, which nobody sees, and of what else is hidden: files hold anything there."""

import numpy as np
from PIL import Image


def continued(picture: np.ndarray) -> np.ndarray:
    """A picture (C, H, W), its last channel the opacity, whose invisible colours go on smoothly from the visible ones.

    Where opacity is 0 a file may hold anything: black, streaks, another picture. A network that had to draw it would
    lack the strength for what is seen. What is visible stays as it is; a picture without anything visible becomes 0.
    """
    hidden = picture[-1] == 0
    if not hidden.any():
        return picture
    opacity = picture[-1].astype(np.float32)
    smooth = filled(picture[:-1].astype(np.float32), opacity / max(float(opacity.max()), 1e-6))
    smooth = np.rint(smooth) if picture.dtype.kind in "iu" else smooth
    colours = np.where(hidden, smooth.astype(picture.dtype), picture[:-1])
    return np.concatenate([colours, picture[-1:]])


def filled(colours: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Colours (C, H, W), float32, whose hidden ones go on smoothly from the others; weight: (H, W), 0 (hidden) to 1.

    The less the weight of a colour, the more of it is from a map half as large, where every place has the weighted mean
    of its four: the push-pull of Gortler et al. 1996, section 3.4. Colours of weight 1 stay, those of weight 0 change
    nothing, and where all have weight 0 all become 0.
    """
    height, width = weight.shape
    colours = np.where(weight > 0, colours, 0)
    if height == width == 1:
        return colours
    odd = ((0, height % 2), (0, width % 2))
    weights = _fours(np.pad(weight, odd))
    sums = _fours(np.pad(colours * weight, ((0, 0), *odd)))
    means = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0)
    coarse = filled(means, np.minimum(weights, 1))
    size = (2 * coarse.shape[2], 2 * coarse.shape[1])
    fine = np.stack([np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BILINEAR)) for c in coarse])
    return colours * weight + fine[:, :height, :width] * (1 - weight)


def _fours(x: np.ndarray) -> np.ndarray:
    """The sum of each square of 2×2, (…, H, W) -> (…, H/2, W/2)."""
    return x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]
