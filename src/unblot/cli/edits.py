"""The kinds of edits at the command line, each with the flags of its own."""

from typing import Any

EDITS: dict[str, tuple[str, tuple[tuple[str, dict[str, Any]], ...]]] = {  # what it does, and flags of its own
    "inpaint": (
        "fill the masked part of a picture to fit the rest, which stays as it is",
        (("--mask", {"metavar": "FILE", "help": "white where the picture is new (default: the transparent pixels)"}),),
    ),
    "outpaint": (
        "continue a picture beyond its border; the picture stays as it is",
        tuple(
            (f"--{side}", {"type": int, "metavar": "N", "help": f"pixels to add on the {side}"})
            for side in ("left", "right", "top", "bottom")
        ),
    ),
    "upscale": (
        "make large pictures that reduce to a small one",
        (("--factor", {"type": int, "metavar": "N", "help": "first make pictures of the run's size N times smaller"}),),
    ),
    "colorize": ("give a gray picture colours (a picture in colour is made gray first)", ()),
    "img2img": (
        "start from a picture with noise added: coarse features stay, fine ones are new",
        (("--strength", {"type": float, "metavar": "SHARE", "help": "share of the steps, 0 to 1 (default: 0.5)"}),),
    ),
    "variations": (
        "make variations of a picture",
        (("--amount", {"type": float, "metavar": "SHARE", "help": "0 none, 1 another picture (default: 0.3)"}),),
    ),
    "interpolate": ("make pictures between two", ()),
    "reconstruct": ("find the noise of a picture, sample from it again, and measure the difference", ()),
}
