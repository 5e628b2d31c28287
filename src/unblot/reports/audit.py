"""An examination as text for the terminal and as one HTML page with the pictures in question."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image

from unblot.data.audit.dataset_audit import DatasetAudit
from unblot.data.dataset import Dataset
from unblot.data.output import as_display, grid, scatter
from unblot.data.readers.listing import counted, printable

SHEET, SHOWN_GROUPS, SHOWN_LINES = 100, 60, 12
THUMBNAIL = 96  # pixels
POINTS = 5000

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --ink: #1d1f23; --faint: #5f656e; --line: #dcdad5; --mark: #1c5fb0;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171a; --ink: #e9e8e5; --faint: #a2a8b1; --line: #363b43; --mark: #6fb0ff; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; }
p, ul, table { margin: .3rem 0 .8rem; max-width: 75ch; }
ul.advice { padding-left: 1.2rem; }
.faint, figcaption { color: var(--faint); }
img { max-width: 100%; height: auto; image-rendering: pixelated; border-radius: 3px; display: block; }
table { border-collapse: collapse; font-size: .95rem; }
th, td { text-align: left; font-weight: 400; padding: .15rem 1.2rem .15rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--faint); }
td { overflow-wrap: anywhere; }
.facts th { white-space: nowrap; }
.bar { display: inline-block; height: .65em; background: var(--mark); border-radius: 2px; }
.groups { display: flex; flex-wrap: wrap; gap: .9rem; }
.group { display: flex; gap: 3px; border: 1px solid var(--line); border-radius: 6px; padding: .45rem; }
figure { margin: 0; width: 6.2rem; }
figcaption { font-size: .7rem; line-height: 1.25; overflow-wrap: anywhere; margin-top: .2rem; }
"""


def text(found: DatasetAudit) -> str:
    """The examination for the terminal: what there is, what is wrong, what to do."""
    lines = [f"{found.name}: {summary(found)}", ""]
    lines += [f"  {name:<12}{value}" for name, value in facts(found)]
    for title, rows in problems(found):
        lines += ["", title]
        lines += [f"  {row}" for row in rows[:SHOWN_LINES]]
        lines += [f"  … and {len(rows) - SHOWN_LINES} more"] if len(rows) > SHOWN_LINES else []
    lines += ["", "advice"] + [f"  - {sentence}" for sentence in found.advice]
    return "\n".join(lines)


def summary(found: DatasetAudit) -> str:
    """What there is, in one line."""
    channels, height, width = found.shape
    kind = "points in the plane" if (height, width) == (1, 1) else "pictures"
    classes = f" in {len(found.classes)} classes" if found.classes else ""
    return f"{found.count} {kind}{classes}, height {height}, width {width}, {channels} channels of {found.dtype}"


def facts(found: DatasetAudit) -> list[tuple[str, str]]:
    """Names and values of what there is."""
    rows = [("training", f"{found.train}, held out {found.held_out}")]
    rows += [("distinct", str(found.distinct))] if found.distinct < found.count else []
    rows += [("originals", _counts(found.kinds))] if found.kinds else []
    rows += [("sizes", _counts(found.sizes) + " (width x height)")] if found.sizes else []
    for i, channel in enumerate(found.channels):
        told = f"{channel['low']:g} … {channel['high']:g}, mean {channel['mean']:.4g} ± {channel['deviation']:.4g}"
        rows.append((f"channel {i}" if len(found.channels) > 1 else "values", told))
    rows += [("classes", _counts(found.classes))] if found.classes else []
    rows += [("note", note) for note in found.notes]
    return rows


def problems(found: DatasetAudit) -> list[tuple[str, list[str]]]:
    """What is wrong, under titles, a line each; in names, as files are looked for by them."""
    told = []
    if found.broken:
        told.append(
            (f"{counted(len(found.broken), 'file')} cannot be used", [f"{name}: {why}" for name, why in found.broken])
        )
    for title, groups in _copies(found):
        told.append((title, [" = ".join(group) for group in groups]))
    if found.constant:
        told.append((f"{counted(len(found.constant), 'picture')} of one value, or nearly", list(found.constant)))
    return told


def page(found: DatasetAudit, data: Dataset) -> str:
    """One HTML page that needs nothing else: facts, a contact sheet, and the pictures in question."""
    index = {printable(name): i for i, name in enumerate(data.cached.names)} if data.cached else {}
    body = [
        f"<h1>{escape(found.name)}</h1><p>{escape(summary(found))}</p>",
        "<h2>Advice</h2><ul class='advice'>" + "".join(f"<li>{escape(s)}</li>" for s in found.advice) + "</ul>",
        "<h2>Contact sheet</h2>" + _image(contact_sheet(data), "Pictures from the whole set, evenly spaced"),
        "<h2>What there is</h2>" + _table(facts(found), "facts"),
    ]
    if found.classes:
        body.append("<h2>Classes</h2>" + _bars(found.classes))
    if found.broken:
        body.append(f"<h2>{counted(len(found.broken), 'file')} cannot be used</h2>" + _table(found.broken))
    for title, groups in _copies(found):
        body.append(f"<h2>{escape(title)}</h2>" + _groups(groups, data, index))
    if found.constant:
        title = f"<h2>{counted(len(found.constant), 'picture')} of one value, or nearly</h2>"
        body.append(title + _groups([(name,) for name in found.constant], data, index))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(found.name)}: what is in it</title><style>{STYLE}</style></head>\n"
        "<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def contact_sheet(data: Dataset, count: int = SHEET) -> Image.Image:
    """Up to `count` pictures, evenly spaced through the set, in one picture; points as a plot."""
    if data.shape == (2, 1, 1):
        return scatter(np.asarray(data.pictures[:POINTS]))
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), count)).astype(int))
    return grid(np.asarray(data.pictures[rows]), data.values)


def _copies(found: DatasetAudit) -> list[tuple[str, Sequence[tuple[str, ...]]]]:
    """Titles and groups of exact, near and mirrored copies."""
    kinds = (("exact", found.exact), ("near", found.near or ()), ("mirrored", found.flipped or ()))
    return [(f"{counted(len(groups), 'group')} of {kind} copies", groups) for kind, groups in kinds if groups]


def _groups(groups: Sequence[tuple[str, ...]], data: Dataset, index: Mapping[str, int]) -> str:
    """Groups of pictures with their names."""
    shown = "".join(
        f"<div class='group'>{''.join(_figure(name, data, index) for name in group[:8])}</div>"
        for group in groups[:SHOWN_GROUPS]
    )
    more = f"<p class='faint'>… and {len(groups) - SHOWN_GROUPS} more</p>" if len(groups) > SHOWN_GROUPS else ""
    return f"<div class='groups'>{shown}</div>{more}"


def _figure(name: str, data: Dataset, index: Mapping[str, int]) -> str:
    """One picture with its name."""
    i = index.get(name, int(name.split()[-1]) if not index else 0)
    picture = Image.fromarray(as_display(np.asarray(data.pictures[i : i + 1]), data.values)[0])
    scale = max(1, THUMBNAIL // max(picture.size))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return f"<figure>{_image(picture, name)}<figcaption>{escape(name)}</figcaption></figure>"


def _image(picture: Image.Image, alt: str) -> str:
    """A picture inside the page."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{escape(alt)}" width="{picture.width}" src="data:image/png;base64,{data}">'


def _table(rows: Iterable[tuple[str, str]], kind: str = "") -> str:
    """Names and values, a row each."""
    return (
        f"<table class='{kind}'>"
        + "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in rows)
        + "</table>"
    )


def _bars(counts: Mapping[str, int]) -> str:
    """Classes with their numbers as bars."""
    most = max(counts.values()) or 1
    rows = []
    for name, n in counts.items():
        bar = f"<span class='bar' style='width:{14 * n / most:.2f}rem'></span>"
        rows.append(f"<tr><th>{escape(name)}</th><td>{n}</td><td>{bar}</td></tr>")
    return "<table>" + "".join(rows) + "</table>"


def _counts(counts: Mapping[str, int], most: int = 12) -> str:
    """Counts by name, the first ones."""
    told = ", ".join(f"{name} ({n})" for name, n in list(counts.items())[:most])
    return told + (f" and {len(counts) - most} more" if len(counts) > most else "")
