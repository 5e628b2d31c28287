"""The labels of a run's samples: chosen by class, or as in the training data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unblot.config.sampling import plain_label
from unblot.config.schema import DataFacts
from unblot.errors import UnblotError, arg
from unblot.process.randomness import training_labels

if TYPE_CHECKING:  # sampling needs no reader of data
    from unblot.data.dataset import Dataset


def choose_labels(label: Any, classes: Sequence[str], indices: Sequence[int]) -> list[int] | None:
    """The class index of each sample numbered `indices`, for a label as in `Run.sample`; None for no label.

    Raises UnblotError for a class that is not known.
    """
    label = plain_label(label)
    if label is None:
        return None
    if not classes:
        raise UnblotError(f"{arg('label', label)} names a class, and this run was trained without labels")
    if label == "all":
        chosen = list(range(len(classes)))
    else:
        chosen = [_class_index(w, classes) for w in _several(label, classes)]
        if not chosen:
            raise UnblotError(f"{arg('label', label)} names no class; leave it out to sample without a label")
    return [chosen[i % len(chosen)] for i in indices]


def _several(label: Any, classes: Sequence[str]) -> list[Any]:
    """The classes that a label names: one, or several in a list or in a text with commas."""
    if isinstance(label, str) and label not in classes:  # a name may hold a comma itself
        return [part.strip() for part in label.split(",")]
    return label if isinstance(label, list) else [label]


def _class_index(wanted: Any, classes: Sequence[str]) -> int:
    if isinstance(wanted, str) and wanted in classes:
        return classes.index(wanted)
    if str(wanted).isdecimal() and int(wanted) < len(classes):
        return int(wanted)
    known = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    raise UnblotError(f"no class {wanted!r}; this run knows {known} (or an index from 0 to {len(classes) - 1}, or all)")


def labels_as_trained(data: DataFacts, dataset: "Dataset", seed: int, count: int) -> list[int] | None:
    """The classes of `count` training pictures in random order; None for a run without classes."""
    if dataset.labels is None or not data.classes:
        return None
    return training_labels(dataset.labels[dataset.train], seed, count)
