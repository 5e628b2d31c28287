"""Advice about a data set in plain sentences, warnings before training, and what makes training pointless."""

from collections.abc import Iterable, Mapping

from unblot.data.audit.captions import caption_advice
from unblot.data.audit.dataset_audit import DatasetAudit
from unblot.data.readers.listing import named
from unblot.errors import arg, counted

# How many distinct pictures are needed depends on their size and variety. For faces of 80x80 pixels a network memorizes
# a thousand, and two networks trained on disjoint sets of a hundred thousand give the same samples (Kadkhodaie et al.
# 2024, "Generalization in diffusion models arises from geometry-adaptive harmonic representations").
FEW, ENOUGH = 1000, 20_000
SMALL_CLASS = 50  # pictures that a class needs at least
MANY_COPIES = 0.05  # as a share of the set
MANY_FLAT = 0.05
COMPARABLE = 100  # pictures needed to judge whether turned ones look like the others
SAFE = 0.75  # least worth of a turned picture, as a share of a new one, with which augmentation is safe
TURNS = {"flip": "mirrored left to right", "flip_vertical": "mirrored top to bottom", "quarter": "rotated by a quarter"}


def pointless(distinct: int, count: int, flat: float, deviation: float) -> str:
    """Why nothing can be learnt from the data, "" where something can.

    distinct, count: number of pictures without and with exact copies. flat: the share of constant pictures. deviation:
    the standard deviation of all values in the network's range.
    """
    if count > 1 and distinct == 1:
        return f"all {count} pictures are the same; there is nothing to learn but that one"
    if flat == 1 and deviation < 1e-6:
        return "every picture is empty: all values are the same; look at the files, or at how they are read"
    return ""


def warnings(distinct: int, count: int, flat: float, classes: Mapping[str, int]) -> list[str]:
    """What the user should know before training, a sentence each. The arguments are those of `pointless`."""
    found = []
    if distinct < FEW:
        found.append(f"few distinct pictures ({distinct}): a long training memorizes them")
    if count - distinct > MANY_COPIES * count:
        found.append(f"{count - distinct} of {count} pictures are exact copies of others, which are memorized first")
    if flat > MANY_FLAT:
        found.append(f"{flat:.0%} of the pictures are constant (one value), and so will be about as many samples")
    small = [name for name, n in classes.items() if n < SMALL_CLASS]
    if small:
        found.append(f"{_some(small)}: fewer than {SMALL_CLASS} pictures, too few to learn a class from")
    return found


def advise(found: DatasetAudit) -> tuple[str, ...]:
    """Advice about an audited data set: broken files, size, number, copies, classes, augmentation, time, captions."""
    parts = (_broken, _size, _number, _copies, _classes, _flat, _turns, _time)
    said = [*(part(found) for part in parts), *caption_advice(found.captions, found.count)]
    return tuple(filter(None, said)) or ("No problems found.",)


def _broken(found: DatasetAudit) -> str:
    if not found.broken:
        return ""
    return (
        f"{counted(len(found.broken), 'file')} cannot be used. Repair or remove them, or train with "
        f"{arg('on_broken', 'skip')}."
    )


def _size(found: DatasetAudit) -> str:
    _, height, width = found.shape
    common = next(iter(found.sizes), "")
    if len(found.sizes) < 2 and common in ("", f"{width}x{height}"):
        return ""
    return (
        f"The originals have {counted(len(found.sizes), 'size')}, most often {common} (width x height); they are "
        f"resized to height {height}, width {width}. A larger {arg('size')} keeps more detail; twice the side "
        "takes about four times as long."
    )


def _number(found: DatasetAudit) -> str:
    if found.shape[1:] == (1, 1):
        return ""
    n = found.distinct
    if n < FEW:
        return (
            f"{counted(n, 'distinct picture')}: that is few. A long training memorizes them; a thousand or more, or "
            "augmentation, help. `unblot evaluate` reports how many samples are copies."
        )
    if n < ENOUGH:
        return f"{n} distinct pictures are enough to start with; a long training will memorize some of them."
    return f"{n} distinct pictures are plenty; hardly any will be memorized."


def _copies(found: DatasetAudit) -> str:
    again = {name for group in found.exact for name in group[1:]}
    near = sum(len([name for name in group if name not in again]) - 1 for group in found.near or ())
    if not len(again) + near:
        return ""
    return (
        f"Copies of other pictures: {len(again)} exact, {near} near. Copies are memorized first and sampled more "
        "often; remove those that you do not want."
    )


def _classes(found: DatasetAudit) -> str:
    if len(found.classes) < 2:
        return ""
    small = [name for name, n in found.classes.items() if n < SMALL_CLASS]
    if small:
        return (
            f"{_some(small)}: fewer than {SMALL_CLASS} pictures. Add pictures, merge classes, or train without labels."
        )
    ratio = max(found.classes.values()) / min(found.classes.values())
    if ratio > 10:
        return f"The largest class has {ratio:.0f} times as many pictures as the smallest, whose samples will be worse."
    return ""


def _flat(found: DatasetAudit) -> str:
    if not found.constant:
        return ""
    count = counted(len(found.constant), "picture")
    return f"{count} of one value, or nearly: some samples will be like that; remove empty pictures."


def _turns(found: DatasetAudit) -> str:
    if not found.turning or not COMPARABLE <= found.distinct < ENOUGH:
        return ""
    safe = safe_turns(found.turning)
    worth = "; ".join(f"{TURNS[turn]} {max(0.0, worth):.0%}" for turn, worth in found.turning.items())
    if not safe:
        return f"Do not augment with mirrored or turned pictures. As a share of a new picture each is worth: {worth}."
    way = arg("augment", augmentation_of(safe))
    captions = " as pixels; captions may say what is left and right: check them first" if found.captions else ""
    return f"Augmentation is safe{captions}: {way}. As a share of a new picture each is worth: {worth}."


def safe_turns(turning: Mapping[str, float]) -> list[str]:
    """Those of TURNS that are safe to augment with, by the worth of each."""
    return [turn for turn, worth in turning.items() if worth >= SAFE]


def augmentation_of(turns: Iterable[str]) -> str:
    """The spec of an augmentation by these turns."""
    return "plain:" + ",".join(f"{turn}=true" for turn in turns)


def _time(found: DatasetAudit) -> str:
    if found.seconds is None:
        return ""
    return f"Training with the default recipe takes about {duration(found.seconds)} on this machine."


def duration(seconds: float) -> str:
    """A number of seconds in words: "40 seconds", "25 minutes", "3.5 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _some(names: list[str]) -> str:
    """The first names of classes, and how many more there are."""
    return f"{'Classes' if len(names) > 1 else 'Class'} {named(names, 5)}"
