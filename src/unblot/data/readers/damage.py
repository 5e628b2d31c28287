"""Why a picture cannot be used: one line for whatever a decoder raises, and the limit of what is decoded."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from unblot.data.readers.listing import failure, max_bytes
from unblot.errors import UnblotError, one_line


def reason_of(error: BaseException, otherwise: str = "it is damaged or cut off") -> str:
    """One line that says why a picture cannot be used. otherwise: what a decoder's own exception means."""
    if isinstance(error, UnblotError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    message = one_line(error) or type(error).__name__
    return f"{otherwise} ({message})"


@contextmanager
def damage_in_one_line(otherwise: str = "it is damaged or cut off") -> Iterator[None]:
    """Within it every exception of a decoder becomes an UnblotError with the reason, or its kind PassingFailure.

    Decoders raise whatever they like: RuntimeError, struct.error, MemoryError, RecursionError, their own classes.
    """
    try:
        yield
    except UnblotError:
        raise
    except Exception as error:
        raise failure(error, reason_of(error, otherwise)) from None


def check_size(channels: int, height: int, width: int, dtype: str) -> None:
    """Raises UnblotError for a picture without pixels, or too large to be decoded.

    What counts are the bytes held at once: all values in their type, and one channel in float32 for resizing.
    """
    if min(channels, height, width) < 1:
        raise UnblotError(f"it has no pixels: {width}x{height}")
    check_bytes(height * width * (channels * np.dtype(dtype).itemsize + 4), f"its {width}x{height} pixels take")


def check_bytes(size: int, what: str) -> None:
    """Raises UnblotError for more bytes than one picture may take. what: "its pixels take"."""
    if size > (limit := max_bytes()):
        raise UnblotError(
            f"{what} {size / 1e6:.0f} MB of memory, more than the limit of {limit / 1e6:.0f} MB; "
            f"set UNBLOT_MAX_BYTES={size} to raise it"
        )
