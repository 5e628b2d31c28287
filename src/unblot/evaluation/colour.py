"""What networks that were trained on colour photographs are shown of pictures of any number of channels."""

from torch import Tensor


def in_colour(pictures: Tensor, alpha: bool) -> Tensor:
    """Pictures (B, C, H, W) in the network's range as three channels in 0 … 1, transparent ones laid over white.

    alpha: the last channel is opacity. Gray is repeated; of other numbers of colours some are not shown, see `unseen`.
    """
    seen = (pictures / 2 + 0.5).clamp(0, 1)
    if alpha:
        seen = seen[:, :-1] * seen[:, -1:] + 1 - seen[:, -1:]
    return seen[:, :3] if seen.shape[1] >= 3 else seen[:, :1].expand(-1, 3, -1, -1)


def unseen(channels: int, alpha: bool) -> str:
    """The channels that `in_colour` does not show, counted from 1: "channel 2", "channels 4 to 7"; "" for none."""
    first, last = 2 if channels - alpha == 2 else 4, channels - alpha
    return "" if first > last else f"channel {first}" if first == last else f"channels {first} to {last}"
