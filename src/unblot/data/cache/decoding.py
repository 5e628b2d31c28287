"""Pictures decoded into the rows of a dataset cache, with a result for each."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from unblot.data.image_spec import Colourful, ImageOptions, ImageSpec, conform
from unblot.data.readers.listing import Item, Listing, PassingFailure, failure
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


def opacity_settled(listing: Listing, options: ImageOptions) -> Listing:
    """The listing, of whose array it is settled whether its last channel is opacity, with a note.

    An array of two or four channels does not say whether the last one is opacity, near infrared or a mask. Read as
    opacity it would change the colours where it is 0, so that it is so only where the options speak of colours.
    """
    array = listing.array
    if array is None or array.alpha is not None:
        return listing
    possible = array.shape[1] in (2, 4) and array.dtype.kind == "u"
    alpha = possible and bool(options.colour or options.background)
    last = f"the last of {array.shape[1]} channels is read"
    note = (
        f"{last} as opacity; without the options colour and background it is a channel like the others"
        if alpha
        else f"{last} as a channel like the others; if it is opacity, give the option colour the value rgba"
    )
    notes = (*listing.notes, note) if possible else listing.notes
    return replace(listing, array=replace(array, alpha=alpha), notes=notes)


def decode_array(start: int, array: np.ndarray, alpha: bool | None, spec: ImageSpec) -> tuple[np.ndarray, Decoded]:
    """Pictures (n, C, H, W) from an array, brought to the spec, zeros for broken ones; and their result.

    alpha: whether the last channel is opacity.
    """
    if array.shape[1:] == (spec.channels, spec.height, spec.width) and array.dtype.kind in "biu" and not spec.alpha:
        return array, Decoded(start, [digest(row) for row in array], [], {})
    rows = np.zeros((len(array), spec.channels, spec.height, spec.width), spec.dtype)
    result = Decoded(start, [0] * len(array), [], {})
    for i, picture in enumerate(array):
        try:
            rows[i] = conform(picture, bool(alpha), spec)
            result.digests[i] = digest(rows[i])
        except UnblotError as error:
            result.broken.append((start + i, str(error)))
    return rows, result
