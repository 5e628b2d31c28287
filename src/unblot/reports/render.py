"""Pages from the templates beside this file: every value is escaped, and everything shown is inside the page."""

import base64
import io
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from unblot.data.output import as_display, grid, scatter
from unblot.data.values import ValueMap
from unblot.errors import printable


class Picture(NamedTuple):
    """A picture inside a page: `src` holds its PNG data; `width` and `height` in pixels."""

    src: str
    width: int
    height: int


def render(template: str, **values: Any) -> str:
    """The page that a template makes of these values. Always encodable as UTF-8."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    loader = PackageLoader("unblot.reports")
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: Any) -> Any:
    """A value of a template with everything that does not print, such as bidi controls, written as escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def embedded(picture: Image.Image) -> Picture:
    """A picture as PNG data for the `src` of an <img>."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    src = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return Picture(src, picture.width, picture.height)


def sheet(stored: np.ndarray, values: ValueMap, extent: float | None = None) -> Picture:
    """Pictures (N, C, H, W) in a grid, or points in the plane as a plot of the square of ±extent."""
    points = stored.shape[1:] == (2, 1, 1)
    return embedded(scatter(stored, size=512, extent=extent) if points else grid(stored, values))


def thumbnail(stored: np.ndarray, values: ValueMap, side: int = 96) -> Picture:
    """One picture (C, H, W): enlarged by whole pixels up to `side` pixels, or reduced to them."""
    shown = Image.fromarray(as_display(stored[None], values)[0])
    scale = max(1, side // max(shown.size))
    shown = shown.resize((shown.width * scale, shown.height * scale), Image.Resampling.NEAREST)
    shown.thumbnail((side, side))
    return embedded(shown)
