"""Pictures decoded into the rows of a dataset cache, with a result for each."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unblot.data.image_spec import Colourful, ImageSpec, conform
from unblot.data.readers.listing import Item, PassingFailure, failure
from unblot.data.readers.reading import Reader, reason_of
from unblot.data.split import digest
from unblot.errors import UnblotError


class Decoded(NamedTuple):
    """The result of decoding consecutive pictures, the first of which has index `start`.

    digests: of their values, 0 for broken ones. broken: (index, reason). kinds: how many of each kind and size of
    picture there were, as "8-bit RGB 640x480". colourful: whether colour was met where all was gray. passing: like
    broken, for reasons that are not in the file, so that another try may go well.
    """

    start: int
    digests: list[int]
    broken: list[tuple[int, str]]
    kinds: dict[str, int]
    colourful: bool = False
    passing: Sequence[tuple[int, str]] = ()


def decode_items(reader: Reader, start: int, items: list[Item], spec: ImageSpec) -> tuple[np.ndarray, Decoded]:
    """Pictures (n, C, H, W) of consecutive items, brought to the spec, zeros for broken ones; and their result."""
    rows = np.zeros((len(items), spec.channels, spec.height, spec.width), spec.dtype)
    result = Decoded(start, [0] * len(items), [], {})
    passing: list[tuple[int, str]] = []
    colourful = False
    at_least = 2 * max(spec.height, spec.width)
    for i, item in enumerate(items):
        try:
            picture = reader.open(item, at_least)
            kind = f"{picture.kind} {picture.width}x{picture.height}"
            rows[i] = conform(picture.values(), picture.alpha, spec)
            result.digests[i] = digest(rows[i])
            result.kinds[kind] = result.kinds.get(kind, 0) + 1
        except Colourful:
            colourful = True
        except Exception as error:  # decoders raise whatever they like; a broken picture must not stop the others
            found = error if isinstance(error, UnblotError) else failure(error, reason_of(error))
            where = passing if isinstance(found, PassingFailure) else result.broken
            where.append((start + i, str(found)))
    return rows, result._replace(colourful=colourful, passing=passing)


def decode_array(start: int, array: np.ndarray, spec: ImageSpec) -> tuple[np.ndarray, Decoded]:
    """Pictures (n, C, H, W) from an array, brought to the spec, zeros for broken ones; and their result."""
    if array.shape[1:] == (spec.channels, spec.height, spec.width) and array.dtype.kind in "biu" and not spec.alpha:
        return array, Decoded(start, [digest(row) for row in array], [], {})
    rows = np.zeros((len(array), spec.channels, spec.height, spec.width), spec.dtype)
    result = Decoded(start, [0] * len(array), [], {})
    alpha = array.shape[1] == 4 and array.dtype == np.uint8
    for i, picture in enumerate(array):
        try:
            rows[i] = conform(picture, alpha, spec)
            result.digests[i] = digest(rows[i])
        except UnblotError as error:
            result.broken.append((start + i, str(error)))
    return rows, result
