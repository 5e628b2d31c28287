"""The kinds of edits: what each does, and the choices of its own beside those of `EditConfig`."""

from dataclasses import dataclass
from typing import NamedTuple

from unblot.config.options import Checked, option


@dataclass(frozen=True, kw_only=True)
class NoChoices(Checked):
    """A kind of edit without choices of its own."""


@dataclass(frozen=True, kw_only=True)
class InpaintChoices(Checked):
    """What is inpainted."""

    mask: str | None = option(
        "white where the picture is new (default: the transparent pixels)", "inpaint", "PATH", default=None
    )


@dataclass(frozen=True, kw_only=True)
class OutpaintChoices(Checked):
    """How far a picture is continued."""

    left: int = option("pixels to add on the left", "outpaint", "N", low=0, default=0)
    right: int = option("pixels to add on the right", "outpaint", "N", low=0, default=0)
    top: int = option("pixels to add on the top", "outpaint", "N", low=0, default=0)
    bottom: int = option("pixels to add on the bottom", "outpaint", "N", low=0, default=0)


@dataclass(frozen=True, kw_only=True)
class UpscaleChoices(Checked):
    """What is upscaled."""

    factor: int | None = option(
        "first make pictures of the run's size N times smaller", "upscale", "N", low=2, default=None
    )


@dataclass(frozen=True, kw_only=True)
class Img2imgChoices(Checked):
    """How much of a picture is drawn anew."""

    strength: float = option(
        "share of the steps, above 0: near 0 the picture itself, 1 a new one",
        "img2img",
        "SHARE",
        low=0,
        high=1,
        default=0.5,
    )


@dataclass(frozen=True, kw_only=True)
class VariationsChoices(Checked):
    """How far variations are from a picture."""

    amount: float = option(
        "how far from the picture, above 0: near 0 the picture itself, 1 another one",
        "variations",
        "SHARE",
        low=0,
        high=1,
        default=0.3,
    )


class Edit(NamedTuple):
    """What a kind of edit does, and the class of its own choices."""

    about: str
    choices: type = NoChoices


EDITS = {
    "inpaint": Edit("fill the masked part of a picture to fit the rest, which stays as it is", InpaintChoices),
    "outpaint": Edit("continue a picture beyond its border; the picture stays as it is", OutpaintChoices),
    "upscale": Edit("make large pictures that reduce to a small one", UpscaleChoices),
    "colorize": Edit("give a gray picture colours (a picture in colour is made gray first)"),
    "img2img": Edit("start from a picture with noise added: coarse features stay, fine ones are new", Img2imgChoices),
    "variations": Edit("make variations of a picture", VariationsChoices),
    "interpolate": Edit("make pictures between two"),
    "reconstruct": Edit("find the noise of a picture, sample from it again, and measure the difference"),
}
