"""What the built-in scenes of shapes are made of."""

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "ring")
COLOURS = {
    "red": (214, 34, 34),
    "orange": (250, 140, 10),
    "yellow": (250, 225, 40),
    "green": (30, 150, 50),
    "blue": (30, 70, 220),
    "purple": (140, 40, 180),
    "white": (250, 250, 250),
    "black": (14, 14, 14),
}
SIZES = {"small": 0.24, "medium": 0.34, "large": 0.44}  # diameters, as a share of the picture's side
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}
GROUNDS = ("plain", "striped", "checked", "dotted")
BROADER = {"square": 0.88, "triangle": 1.2, "star": 1.12}  # what makes a shape look as large as a circle


@dataclass(frozen=True)
class Thing:
    """One shape. x, y: its centre, from 0 (left, top) to 1. rgb: its very colour, near that of its name."""

    colour: str
    shape: str
    size: str
    x: float = 0.5
    y: float = 0.5
    rgb: tuple[int, int, int] = (0, 0, 0)

    @property
    def radius(self) -> float:
        """Of the circle round it (of a square: half its side), as a share of the picture's side."""
        return SIZES[self.size] * BROADER.get(self.shape, 1.0) / 2


@dataclass(frozen=True)
class Scene:
    """One or two shapes on a ground.

    relation: where the first is seen from the second, a key of OPPOSITES; "" for one shape. ground: one of GROUNDS.
    tones: the two colours of the ground. angle: of its pattern, in quarters of a turn. phrasing: chooses the captions.
    """

    things: tuple[Thing, ...]
    relation: str = ""
    ground: str = "plain"
    tones: tuple[tuple[int, int, int], tuple[int, int, int]] = ((128, 128, 128), (128, 128, 128))
    angle: float = 0.0
    phrasing: int = 0

    @property
    def alike(self) -> bool:
        """Whether there are two shapes of one colour and size."""
        first, last = self.things[0], self.things[-1]
        same = (first.colour, first.shape, first.size) == (last.colour, last.shape, last.size)
        return len(self.things) == 2 and same
