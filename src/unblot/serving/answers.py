"""What clients get: the pictures as PNG, NPY or JSON, as their Accept header asks, and errors in one line."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi.responses import JSONResponse
from PIL import Image

from unblot.data.output import as_display, picture_bytes, picture_suffix
from unblot.data.values import ValueMap
from unblot.editing.result import EditResult
from unblot.runs.samples import Samples

PNG, NPY, JSON = "image/png", "application/x-npy", "application/json"
FILE_TYPES = {".png": PNG, ".npy": NPY, ".tif": "image/tiff"}


class Ascii(JSONResponse):
    """JSON in ASCII alone: text that is no valid Unicode, as a client may send it, is written as escapes."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False).encode("ascii")


@dataclass(frozen=True)
class Drawn:
    """Pictures (N, C, H, W), stored values, with what made each. sheet: makes one picture of all, to look at."""

    array: np.ndarray
    values: ValueMap
    about: list[dict[str, Any]]
    sheet: Callable[[], Image.Image]

    @classmethod
    def of(cls, result: Samples | EditResult) -> "Drawn":
        """The pictures of samples or of an edit."""
        if isinstance(result, Samples):
            about = [result.about(row) for row in range(len(result.array))]
            return cls(result.array, result.values, about, result.grid)
        array = result.array.reshape(-1, *result.array.shape[2:])
        return cls(array, result.values, [result.about_of(i) for i in range(len(array))], result.grid)


def accepted(accept: str) -> str | None:
    """The media type for an Accept header: the one with the highest quality, PNG before NPY before JSON; None for none.

    Of the ranges that fit a type the most specific one holds (RFC 9110, section 12.5.1).
    """
    ranges = []
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            ranges.append((media, float(quality)))
        except ValueError:
            continue

    def quality_of(kind: str) -> float:
        fits = (kind, kind.partition("/")[0] + "/*", "*/*")
        return next((q for fit in fits for media, q in ranges if media == fit), 0.0)

    best = max((PNG, NPY, JSON), key=quality_of)
    return best if quality_of(best) > 0 else None


def encoded(drawn: Drawn, kind: str) -> bytes:
    """The pictures as one body of this media type.

    PNG: of one picture the file that `unblot sample` writes, if that is a PNG; else a sheet to look at. NPY: (N, C, H,
    W). JSON: for each picture the file that `unblot sample` writes, in Base64, and what made it.
    """
    suffix = picture_suffix(drawn.array.shape[1], drawn.values)
    if kind == NPY:
        file = io.BytesIO()
        np.save(file, drawn.array, allow_pickle=False)
        return file.getvalue()
    if kind == PNG and len(drawn.array) == 1:
        if suffix == ".png":
            return picture_bytes(drawn.array[0], drawn.values, drawn.about[0])
        return _png(Image.fromarray(as_display(drawn.array, drawn.values)[0]))
    if kind == PNG:
        return _png(drawn.sheet())
    pictures = [
        {
            "about": about,
            "type": FILE_TYPES[suffix],
            "data": base64.b64encode(picture_bytes(picture, drawn.values, about)).decode("ascii"),
        }
        for picture, about in zip(drawn.array, drawn.about, strict=True)
    ]
    return json.dumps({"pictures": pictures}).encode("ascii")


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
