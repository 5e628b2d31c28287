"""What to do about a data set, in plain sentences, and what would ruin a training on it."""

from collections.abc import Mapping

from unblot.data.audit.dataset_audit import DatasetAudit
from unblot.data.readers.listing import counted
from unblot.errors import UnblotError

# How many distinct pictures it takes is a matter of their size and variety. For faces of 80x80 pixels a network learns
# a thousand by heart, and two networks trained on different hundred thousands draw the same (Kadkhodaie et al. 2024,
# "Generalization in diffusion models arises from geometry-adaptive harmonic representations").
FEW, ENOUGH = 1000, 20_000
SMALL_CLASS = 50  # pictures that a class needs at least
MANY_COPIES = 0.05  # share of a set
MANY_FLAT = 0.05
COMPARABLE = 100  # pictures that it takes to tell whether turned ones look like the others
HARMLESS = 1.02  # ratio of distances up to which a turn is called harmless
TURNS = {"flip": "mirrored left to right", "flip_vertical": "mirrored top to bottom", "quarter": "turned by a quarter"}


def ruin(distinct: int, count: int, flat: float, deviation: float) -> None:
    """Raises UnblotError for data that nothing can be learnt from.

    distinct, count: pictures without and with exact copies. flat: the share of pictures of one value. deviation: the
    standard deviation of all values in the network's range.
    """
    if count > 1 and distinct == 1:
        raise UnblotError(f"all {count} pictures are the same; there is nothing to learn but that one")
    if flat == 1 and deviation < 1e-6:
        raise UnblotError("every picture is empty: all values are the same; look at the files, or at how they are read")


def warnings(distinct: int, count: int, flat: float, classes: Mapping[str, int]) -> list[str]:
    """What a person should know before training, a sentence each."""
    told = []
    if distinct < FEW:
        told.append(f"{distinct} distinct pictures are few: the model will learn most of them by heart")
    if count - distinct > MANY_COPIES * count:
        told.append(
            f"{count - distinct} of {count} pictures are exact copies of others, which are learnt by heart first"
        )
    if flat > MANY_FLAT:
        told.append(f"{flat:.0%} of the pictures are empty (of one value), and so will be as many drawn ones")
    small = [name for name, n in classes.items() if n < SMALL_CLASS]
    if small:
        told.append(f"{_some(small)}: fewer than {SMALL_CLASS} pictures, too few to learn a class from")
    return told


def advise(found: DatasetAudit) -> tuple[str, ...]:
    """What to do about an examined data set: size, number, copies, classes, augmentation, time."""
    parts = (_broken, _size, _number, _copies, _classes, _flat, _turns, _time)
    told = tuple(filter(None, (part(found) for part in parts)))
    return told or ("Nothing speaks against training on this.",)


def _broken(found: DatasetAudit) -> str:
    if not found.broken:
        return ""
    return f"{counted(len(found.broken), 'file')} cannot be used. Mend or remove them, or train with --on-broken skip."


def _size(found: DatasetAudit) -> str:
    _, height, width = found.shape
    common = next(iter(found.sizes), "")
    if len(found.sizes) < 2 and common in ("", f"{width}x{height}"):
        return ""
    return (
        f"The originals are of {len(found.sizes)} sizes, most often {common} (width x height); they are brought to "
        f"height {height}, width {width}. A larger --size shows more; twice the side takes about four times as long."
    )


def _number(found: DatasetAudit) -> str:
    if found.shape[1:] == (1, 1):
        return ""
    n = found.distinct
    if n < FEW:
        return (
            f"{n} distinct pictures are few. Expect the model to draw most of them from memory; a thousand and more, "
            "or augmentation, help. `unblot evaluate` tells how many it copied."
        )
    if n < ENOUGH:
        return f"{n} distinct pictures are enough to start with; in a long training some will be learnt by heart."
    return f"{n} distinct pictures are plenty; hardly any will be learnt by heart."


def _copies(found: DatasetAudit) -> str:
    again = {name for group in found.exact for name in group[1:]}
    near = sum(len([name for name in group if name not in again]) - 1 for group in found.near or ())
    if not len(again) + near:
        return ""
    return (
        f"Copies of other pictures: {len(again)} exact, {near} near. Copies are what a model learns by heart first; "
        "remove those you do not want drawn more often."
    )


def _classes(found: DatasetAudit) -> str:
    if len(found.classes) < 2:
        return ""
    small = [name for name, n in found.classes.items() if n < SMALL_CLASS]
    if small:
        return f"{_some(small)}: fewer than {SMALL_CLASS} pictures. Add to them, merge them, or train without labels."
    ratio = max(found.classes.values()) / min(found.classes.values())
    if ratio > 10:
        return (
            f"The largest class has {ratio:.0f} times as many pictures as the smallest, which will be drawn less well."
        )
    return ""


def _flat(found: DatasetAudit) -> str:
    if not found.constant:
        return ""
    return f"Pictures of one value, or nearly ({len(found.constant)} here), will be drawn too; remove empty ones."


def _turns(found: DatasetAudit) -> str:
    harmless = [turn for turn, ratio in found.turning.items() if ratio <= HARMLESS]
    if not found.turning or not COMPARABLE <= found.distinct < ENOUGH:
        return ""
    if not harmless:
        return (
            "Mirrored or turned, the pictures look unlike the others (as digits and text would): use no augmentation."
        )
    told = " and ".join(TURNS[turn] for turn in harmless)
    return f"Pictures {told} lie as near to the others as the pictures themselves: such augmentation seems safe."


def _time(found: DatasetAudit) -> str:
    if found.seconds is None:
        return ""
    return f"A training with the default recipe takes about {duration(found.seconds)} on this machine."


def duration(seconds: float) -> str:
    """A time for people: "40 seconds", "25 minutes", "3.5 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _some(names: list[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{'Classes' if len(names) > 1 else 'Class'} {', '.join(names[:most])}{more}"
