"""Hugging Face `datasets`, by name or from a local path; an optional extra."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.readers.captions import captions_of_values
from unblot.data.readers.labels import labelled_part
from unblot.data.readers.listing import NO_LABELS, Captions, DataSource, Item, Listing, named, naming, readable
from unblot.data.readers.tables import CAPTION_COLUMNS, column_of, label_text
from unblot.errors import UnblotError, counted, printable

PREFIX = "hf:"


def huggingface(
    place: str, *, split: str = "train", image: str = "", label: str = "", caption: str = "", config: str = ""
) -> DataSource:
    """A data set `hf:NAME` of the hub, or `hf:PATH` (saved with save_to_disk, or with files load_dataset reads).

    image, label, caption: names of the columns; by default the first one of pictures, the one of class labels, and the
    first of CAPTION_COLUMNS.
    """
    try:
        import datasets
    except ImportError:
        raise UnblotError("Hugging Face data sets need an extra package; pip install 'unblot[hub]'") from None
    name = place.removeprefix(PREFIX)
    with naming(name, "a Hugging Face data set"):
        table = datasets.load_from_disk(name) if _saved(name) else datasets.load_dataset(name, config or None)
    if isinstance(table, dict):
        if split not in table:
            raise UnblotError(f"{printable(name)!r} has no split {printable(split)!r}; it has {named(list(table))}")
        table = table[split]
    features = table.features
    image = image or next((n for n, f in features.items() if isinstance(f, datasets.Image)), "")
    if image not in features:
        raise UnblotError(f"no column of pictures in {printable(name)!r}; it has {named(list(features))}")
    column = column_of(list(features), CAPTION_COLUMNS)
    caption = caption or ("" if column is None else list(features)[column])
    if caption and caption not in features:
        raise UnblotError(f"no column {printable(caption)!r} in {printable(name)!r}; it has {named(list(features))}")
    if label == NO_LABELS:
        features = {name: feature for name, feature in features.items() if name == image}
        label = ""
    label = label or next((n for n, f in features.items() if isinstance(f, datasets.ClassLabel)), "")
    label = label or ("label" if "label" in features else "")
    if label and label not in features:
        raise UnblotError(f"no column {printable(label)!r} in {printable(name)!r}; it has {named(list(features))}")
    table = table.cast_column(image, datasets.Image(decode=False))
    fingerprint = str(getattr(table, "_fingerprint", "")) or name
    return DataSource(
        Path(name).name, [name, split, fingerprint], lambda scratch: _captioned(table, image, label, caption)
    )


def _captioned(table: Any, image: str, label: str, caption: str) -> Listing:
    """The listing of a table, with the captions of a column, a text or several in each row; other columns of text are
    named."""
    listing = _listing(table, image, label)
    captions: Captions | None = None
    if caption:
        cells = table[caption]
        texts = (cells[item.offset] for item in listing.items)
        captions = captions_of_values(listing.items, texts, f"column {printable(caption)!r}")
    others = [n for n, f in table.features.items() if _holds_text(f) and n not in (label, caption)]
    if others:
        note = f"other columns of text left out: {named(others)}; caption=NAME reads another one"
        captions = captions or Captions()
        captions = replace(captions, notes=(*captions.notes, note))
    return replace(listing, captions=captions)


def _holds_text(feature: Any) -> bool:
    """Whether a column is of text, or of lists of it: `Value("string")`, `List(…)`, or `[…]`, as older versions write
    a list."""
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    return getattr(feature, "dtype", "") in ("string", "large_string") or (inner is not None and _holds_text(inner))


def _listing(table: Any, image: str, label: str) -> Listing:
    """The pictures of a table, read row by row, and the labels of a column; rows without a label are left out."""

    def read(index: int) -> bytes:
        cell = table[index][image]
        if cell is None:
            raise UnblotError("there is no picture in this row")
        if cell["bytes"] is not None:
            return cell["bytes"]
        with open(cell["path"], "rb") as file:
            return file.read()

    items = [Item(f"row {i}", offset=i) for i in range(len(table))]
    if not label:
        return Listing(items=items, read=read)
    raw, names = table[label], getattr(table.features[label], "names", None)
    if names is None:
        with naming(label, "a column of labels"):
            found = labelled_part(items, [label_text(v) for v in raw], f"from column {label!r}", "without a label")
        return Listing(
            items=found.items, read=read, labels=found.labels, classes=found.classes, notes=tuple(found.notes)
        )
    known = [i for i, value in enumerate(raw) if value is not None and value >= 0]  # −1 stands for no label
    left = [items[i].name for i in sorted(set(range(len(raw))) - set(known))]
    notes = (f"{counted(len(left), 'picture')} without a label left out: {named(left)}",) if left else ()
    if not known:
        return Listing(items=items, read=read, notes=(f"no classes: column {label!r} gives no picture a label",))
    labels = np.array([raw[i] for i in known], np.int64)
    classes = tuple(map(readable, names))
    return Listing(items=[items[i] for i in known], read=read, labels=labels, classes=classes, notes=notes)


def _saved(path: str) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return any(os.path.exists(os.path.join(path, n)) for n in ("state.json", "dataset_dict.json"))
