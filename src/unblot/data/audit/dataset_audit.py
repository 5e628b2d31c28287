"""The result of a data set's audit, in plain values."""

from dataclasses import asdict, dataclass
from typing import Any

from unblot.data.audit.captions import CaptionAudit


@dataclass(frozen=True)
class DatasetAudit:
    """The result of a data set's audit, in plain values.

    count, distinct: number of pictures with and without exact copies. shape: (C, H, W) after resizing, in the stored
    type dtype. train, held_out: number of pictures in each part. kinds, sizes: how many originals have each mode and
    size (files only). classes: number of pictures in each. channels: "low", "high", "mean" and standard "deviation" of
    the stored values of each. broken: (name, reason). constant: names of pictures of one value, or nearly. exact, near,
    flipped: groups of names of copies, None where they were not looked for. compared: number of pictures that were
    compared for near copies. turning: by turn, the ratio of the distance to the nearest other picture after and before
    it, 1 where it does no harm. notes: how the source was read. seconds: duration of a training with the default recipe
    on this machine, None if unknown. advice: plain sentences. captions: what they say, None where there are none.
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
    captions: CaptionAudit | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
