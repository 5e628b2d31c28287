"""Built-in captioned data: one or two coloured shapes on a ground, drawn from a seed, and what can be said of them.

Some combinations of colour and shape, and some shapes on one side of another, are LEFT_OUT: they never appear, so that
it can be tried whether a model draws from words what it never saw.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unblot.data.readers.listing import ArrayPictures, Captions, DataSource, Listing
from unblot.data.readers.shape_scenes import COLOURS, GROUNDS, OPPOSITES, SHAPES, SIZES, Scene, Thing
from unblot.data.readers.shape_words import SENTENCES
from unblot.errors import UnblotError, printable

__all__ = [
    "COLOURS",
    "GROUNDS",
    "LEFT_OUT",
    "OPPOSITES",
    "SHAPES",
    "SIZES",
    "Scene",
    "Thing",
    "captions",
    "render",
    "scenes",
]
REACH = {"triangle": 0.75**0.5, "star": np.cos(np.pi / 10)}  # of a shape to its sides, as a share of its radius
MARGIN, GAP = 0.01, 0.03  # free round the picture and between two shapes, as a share of its side
PAIR, TWINS = 0.5, 0.2  # share of scenes of two shapes, and among these of two shapes that are alike
MOST_SIDE = 1024


class LeftOut(NamedTuple):
    """What never appears: colours of shapes, and shapes of a colour on one side of another shape."""

    shapes: frozenset[tuple[str, str]]
    relations: frozenset[tuple[str, str, str]]


LEFT_OUT = LeftOut(
    frozenset(
        {("red", "star"), ("yellow", "circle"), ("green", "triangle"), ("blue", "ring"), ("purple", "square")},
    ),
    frozenset(
        {
            *(("red", "circle", "left"), ("orange", "triangle", "right"), ("blue", "square", "above")),
            *(("green", "ring", "below"), ("white", "star", "left"), ("black", "circle", "right")),
            *(("yellow", "square", "below"), ("purple", "triangle", "above")),
        }
    ),
)


def shapes(_: str, *, count: int = 32_000, size: int = 32, seed: int = 0, language: str = "en") -> DataSource:
    """Pictures (count, 3, size, size) uint8 of one or two shapes with captions; picture i follows from (seed, i)."""
    if count < 1 or not 8 <= size <= MOST_SIDE or seed < 0:
        at_most = f"count must be at least 1, size from 8 to {MOST_SIDE}, seed at least 0"
        raise UnblotError(f"shapes:count={count},size={size},seed={seed}: {at_most}")
    if language not in SENTENCES:
        raise UnblotError(f"shapes:language={printable(language)} is unknown; choose {' or '.join(SENTENCES)}")

    def load() -> Listing:
        drawn = scenes(seed, count)

        def rows(start: int, stop: int) -> np.ndarray:
            return np.stack([render(scene, size) for scene in drawn[start:stop]])

        array = ArrayPictures((count, 3, size, size), np.dtype(np.uint8), rows)
        return Listing(array=array, captions=Captions(tuple(captions(scene, language) for scene in drawn)))

    return DataSource("shapes", ["shapes", 1], lambda scratch: load())


def captions(scene: Scene, language: str = "en") -> tuple[str, ...]:
    """Two or three sentences about a scene, all true; the first names colour, shape and size of everything."""
    return SENTENCES[language](scene)


def scenes(seed: int, count: int, left_out: bool = True) -> list[Scene]:
    """Scenes 0 … count − 1 of a seed. left_out: False draws what is LEFT_OUT too, as often as the rest."""
    table = EVEN if left_out else np.full_like(EVEN, 1 / EVEN.size)
    return [_scene(np.random.default_rng([seed, i]), table, left_out) for i in range(count)]


def is_left_out(scene: Scene) -> bool:
    """Whether anything in a scene is LEFT_OUT."""
    if any((thing.colour, thing.shape) in LEFT_OUT.shapes for thing in scene.things):
        return True
    sides = zip(scene.things, (scene.relation, OPPOSITES.get(scene.relation, "")))
    return any((thing.colour, thing.shape, side) in LEFT_OUT.relations for thing, side in sides)


def _even() -> np.ndarray:
    """Probabilities (colours, shapes): 0 for what is left out, each colour and each shape equally likely (Sinkhorn)."""
    table = np.array([[(colour, shape) not in LEFT_OUT.shapes for shape in SHAPES] for colour in COLOURS], float)
    for _ in range(100):
        table /= table.sum(axis=0) * len(SHAPES)
        table /= table.sum(axis=1, keepdims=True) * len(COLOURS)
    return table / table.sum()


EVEN = _even()


def _scene(generator: np.random.Generator, table: np.ndarray, left_out: bool) -> Scene:
    """A scene of random shapes, those of the table's colours."""
    pair = bool(generator.random() < PAIR)
    twins = pair and bool(generator.random() < TWINS)
    relation = list(OPPOSITES)[generator.integers(4)] if pair else ""
    while True:
        first = _thing(generator, table)
        things = (first, first if twins else _thing(generator, table)) if pair else (first,)
        for chosen in (things, things[::-1]):  # the other way round, so that no shape gets rarer
            scene = Scene(chosen, relation)
            if not left_out or not is_left_out(scene):
                return _placed(generator, scene)


def _thing(generator: np.random.Generator, table: np.ndarray) -> Thing:
    """A shape of random size and of a colour with the probabilities of the table."""
    colour, shape = divmod(int(np.searchsorted(table.cumsum(), generator.random() * 0.999999)), len(SHAPES))
    return Thing(list(COLOURS)[colour], SHAPES[shape], list(SIZES)[generator.integers(len(SIZES))])


def _placed(generator: np.random.Generator, scene: Scene) -> Scene:
    """The scene with its shapes in random places, on a random ground."""
    halves = np.array([thing.radius * REACH.get(thing.shape, 1.0) for thing in scene.things])
    low = MARGIN + halves
    across = np.full(len(halves), generator.uniform(low.max(), 1 - low.max())) + generator.uniform(-0.05, 0.05)
    across = np.clip(across + generator.uniform(-0.04, 0.04, len(halves)), low, 1 - low)
    if len(halves) == 1:
        along = generator.uniform(low, 1 - low)
    else:
        slack = generator.dirichlet([1, 1, 1]) * (1 - 2 * MARGIN - GAP - 2 * halves.sum())
        along = np.array([MARGIN + slack[0] + halves[0], 1 - MARGIN - slack[2] - halves[1]])
    if scene.relation in ("right", "below"):
        along = 1 - along
    x, y = (across, along) if scene.relation in ("above", "below") else (along, across)
    placed = tuple(
        Thing(thing.colour, thing.shape, thing.size, float(a), float(b), _near(generator, COLOURS[thing.colour], 10))
        for thing, a, b in zip(scene.things, x, y)
    )
    tone = _near(generator, (int(generator.integers(112, 160)),) * 3, 12)
    step = int(generator.integers(16, 24)) * (1 if sum(tone) < 400 else -1)
    ground = GROUNDS[generator.integers(len(GROUNDS))]
    angle, phrasing = float(generator.integers(4)) / 2, int(generator.integers(2**16))
    red, green, blue = tone
    return Scene(placed, scene.relation, ground, (tone, (red + step, green + step, blue + step)), angle, phrasing)


def _near(generator: np.random.Generator, rgb: tuple[int, int, int], spread: int) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.array(rgb) + generator.integers(-spread, spread + 1, 3), 0, 255).tolist()
    return red, green, blue


def render(scene: Scene, size: int = 32) -> np.ndarray:
    """The picture (3, size, size) uint8 of a scene, its edges smoothed over one pixel."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = axis[None, :], axis[:, None]
    low, high = (np.array(tone, np.float32)[:, None, None] for tone in scene.tones)
    picture = low + (high - low) * _covered(_ground(scene, x, y), size)
    for thing in scene.things:
        cover = _covered(DISTANCES[thing.shape](x - thing.x, y - thing.y, thing.radius), size)
        picture = picture + (np.array(thing.rgb, np.float32)[:, None, None] - picture) * cover
    return np.rint(np.broadcast_to(picture, (3, size, size))).astype(np.uint8)


def _covered(distance: np.ndarray, size: int) -> np.ndarray:
    """The share of each pixel that lies within an outline, from the distance of its centre: negative inside."""
    return np.clip(0.5 - distance * size, 0, 1)


def _ground(scene: Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the second tone of a scene's ground."""
    if scene.ground == "plain":
        return np.ones((1, 1), np.float32)
    turn = scene.angle * np.pi / 2
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    waves = [np.abs((w * 4) % 1 - 0.5) / 4 - 1 / 16 for w in (u, v)]  # four periods, half of each inside
    if scene.ground == "striped":
        return waves[0]
    if scene.ground == "checked":
        return np.maximum(np.minimum(waves[0], waves[1]), -np.maximum(waves[0], waves[1]))
    return np.hypot(*(((w * 4) % 1 - 0.5) / 4 for w in (u, v))) - 0.06


def _star(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to a star of five points, one of them up, its box in the middle: to one edge, the others folded
    onto it."""
    y = y - radius * (1 - np.cos(np.pi / 5)) / 2
    sector = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    away = np.hypot(x, y)
    edge = 0.45 * np.array([np.cos(sector), np.sin(sector)]) - np.array([1, 0])  # from the point to the notch
    edge /= np.hypot(*edge)
    distance = (away * np.cos(angle) - radius) * edge[1] - away * np.sin(angle) * edge[0]
    return np.maximum(distance, away - radius)  # else a point seen from a pixel's distance would be long and thin


def _triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to a triangle of equal sides, which points up, its box in the middle."""
    y = y - radius / 4
    return np.maximum(y, np.abs(x) * np.sin(np.pi / 3) - y / 2) - radius / 2


DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "circle": lambda x, y, radius: np.hypot(x, y) - radius,
    "square": lambda x, y, radius: np.maximum(np.abs(x), np.abs(y)) - radius,
    "triangle": _triangle,
    "star": _star,
    "ring": lambda x, y, radius: np.abs(np.hypot(x, y) - 0.77 * radius) - 0.23 * radius,
}
