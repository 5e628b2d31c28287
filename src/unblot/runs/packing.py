"""`unblot.pack`: a data set written into shards, which a training reads as it goes."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from unblot.config.choices import from_choices
from unblot.config.pack import PackConfig
from unblot.config.schema import DataConfig
from unblot.data.image_spec import ImageOptions, parse_size
from unblot.data.pack.job import Reading
from unblot.data.pack.pack import pack
from unblot.data.shards.index import ShardIndex
from unblot.errors import UnblotError, arg
from unblot.runs.run_data import line_printer
from unblot.system.folders import must_be_writable, user_path
from unblot.system.progress import progress_bar


def pack_data(data: str | Path, shards: str | Path, *, quiet: bool = False, **choices: Any) -> ShardIndex | None:
    """Packs a data set into the folder `shards`; its index, or None where other parts are still to come.

    choices: fields of `DataConfig` and `PackConfig`. part="2/4" does the second of four machines' share. Packing that
    was stopped goes on. Raises UnblotError for bad input, and for a folder that holds something else.
    """
    how = PackConfig(**{f.name: choices.pop(f.name) for f in dataclasses.fields(PackConfig) if f.name in choices})
    source = from_choices(DataConfig, {"data": str(data), **choices})
    folder = user_path(shards)
    if Path(source.data).is_dir() and folder.resolve().is_relative_to(Path(source.data).resolve()):
        raise UnblotError(f"{str(folder)!r} is inside of the pictures {source.data!r}; choose a folder beside them")
    must_be_writable(folder)
    reading = Reading(
        ImageOptions(parse_size(source.size), source.fit, source.colour, source.background),
        {"pages": source.pages} if source.pages else {},
        labels=not source.unlabelled,
        captions=not source.uncaptioned,
        held_out=source.held_out,
        on_broken=source.on_broken,
    )
    with progress_bar("packing", quiet=quiet) as bar:
        return pack(
            source.data,
            folder,
            reading,
            per_shard=how.per_shard,
            part=_part(how.part),
            workers=how.workers,
            report=line_printer(quiet),
            progress=bar.update,
        )


def _part(text: str) -> tuple[int, int]:
    """(k, n) for "k/n". Raises UnblotError for anything else."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UnblotError(f"{arg('part', text)} is no share; give one such as {arg('part', '2/4')}, the second of four")
    return int(found[1]), int(found[2])
