"""What was found out about a data set, in plain values."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DatasetAudit:
    """What was found out about a data set, in plain values.

    shape: (C, H, W) that the pictures were brought to, in the stored type dtype. kinds, sizes: counts of the
    originals' (files only). classes: pictures in each. channels: of each the smallest, largest and mean stored value
    and the standard deviation. broken: (name, reason). constant: names of pictures of one value, or nearly.
    exact, near, flipped: groups of names of copies; None where they were not looked for. compared: how many pictures
    near copies were looked for among. turning: how much farther from the others a mirrored or turned picture is,
    1 where turning does no harm. distinct: pictures without exact copies. notes: how the source was read.
    seconds: how long a training with the default recipe takes here, None if unknown. advice: plain sentences.
    """

    name: str
    count: int
    distinct: int
    shape: tuple[int, int, int]
    dtype: str
    train: int
    held_out: int
    kinds: dict[str, int]
    sizes: dict[str, int]
    classes: dict[str, int]
    channels: tuple[dict[str, float], ...]
    broken: tuple[tuple[str, str], ...]
    constant: tuple[str, ...]
    exact: tuple[tuple[str, ...], ...]
    near: tuple[tuple[str, ...], ...] | None
    flipped: tuple[tuple[str, ...], ...] | None
    compared: int
    turning: dict[str, float]
    notes: tuple[str, ...]
    seconds: float | None = None
    advice: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
