"""One picture file to an array of its own values."""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from unblot.errors import UnblotError


def decode(data: bytes) -> np.ndarray:
    """The values (C, H, W) of a picture file's bytes. Raises UnblotError with the reason where it is broken."""
    if not data:
        raise UnblotError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture: Image.Image = Image.open(io.BytesIO(data))
            if picture.mode not in ("L", "RGB", "RGBA"):
                picture = picture.convert("RGB")
            array = np.asarray(picture)
    except UnidentifiedImageError:
        raise UnblotError("this is no picture") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnblotError(str(error)) from None
    return np.ascontiguousarray(array.transpose(2, 0, 1)) if array.ndim == 3 else array[None]
