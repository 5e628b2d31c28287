"""Drawing any number of pictures into a folder: in flat memory, on several processes, and on after a stop.

    manifest.json                what is drawn, and how; a second call with the same choices goes on
    000000.png …                 one file a picture, its provenance inside
    shard-000000.npy …           or, for many, SHARD pictures a file, (n, C, H, W), with labels-000000.npy beside
    grid.png                     the first pictures, to look at

Every file appears whole or not at all, so that what is missing after a stop is told by the names.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unblot.config import SampleConfig
from unblot.data.output import save_array
from unblot.errors import UnblotError
from unblot.run import refuse_full, write_json
from unblot.trained import Pictures, Run
from unblot.training.parallel import Group

MANIFEST, GRID = "manifest.json", "grid.png"
OURS = re.compile(r"\d{6,}\.(png|tif|npy)|(shard|labels)-\d{6,}\.npy|manifest\.json|grid\.png")
SHARD = 4096  # pictures
MANY = 10_000  # pictures, from which on they are kept in shards
SHOWN = 100  # pictures in the grid


def draw_into(
    folder: Path,
    run: Run,
    n: int,
    *,
    overwrite: bool = False,
    batch_size: int = 64,
    group: Group | None = None,
    progress: Callable[[int], None] = lambda pictures: None,
    **choices: Any,
) -> None:
    """Draws n pictures into `folder`, all but those that are there already; `choices` as in `Run.sample`.

    group: processes that share the work. `progress` is told how many pictures were just drawn, or found. Raises
    UnblotError where the folder holds anything else and `overwrite` is False; nothing is written before the first
    pictures are drawn.
    """
    SampleConfig(n=n, batch_size=batch_size)  # holds the numbers to their ranges
    group = group or Group()
    shards = n >= MANY or run.config.data.kind == "points"
    manifest = {"n": n, "shards": shards, "model": fingerprint(run), **choices}
    there = _present(folder, manifest, overwrite)
    size = SHARD if shards else batch_size
    units = [range(first, min(first + size, n)) for first in range(0, n, size)]
    shown: list[Pictures] = []
    for unit in units[group.rank :: group.world]:
        names = {f"shard-{unit[0] // SHARD:06d}"} if shards else {f"{i:06d}" for i in unit}
        if not names <= there:
            pictures = run.sample(len(unit), first=unit[0], batch_size=batch_size, **choices)
            if unit[0] < SHOWN:
                shown.append(pictures)
            _begin(folder, manifest, overwrite and unit is units[0])
            _write(folder, pictures, shards)
        progress(len(unit))
    if group.leads:
        _grid(run, min(n, SHOWN), shown, batch_size, choices).save(folder / GRID)


def fingerprint(run: Run) -> str:
    """A hash of the model's weights, by which a draw knows whether it goes on with the same model."""
    digest = hashlib.sha256()
    for _, weight in sorted(run.denoiser.state_dict().items()):
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _present(folder: Path, manifest: dict[str, Any], overwrite: bool) -> set[str]:
    """The stems of the files that an earlier call with the same choices has left in the folder."""
    path = folder / MANIFEST
    if overwrite or not path.exists():
        refuse_full(folder, overwrite)
        return set()
    if json.loads(path.read_text()) != json.loads(json.dumps(manifest)):
        raise UnblotError(
            f"{str(folder)!r} holds pictures of another model or of other choices (see its {MANIFEST}); choose another "
            "--out, or give --overwrite"
        )
    return {p.stem for p in folder.iterdir() if OURS.fullmatch(p.name)}


def _begin(folder: Path, manifest: dict[str, Any], clear: bool) -> None:
    """Makes the folder and its manifest; with `clear` without what an earlier draw left there."""
    folder.mkdir(parents=True, exist_ok=True)
    if clear:
        for path in list(folder.iterdir()):
            if OURS.fullmatch(path.name):
                path.unlink()
    if not (folder / MANIFEST).exists():
        write_json(folder / MANIFEST, manifest)


def _write(folder: Path, pictures: Pictures, shards: bool) -> None:
    if not shards:
        pictures.save_files(folder)
        return
    number = f"{pictures.indices[0] // SHARD:06d}.npy"
    if pictures.labels is not None:
        save_array(folder / f"labels-{number}", np.array(pictures.labels))
    save_array(folder / f"shard-{number}", pictures.array)  # last: it says that all of this is there


def _grid(run: Run, n: int, shown: Sequence[Pictures], batch_size: int, choices: dict[str, Any]) -> Any:
    """The sheet of the first n pictures: from those just drawn, or, where these are not all, drawn again."""
    if sum(len(part.array) for part in shown) < n:
        return run.sample(n, batch_size=batch_size, **choices).grid()
    array = np.concatenate([part.array for part in shown])[:n]
    return dataclasses.replace(shown[0], array=array).grid()
