"""A shard and what stands beside it, and the index of all of them."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.cache.build import nothing_usable
from unblot.data.cache.manifest import conversions, name_of
from unblot.data.cache.worker import part_of_rows
from unblot.data.pack.job import Job
from unblot.data.readers.listing import Broken, cannot_be_used
from unblot.data.shards.index import FORMAT, INDEX, VERSION, Shard, ShardIndex, array_header, beside, shard_file
from unblot.data.split import chosen_alone
from unblot.errors import UnblotError, arg
from unblot.system.files import checksum, write_text, write_whole
from unblot.system.stored import signed, unsigned


@dataclass
class Decoding:
    """A shard that is being decoded: digests of its pictures so far, which are broken, and kinds of the originals."""

    digests: np.ndarray
    done: int = 0
    broken: dict[int, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)


def write_shard(job: Job, number: int, shard: Decoding) -> None:
    """Writes a shard of which all pictures are decoded: those held out first, without broken ones; and what stands
    beside it, last."""
    spec = job.spec
    shape = (spec.channels, spec.height, spec.width)
    path = part_of_rows(str(job.scratch), number)
    rows = np.fromfile(path, spec.dtype).reshape(-1, *shape)
    held_out = chosen_alone(shard.digests, job.held_out, len(job.listing))
    kept = np.concatenate([np.flatnonzero(held_out), np.flatnonzero(~held_out & (shard.digests != 0))])
    file = job.folder / shard_file(number)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as out:
            out.write(array_header(len(kept), shape, spec.dtype))
            out.write(rows[kept].tobytes())

    write_whole(file, write)
    os.unlink(path)
    indices = job.shards[number]
    labels, told = job.listing.labels, job.listing.captions
    about = {
        "job": job.fingerprint,
        "pictures": len(kept),
        "held_out": int(held_out.sum()),
        "size": file.stat().st_size,
        "sha256": checksum(file),
        "labels": labels[indices[kept]].tolist() if labels is not None and job.labels else None,
        "captions": [told.texts[i] for i in indices[kept].tolist()] if told is not None and job.captions else None,
        "broken": [[name_of(job.listing, int(indices[i])), why] for i, why in sorted(shard.broken.items())],
        "kinds": dict(shard.kinds),
    }
    write_text(job.folder / beside(file.name), signed(about) + "\n")


def told_of(job: Job, number: int, on_broken: str) -> dict[str, Any] | None:
    """What stands beside a shard that is done; None where it is not, or must be tried again because of broken files."""
    file = job.folder / shard_file(number)
    try:
        told: dict[str, Any] = unsigned((job.folder / beside(file.name)).read_text())
        whole = told["job"] == job.fingerprint and told["size"] == file.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if whole and not (told["broken"] and on_broken == "stop") else None


def write_index(job: Job, on_broken: str, report: Callable[[str], None]) -> ShardIndex | None:
    """Writes the index where all shards are there. Raises UnblotError for broken pictures, unless they are skipped."""
    told = {s: found for s in range(len(job.shards)) if (found := told_of(job, s, "skip")) is not None}
    broken = [*job.listing.broken, *(Broken(*b) for s in sorted(told) for b in told[s]["broken"])]
    if broken:
        way_out = (
            "left out" if on_broken == "skip" else f"repair them, or leave them out with {arg('on_broken', 'skip')}"
        )
        lines = cannot_be_used(broken, way_out)
        if on_broken != "skip":
            raise UnblotError(lines)
        report(lines)
    if len(told) < len(job.shards):
        return None
    kinds: Counter[str] = Counter()
    shards = []
    for number, found in sorted(told.items()):
        kinds.update(found["kinds"])
        file = shard_file(number)
        facts = {key: found[key] for key in ("pictures", "held_out", "size", "sha256")}
        shards.append(Shard(file, **facts, beside=(job.folder / beside(file)).read_text()[2:18]))
    notes = conversions(job.spec, dict(kinds))
    for note in notes:
        report(note)
    spec = job.spec
    shape = (spec.channels, spec.height, spec.width)
    index = ShardIndex(
        *(FORMAT, VERSION, spec.dtype, shape, spec.alpha, job.held_out, job.listing.classes if job.labels else ()),
        *(job.labels, job.captions, (*job.listing.notes, *notes), tuple(shards)),
        caption_notes=job.caption_notes,
    )
    if not sum(shard.training for shard in shards):
        raise nothing_usable(broken)
    write_text(job.folder / INDEX, index.to_json())
    return index
