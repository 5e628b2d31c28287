"""The audit of a data set as text for the terminal, and as one HTML page with the pictures in question."""

from collections.abc import Mapping, Sequence

import numpy as np

from unblot.data.audit.captions import RARE, CaptionAudit, shortened
from unblot.data.audit.dataset_audit import DatasetAudit
from unblot.data.dataset import Dataset
from unblot.errors import counted, printable
from unblot.reports.render import Picture, render, sheet, thumbnail

SHEET, SHOWN_GROUPS, SHOWN_IN_GROUP, SHOWN_LINES, SHOWN_COUNTS = 100, 60, 8, 12, 12
SHOWN_CAPTIONED, SHOWN_TEXTS = 12, 3
POINTS = 5000

Groups = Sequence[tuple[str, ...]]


def text(found: DatasetAudit) -> str:
    """The audit for the terminal: what there is, what is wrong, what to do."""
    lines = [f"{found.name}: {summary(found)}", ""]
    lines += [f"  {name:<12}{value}" for name, value in facts(found)]
    for title, rows in problems(found):
        lines += ["", title]
        lines += [f"  {row}" for row in rows[:SHOWN_LINES]]
        lines += [f"  … and {len(rows) - SHOWN_LINES} more"] if len(rows) > SHOWN_LINES else []
    lines += ["", "advice"] + [f"  - {sentence}" for sentence in found.advice]
    return "\n".join(map(printable, lines))


def summary(found: DatasetAudit) -> str:
    """What there is, in one line."""
    channels, height, width = found.shape
    points = (height, width) == (1, 1)
    count = counted(found.count, "point") + " in the plane" if points else counted(found.count, "picture")
    classes = f" in {_classes(len(found.classes))}" if found.classes else ""
    return f"{count}{classes}, height {height}, width {width}, {counted(channels, 'channel')} of {found.dtype}"


def facts(found: DatasetAudit) -> list[tuple[str, str]]:
    """Names and values of what there is."""
    rows = [("training", f"{found.train}, held out {found.held_out}")]
    rows += [("distinct", str(found.distinct))] if found.distinct < found.count else []
    rows += [("originals", _counts(found.kinds))] if found.kinds else []
    rows += [("sizes", _counts(found.sizes) + " (width x height)")] if found.sizes else []
    for i, channel in enumerate(found.channels):
        values = f"{channel['low']:g} … {channel['high']:g}, mean {channel['mean']:.4g} ± {channel['deviation']:.4g}"
        rows.append((f"channel {i}" if len(found.channels) > 1 else "values", values))
    rows += [("classes", _counts(found.classes))] if found.classes else []
    rows += _caption_facts(found.captions, found.count) if found.captions else []
    return rows + [("note", note) for note in found.notes]


def _caption_facts(found: CaptionAudit, count: int) -> list[tuple[str, str]]:
    """Names and values of what the captions say."""
    number = f"{counted(found.captions, 'caption')} of {found.pictures} of {counted(count, 'picture')}"
    lengths = f"{found.shortest} … {found.longest} words, median {found.middle:g}"
    rows = [("captions", f"{number}, {lengths}; {found.distinct} different")]
    rows += [("words", f"{found.words} different: {_counts(found.common)}")]
    if found.rare_words:
        rows.append(("rare words", f"{found.rare_words} in fewer than {RARE} pictures: {_counts(found.rare)}"))
    return rows + ([("repeated", _counts(found.commonest))] if found.commonest else [])


def problems(found: DatasetAudit) -> list[tuple[str, list[str]]]:
    """What is wrong: a title and a line for each file or group, by the names that the files have."""
    broken = [f"{name}: {why}" for name, why in found.broken]
    rest = [(title, [" = ".join(group) for group in groups]) for title, groups in _galleries(found)]
    return ([(_broken_title(found), broken)] if broken else []) + rest


def page(found: DatasetAudit, data: Dataset) -> str:
    """One HTML page with everything inside: advice, a contact sheet, facts, and the pictures in question."""
    index = {printable(name): i for i, name in enumerate(data.cached.names)} if data.cached else {}
    galleries = [
        (
            title,
            [
                [(name, _picture(name, data, index)) for name in group[:SHOWN_IN_GROUP]]
                for group in groups[:SHOWN_GROUPS]
            ],
            max(0, len(groups) - SHOWN_GROUPS),
        )
        for title, groups in _galleries(found)
    ]
    return render(
        "audit.html",
        found=found,
        summary=summary(found),
        facts=facts(found),
        sheet=contact_sheet(data),
        captioned=_captioned(data),
        broken_title=_broken_title(found),
        galleries=galleries,
    )


def _captioned(data: Dataset) -> list[tuple[Picture, list[str]]]:
    """Some pictures with their captions, evenly spaced through those that have one."""
    captions = data.captions or ()
    there = [i for i, texts in enumerate(captions) if texts]
    chosen = [there[i] for i in np.unique(np.linspace(0, len(there) - 1, min(len(there), SHOWN_CAPTIONED)).astype(int))]
    return [
        (thumbnail(np.asarray(data.pictures[i]), data.values), [shortened(text) for text in captions[i][:SHOWN_TEXTS]])
        for i in chosen
    ]


def contact_sheet(data: Dataset, count: int = SHEET) -> Picture:
    """Up to `count` pictures, evenly spaced through the set, in one picture; points as a plot."""
    if data.shape == (2, 1, 1):
        return sheet(np.asarray(data.pictures[:POINTS]), data.values)
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), count)).astype(int))
    return sheet(np.asarray(data.pictures[rows]), data.values)


def _broken_title(found: DatasetAudit) -> str:
    return f"{counted(len(found.broken), 'file')} cannot be used"


def _galleries(found: DatasetAudit) -> list[tuple[str, Groups]]:
    """Titles and groups of names: exact, near and mirrored copies, and pictures of one value."""
    kinds = (("exact", found.exact), ("near", found.near or ()), ("mirrored", found.flipped or ()))
    shown: list[tuple[str, Groups]] = [
        (f"{counted(len(groups), 'group')} of {kind} copies", groups) for kind, groups in kinds if groups
    ]
    if found.constant:
        title = f"{counted(len(found.constant), 'picture')} of one value, or nearly"
        shown.append((title, [(name,) for name in found.constant]))
    return shown


def _picture(name: str, data: Dataset, index: Mapping[str, int]) -> Picture:
    """The picture of that name; where pictures have none, they are called by their number."""
    i = index[name] if index else int(name.split()[-1])
    return thumbnail(np.asarray(data.pictures[i]), data.values)


def _counts(counts: Mapping[str, int]) -> str:
    """Counts by name, the first ones."""
    shown = ", ".join(f"{name} ({n})" for name, n in list(counts.items())[:SHOWN_COUNTS])
    return shown + (f" and {len(counts) - SHOWN_COUNTS} more" if len(counts) > SHOWN_COUNTS else "")


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"
