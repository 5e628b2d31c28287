"""Hugging Face `datasets`, by name or from a local path; an optional extra."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.readers.listing import DataSource, Item, Listing, class_names, printable
from unblot.errors import UnblotError

PREFIX = "hf:"


def huggingface(place: str, *, split: str = "train", image: str = "", label: str = "", config: str = "") -> DataSource:
    """A data set `hf:NAME` of the hub, or `hf:PATH` (saved with save_to_disk, or with files load_dataset reads).

    image, label: names of the columns; by default the first one of pictures and the one of class labels.
    """
    try:
        import datasets
    except ImportError:
        raise UnblotError("Hugging Face data sets need an extra package; pip install 'unblot[hub]'") from None
    name = place.removeprefix(PREFIX)
    try:
        table = datasets.load_from_disk(name) if _saved(name) else datasets.load_dataset(name, config or None)
    except Exception as error:  # the library raises whatever its parts do
        raise UnblotError(f"cannot open the data set {printable(name)!r}: {' '.join(str(error).split())}") from None
    if isinstance(table, dict):
        if split not in table:
            raise UnblotError(f"{printable(name)!r} has no split {split!r}; it has {', '.join(table)}")
        table = table[split]
    features = table.features
    image = image or next((n for n, f in features.items() if isinstance(f, datasets.Image)), "")
    if image not in features:
        raise UnblotError(f"no column of pictures in {printable(name)!r}; it has {', '.join(features)}")
    label = label or next((n for n, f in features.items() if isinstance(f, datasets.ClassLabel)), "")
    label = label or ("label" if "label" in features else "")
    table = table.cast_column(image, datasets.Image(decode=False))
    fingerprint = str(getattr(table, "_fingerprint", "")) or name
    return DataSource(Path(name).name, [name, split, fingerprint], lambda scratch: _listing(table, image, label))


def _listing(table: Any, image: str, label: str) -> Listing:
    """The pictures of a table, read row by row, and the labels of a column."""

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
    raw, feature = table[label], table.features[label]
    if hasattr(feature, "names"):
        return Listing(items=items, read=read, labels=np.array(raw, np.int64), classes=tuple(feature.names))
    labels, classes = class_names([str(value) for value in raw])
    return Listing(items=items, read=read, labels=labels, classes=classes)


def _saved(path: str) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return any(os.path.exists(os.path.join(path, n)) for n in ("state.json", "dataset_dict.json"))
