"""The map from stored values to the network's range, and its exact inverse."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from unblot.errors import UnblotError

EXACT = 2**53  # whole numbers up to here are exact in float64
CHUNK_VALUES = 1_000_000  # values of the data processed together, which bounds the memory
NEAR = 0.01  # of the scale: the offset of float64 is this near to the mean


@dataclass(frozen=True)
class ValueMap:
    """x = (stored − offset) / scale, per channel: stored values to the network's range and back.

    Whole numbers and truth values are bounded: 8-bit types map their full range to [−1, 1], wider ones the range
    found in the data, and decoding rounds and clips to the type. Floats get mean 0 and a standard deviation of about
    ½, and decoding neither rounds nor clips them: units and range are kept.

    dtype: numpy's name of the stored type. offset, scale: one number a channel, in stored units. alpha: whether the
    last channel is opacity.
    """

    dtype: str
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    alpha: bool = False

    @property
    def bounded(self) -> bool:
        """Whether the stored type has limits, to which decoding rounds and clips."""
        return np.dtype(self.dtype).kind in "biu"

    @property
    def channels(self) -> int:
        """The number of channels."""
        return len(self.offset)

    def encode(self, stored: np.ndarray, dtype: npt.DTypeLike = np.float64) -> np.ndarray:
        """Network values (..., C, H, W) for stored values of the same shape.

        In float64 (the default) `decode` gives the stored values back exactly to 1 ulp. Where `dtype` cannot
        hold the stored values, as float32 those of 32-bit whole numbers, it is computed in float64.
        """
        exact = np.result_type(stored.dtype, dtype)
        offset, scale = self._columns(stored, exact)
        return ((stored.astype(exact) - offset) / scale).astype(dtype, copy=False)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Stored values (..., C, H, W) for network values of the same shape; rounded if bounded.

        Values beyond the type's finite range are clipped to it. Raises UnblotError for NaN and infinity.
        """
        offset, scale = self._columns(x, np.dtype(np.float64))
        if wrong := x.size - int(np.isfinite(x).sum()):
            raise UnblotError(
                f"{wrong} of {x.size} values are NaN or infinite and cannot become {self.dtype}: the model's weights "
                "are damaged, its training diverged, or guidance is too strong"
            )
        with np.errstate(over="ignore"):
            stored = x.astype(np.float64) * scale + offset
        if not self.bounded:
            limits = np.finfo(self.dtype)
            return np.clip(stored, limits.min, limits.max).astype(self.dtype)
        low, high = _limits(self.dtype)
        return np.clip(np.rint(stored), low, high).astype(self.dtype)

    def ends(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The network values of the least and the largest stored value, each (C, 1, 1); None where there are none."""
        if not self.bounded:
            return None
        low, high = (self.encode(np.full((self.channels, 1, 1), end, self.dtype)) for end in _limits(self.dtype))
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, whose repr of a float64 is exact."""
        return {"dtype": self.dtype, "offset": list(self.offset), "scale": list(self.scale), "alpha": self.alpha}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """The map that `to_dict` described; as in every stored file, a missing key takes the field's default."""
        return cls(plain["dtype"], tuple(plain["offset"]), tuple(plain["scale"]), plain.get("alpha", cls.alpha))

    def _columns(self, pictures: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Offset and scale shaped (C, 1, 1), after checking that the pictures have these channels."""
        if pictures.ndim < 3 or pictures.shape[-3] != self.channels:
            raise UnblotError(f"pictures of shape {pictures.shape} do not have {self.channels} channels")
        offset, scale = (np.array(v, dtype).reshape(-1, 1, 1) for v in (self.offset, self.scale))
        return offset, scale


class Rows(Protocol):
    """Pictures (N, C, H, W), an array or a file read in slices."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __getitem__(self, index: slice, /) -> np.ndarray: ...


def fit(pictures: Rows, alpha: bool = False) -> ValueMap:
    """The value map for pictures (N, C, H, W) of any whole-number, truth or float type, in bounded memory.

    alpha: whether their last channel is opacity. Raises UnblotError for other types, for values that are not finite
    and for whole numbers beyond 2**53.
    """
    dtype, channels = pictures.dtype, pictures.shape[1]
    if dtype.kind in "biu" and dtype.itemsize == 1:
        low, high = _limits(dtype.name)
        return ValueMap(dtype.name, ((low + high) / 2,) * channels, ((high - low) / 2,) * channels, alpha)
    if dtype.kind in "iu":
        return replace(_fit_range(pictures), alpha=alpha)
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return replace(_fit_float(pictures), alpha=alpha)
    raise UnblotError(f"pictures of type {dtype} cannot be used; give whole numbers or floats of up to 64 bits")


def _fit_range(pictures: Rows) -> ValueMap:
    """Maps each channel's range in the data to [−1, 1]: 12-bit pictures in a 16-bit type fill it."""
    low = np.min([part.min(axis=(0, 2, 3)) for part in _parts(pictures)], axis=0).tolist()
    high = np.max([part.max(axis=(0, 2, 3)) for part in _parts(pictures)], axis=0).tolist()
    if min(low) < -EXACT or max(high) > EXACT:
        raise UnblotError(f"values of {min(low)}…{max(high)} are beyond ±2**53; scale the pictures down first")
    offset = tuple((a + b) / 2 for a, b in zip(low, high))
    scale = tuple((b - a) / 2 or 1.0 for a, b in zip(low, high))
    return ValueMap(pictures.dtype.name, offset, scale)


def _fit_float(pictures: Rows) -> ValueMap:
    """Maps each channel to mean 0 and a standard deviation of about ½.

    Dividing and multiplying by a scale of the form 2**i + 2**j gives back every number of up to 52 bits (Goldberg
    1991, "What every computer scientist should know about floating-point arithmetic", theorem 7), so that only
    subtracting the offset can round. Where that loses more than the last bit of a value (1e-12 beside 300, for
    example), the channel keeps its mean and is only scaled.
    """
    name = pictures.dtype.name
    count = math.prod(pictures.shape) / pictures.shape[1]
    mean = sum(part.sum(axis=(0, 2, 3), dtype=np.float64) for part in _parts(pictures)) / count
    if not np.isfinite(mean).all():
        raise UnblotError("some values are not finite (NaN or infinity); leave those pictures out or fill them")
    centre = mean.astype(np.float32).astype(np.float64)  # few bits, so that the difference is mostly exact
    if pictures.dtype.itemsize == 8:  # too far beside values in a narrow range, where any difference is exact
        centre = np.where(np.abs(centre - mean) <= NEAR * np.array(_scales(pictures, mean, count)), centre, mean)
    centred = ValueMap(name, tuple(centre.tolist()), _scales(pictures, centre, count))
    worst = np.max([_errors_in_ulp(centred, part) for part in _parts(pictures)], axis=0)
    mean = np.where(worst <= 1, centre, 0.0)
    return ValueMap(name, tuple(mean.tolist()), _scales(pictures, mean, count))


def _scales(pictures: Rows, mean: np.ndarray, count: float) -> tuple[float, ...]:
    """Per channel the number 2**i + 2**j nearest to twice the rms distance from `mean`; 1 if that is 0."""
    column = mean.reshape(-1, 1, 1)
    square = sum(np.square(p.astype(np.float64) - column).sum(axis=(0, 2, 3)) for p in _parts(pictures)) / count
    return tuple(_two_bits(2 * math.sqrt(s)) if s > 0 else 1.0 for s in square)


def _two_bits(x: float) -> float:
    """The number of the form 2**i, 2**i·(1 + ½, ¼ or ⅛) nearest to x > 0."""
    fraction, exponent = math.frexp(x)
    return math.ldexp(min((0.5, 0.5625, 0.625, 0.75, 1.0), key=lambda f: abs(f - fraction)), exponent)


def _errors_in_ulp(values: ValueMap, stored: np.ndarray) -> np.ndarray:
    """Each channel's largest error of decode(encode(stored)), in units in the last place of the stored value."""
    error = np.abs(values.decode(values.encode(stored)).astype(np.float64) - stored.astype(np.float64))
    below = np.nextafter(np.finfo(stored.dtype).max, stored.dtype.type(0))  # spacing overflows at the largest number
    return (error / np.abs(np.spacing(np.clip(stored, -below, below))).astype(np.float64)).max(axis=(0, 2, 3))


def in_parts(count: int, shape: Sequence[int]) -> Iterator[slice]:
    """Slices of `count` things of a shape, one after another, each of at most CHUNK_VALUES values or one thing."""
    step = max(1, CHUNK_VALUES // max(1, math.prod(shape)))
    return (slice(i, min(i + step, count)) for i in range(0, count, step))


def _parts(pictures: Rows) -> Iterator[np.ndarray]:
    """The pictures in consecutive parts."""
    return (pictures[part] for part in in_parts(pictures.shape[0], pictures.shape[1:]))


def _limits(dtype: str) -> tuple[int, int]:
    """The smallest and the largest value of a bounded type, within what float64 holds exactly."""
    if dtype == "bool":
        return 0, 1
    info = np.iinfo(dtype)
    return max(int(info.min), -EXACT), min(int(info.max), EXACT)
