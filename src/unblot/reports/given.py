"""Pictures from elsewhere in the place of samples: of another model, or of `unblot sample` with any choices."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.readers.listing import Listing
from unblot.data.readers.sources import open_source, split_spec
from unblot.data.readers.walking import has_record
from unblot.data.values import ValueMap
from unblot.editing.inputs import InputImage, as_it_is, listed, shape_name
from unblot.errors import UnblotError, arg, counted, printable
from unblot.evaluation.image_set import ImageSet
from unblot.reports.samplers import SAMPLER
from unblot.runs.run import Run
from unblot.runs.samples import Samples
from unblot.system.folders import GENERATOR, GRID, MANIFEST

RECORDED = (GENERATOR, "run", "adapters", "ema", "schedule", "seed", "nfe", *SAMPLER)
"""What is taken over from the manifest of samples that unblot drew."""


def given_samples(run: Run, spec: str, most: int, note: Callable[[str], None]) -> Samples:
    """The pictures of a data source as samples of a run, as they are: nothing is resized or converted.

    spec: as `unblot train` takes it. most: of more pictures so many are taken, chosen at random, always the same ones.
    Their provenance names the source, with a hash of the pictures, and says of a folder that unblot wrote how they were
    drawn. They have the captions of the source, or the prompts that they were drawn with. `note` gets a line for what
    was left out. Raises UnblotError for pictures of another size, with other channels or of another type.
    """
    with tempfile.TemporaryDirectory() as scratch:
        listing = open_source(spec, labels=False)[0].load(Path(scratch))
        for line in listing.notes:
            note(line)
        count = len(listing)
        if count < 2:
            raise UnblotError(f"{printable(spec)!r} holds {counted(count, 'picture')}; give at least 2 to judge")
        chosen = np.sort(np.random.default_rng(0).permutation(count)[:most])
        if count > most:
            note(
                f"{most:,} of the {count:,} pictures of {printable(spec)!r} are judged, chosen at random; "
                f"{arg('n', count)} judges all"
            )
        array = _fitting(run, listed(spec, _only(listing, chosen)), len(chosen))
    record = _record(split_spec(spec)[0])
    drawn = record.get("sampled_with", record)
    about = {"samples": spec, "pictures": count, "hash": ImageSet(array).hash()}
    about |= {name: drawn[name] for name in RECORDED if name in drawn}
    prompts = None if run.config.data.text is None else _prompts(listing, record, chosen.tolist())
    return Samples(array, None, run.config.data, range(len(chosen)), about, prompts)


def _only(listing: Listing, chosen: np.ndarray) -> Listing:
    """The listing with the pictures at these positions alone."""
    if listing.array is None:
        return replace(listing, items=[listing.items[i] for i in chosen.tolist()])
    whole = listing.array

    def rows(start: int, stop: int) -> np.ndarray:
        return np.concatenate([whole.rows(i, i + 1) for i in chosen[start:stop].tolist()])

    return replace(listing, array=replace(whole, shape=(len(chosen), *whole.shape[1:]), rows=rows))


def _fitting(run: Run, pictures: Any, count: int) -> np.ndarray:
    """The pictures as stored values of the run, (count, C, H, W). Raises UnblotError for one that does not fit."""
    shape, values = run.config.data.shape, ValueMap.from_dict(run.config.data.values)
    found = np.empty((count, *shape), values.dtype)
    picture: InputImage
    for row, picture in enumerate(pictures):
        if picture.array.dtype.kind == found.dtype.kind == "f":  # of single and double precision
            picture = picture._replace(array=picture.array.astype(found.dtype))
        fitting = as_it_is(picture, values, shape)
        if fitting is None:
            raise UnblotError(
                f"{picture}; this run's pictures are {shape_name(shape)} of {values.dtype}, and samples are judged as "
                "they are: give them with this size, these channels and this type"
            )
        if found.dtype.kind == "f" and not np.isfinite(fitting).all():
            raise UnblotError("some of the samples hold values that are NaN or infinite; leave these pictures out")
        found[row] = fitting
    return found


def _record(place: str) -> dict[str, Any]:
    """The manifest of a folder of results that unblot wrote; nothing for anything else."""
    return json.loads((Path(place) / MANIFEST).read_bytes()) if has_record(place, MANIFEST) else {}


def _prompts(listing: Listing, record: dict[str, Any], chosen: Sequence[int]) -> list[str] | None:
    """The caption of each chosen picture, "" for none: of the source, or from its manifest; None where there is none.

    A manifest has a prompt for each picture, or some that take turns, in the order of its files.
    """
    if listing.captions is not None and listing.captions.texts:
        return [next(iter(listing.captions.texts[i]), "") for i in chosen]
    turns = record.get("prompts") or record.get("prompt")
    turns = [turns] if isinstance(turns, str) else turns
    if not turns:
        return None
    if listing.array is not None:
        return [turns[i % len(turns)] for i in chosen]
    names = [name for name in record.get("files", ()) if name != GRID]
    texts = {name: turns[i % len(turns)] for i, name in enumerate(names)}
    return [texts.get(listing.items[i].name, "") for i in chosen]
