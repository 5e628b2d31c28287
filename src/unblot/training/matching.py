"""Which weights of one network have their place in another: by name, and within a tensor by what its entries stand for.

Channels are matched in runs of equal meaning: a layer that takes two maps side by side, or gives scale and shift, has
several runs of `width` channels, and of each the first ones are taken. Rows of a table are matched by name.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.config.schema import RunConfig
from unblot.nn.own import networks_for
from unblot.specs import parse
from unblot.text.encoder import TEXT_ENCODERS
from unblot.text.tokenizer import Tokenizer

ENTERING, LEAVING = ("enter", "conv_in"), ("leave", "conv_out", "join")  # parts that meet the picture
LABELS = ("network.embed_label.weight", "network.class_embedding.weight")
TOKENS, POSITIONS = "text_encoder.tokens", "text_encoder.positions"
UNLABELLED = "no label"  # what the last row of a table of labels is called
SHOWN = 6  # names of rows in a reason

Runs = list[int]  # sizes of the runs of channels that an axis of a tensor consists of, in order


class Side(NamedTuple):
    """What decides what the entries of a network's tensors stand for.

    shapes: of all tensors, by name. width, text: channels of a run in the network and in its text encoder, 0 where not
    known. channels: of the picture. laid_out: whether the network also sees a layout, with as many. each: entries that
    stand for one of them where the network meets the picture, 0 where not known. rows: what the rows of tables are
    called.
    """

    shapes: Mapping[str, torch.Size]
    width: int
    text: int
    channels: int
    laid_out: bool
    each: int
    rows: Mapping[str, Sequence[Hashable]]

    def runs(self, name: str, axis: int) -> Runs:
        """The runs of the first or second axis of a tensor; none where they are not known."""
        size, part = self.shapes[name][axis], name.split(".")[1]
        picture = self.channels * self.each
        if axis == 1 and (part == "embed_text" or name.endswith("key_value.weight")):
            return _equal(size, self.text)
        if name.startswith("layout."):
            return [size]
        if name.startswith("text_encoder."):
            return _equal(size, self.text)
        if part in ENTERING and axis == 1:
            layout = picture if self.laid_out else 0
            return [picture, size - picture - layout, layout] if picture else []  # between those of augmentation
        if part in LEAVING and axis == 0:
            return _equal(size, picture)
        return _equal(size, self.width)


class Match(NamedTuple):
    """Which entries of a tensor go where: for each axis their places in the source and in the new tensor.

    None where nothing fits; why: in words, "" for a tensor that is taken whole.
    """

    axes: list[tuple[Tensor, Tensor]] | None
    why: str


def side_of(config: RunConfig, shapes: Mapping[str, torch.Size]) -> Side:
    """The side of a run whose network has tensors of these shapes."""
    kind, options = parse(networks_for(config.train.network), config.train.network, "network")
    seen, text = config.x0_facts, config.data.text
    square = options["patch"] ** 2 if kind in ("unet", "dit") else 0
    each = {"ddpm_unet": 1, "mlp": seen.height * seen.width}.get(kind, square)
    rows: dict[str, Sequence[Hashable]] = dict.fromkeys(LABELS, labels_of(config))
    width, laid_out = 0, False
    if text is not None:
        encoder, chosen = parse(TEXT_ENCODERS, config.train.text_encoder, "text encoder")
        width, laid_out = chosen.get("width", 0), bool(chosen.get("layout"))
        if encoder == "transformer":
            rows |= {TOKENS: list(Tokenizer(text).vocabulary), POSITIONS: range(text.length)}
    return Side(shapes, options.get("width", 0), width, seen.channels, laid_out, each, rows)


def labels_of(config: RunConfig) -> list[Hashable]:
    """What the rows of a table of labels are called: classes by name; clusters are those of their data alone."""
    data = config.data
    clusters = [(data.fingerprint, len(data.clusters), i) for i in range(len(data.clusters))]
    return [*(data.classes or clusters), UNLABELLED]


def match(name: str, source: Side, new: Side) -> Match:
    """Which entries of the tensor `name` of the new network the source has."""
    if name not in source.shapes:
        return Match(None, "the source has none")
    there, here = source.shapes[name], new.shapes[name]
    if len(there) != len(here) or there[2:] != here[2:]:
        return Match(None, f"{_size(there)} there, {_size(here)} here")
    part = name.split(".")[1]
    if name.startswith("network.") and part in (*ENTERING, *LEAVING) and source.each != new.each:
        return Match(None, "squares of pixels, or pictures, of another size")
    if part == "time_embedding" and source.width != new.width and name.endswith("linear_1.weight"):
        return Match(None, "its frequencies follow from the width")
    axes, reasons = [], []
    for axis in range(len(here)):
        if axis == 0 and name in new.rows:
            pair, why = _by_name(source.rows[name], new.rows[name])
        elif there[axis] == here[axis]:
            pair, why = (torch.arange(here[axis]),) * 2, ""
        else:
            pair = _by_runs(source.runs(name, axis), new.runs(name, axis))
            why = _differing(source, new, part, axis) or f"{there[axis]} there, {here[axis]} here"
        if not len(pair[0]):
            return Match(None, why)
        axes.append(pair)
        reasons += [why] if why and why not in reasons else []
    return Match(axes, "; ".join(reasons))


@torch.no_grad()
def fill(new: Tensor, source: Tensor, axes: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copies the entries of the source that a match names to their places in the new tensor."""
    for axis, (there, _) in enumerate(axes):
        source = source.index_select(axis, there)
    places = [here.view(-1, *[1] * (len(axes) - 1 - axis)) for axis, (_, here) in enumerate(axes)]
    new[tuple(places)] = source.to(new)


def _equal(size: int, run: int) -> Runs:
    """Runs of equal size, and what is left."""
    return [run] * (size // run) + [size % run] * (size % run > 0) if run else []


def _by_runs(there: Runs, here: Runs) -> tuple[Tensor, Tensor]:
    """The places of the first entries of each run in both."""
    pairs: list[tuple[Tensor, Tensor]] = []
    at, to = 0, 0
    for a, b in zip(there, here):
        first = torch.arange(min(a, b))
        pairs.append((at + first, to + first))
        at, to = at + a, to + b
    none = torch.arange(0)
    return torch.cat([a for a, _ in pairs] or [none]), torch.cat([b for _, b in pairs] or [none])


def _by_name(there: Sequence[Hashable], here: Sequence[Hashable]) -> tuple[tuple[Tensor, Tensor], str]:
    """The places of the rows that both sides have, and which rows those are, in words."""
    known = {name: i for i, name in enumerate(there)}
    pairs = torch.tensor([(known[name], i) for i, name in enumerate(here) if name in known], dtype=torch.long)
    found = [name for name in here if name in known]
    if len(found) == len(here):
        return (pairs[:, 0], pairs[:, 1]), ""
    names = [str(name) for name in found if isinstance(name, str) and not name.startswith(" ")]
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    places = pairs.view(-1, 2)
    return (places[:, 0], places[:, 1]), f"{len(found)} of {len(here)} rows" + (f": {shown}" if shown else "")


def _differing(source: Side, new: Side, part: str, axis: int) -> str:
    """What of the two sides makes an axis of a tensor differ, in words."""
    if (part in ENTERING and axis == 1) or (part in LEAVING and axis == 0) or source.width == new.width:
        return f"channels {source.channels} there, {new.channels} here" if source.channels != new.channels else ""
    return f"width {source.width} there, {new.width} here"


def _size(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "one number"
