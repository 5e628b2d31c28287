"""Lines of text under pictures, in a font that has the letters."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS, LINE = 11, 14  # pixels: height of letters, and of a line
MOST_LINES = 3  # of one text; the rest is cut
INK, PAPER = (29, 31, 35), (255, 255, 255)
INSTALLED = (  # fonts with more letters than Pillow's own, tried by name where that one lacks some
    *("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "DejaVuSans.ttf"),
)


def fields(texts: Sequence[str], width: int) -> np.ndarray:
    """Each text on a white field of this width, (N, H, width, 3) uint8, H as the longest of them needs.

    A text has at most MOST_LINES lines; what is cut ends in an ellipsis. Letters that no font here has are left out.
    """
    written = [_lines(text, width - 2) for text in texts]
    height = LINE * max(len(lines) for lines, _ in written)
    made = []
    for lines, font in written:
        field = Image.new("RGB", (width, height), PAPER)
        ImageDraw.Draw(field).multiline_text((1, 0), "\n".join(lines), INK, font, spacing=LINE - LETTERS)
        made.append(np.asarray(field))
    return np.stack(made)


def _lines(text: str, width: int) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """The lines of a text, one at least, no wider than `width` pixels, and their font."""
    font = _font_for(text)
    left = " ".join("".join(c for c in text if c.isspace() or _has(font, c)).split())
    lines: list[str] = []
    while left and len(lines) < MOST_LINES:
        end = _fitting(left, width, font)
        if end < len(left) and len(lines) == MOST_LINES - 1:
            lines.append(left[: _fitting(left, width, font, "…")].rstrip() + "…")
            break
        if end < len(left) and (space := left.rfind(" ", 0, end + 1)) > 0:
            end = space
        lines.append(left[:end])
        left = left[end:].lstrip()
    return lines or [""], font


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont, after: str = "") -> int:
    """How many letters of a text, one at least, fit into the width with `after` behind them."""
    end = 1
    while end < len(text) and font.getlength(text[: end + 1] + after) <= width:
        end += 1
    return end


def _font_for(text: str) -> ImageFont.FreeTypeFont:
    """The first font that has every letter of the text; Pillow's own where none has."""
    own = _font("")
    assert own is not None
    named = (found for name in INSTALLED if (found := _font(name)) is not None)
    letters = {c for c in text if not c.isspace()}
    if all(_has(own, c) for c in letters):
        return own
    return next((font for font in named if all(_has(font, c) for c in letters)), own)


@cache
def _font(name: str) -> ImageFont.FreeTypeFont | None:
    """The font of this file name, Pillow's own for ""; None where it is not installed."""
    try:
        return ImageFont.truetype(name, LETTERS) if name else ImageFont.load_default(LETTERS)  # type: ignore[return-value]
    except OSError:
        return None


@cache
def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether the font draws something else for the letter than for one that no font has."""
    return bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))
