"""Drawing any number of pictures into a folder: in flat memory, on several processes, and on after a stop.

    manifest.json                what is drawn, and how (run, seed, solver, levels); a second call with the same
                                 choices goes on
    000000.png …                 one file a picture, its provenance inside
    shard-000000.npy …           or, for many, SHARD pictures a file, (n, C, H, W), with labels-000000.npy beside
    grid.png                     the first pictures, to look at

Every file appears whole or not at all, so that what is missing after a stop is told by the names.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from unblot.config.schema import DataFacts, SampleConfig
from unblot.data.output import picture_suffix, save_array
from unblot.data.values import ValueMap
from unblot.errors import UnblotError, arg
from unblot.runs.folder import SAMPLES, fingerprint
from unblot.runs.run import Run, Samples
from unblot.sampling.batched import sampling_levels
from unblot.sampling.settings import SamplerConfig
from unblot.system.compiling import compiled_for_many
from unblot.system.distributed import Group, wait_for_all
from unblot.system.folders import MANIFEST, begin_folder, claimed, recorded, refuse_foreign
from unblot.system.stored import read_stored

GRID = "grid.png"
SHARD = 4096  # pictures
MANY = 10_000  # pictures, from which on they are kept in shards
SHOWN = 100  # pictures in the grid
SETTLED = {"quality", "nfe", *(f.name for f in dataclasses.fields(SamplerConfig))}  # choices that make a setting


def sample_to_folder(
    folder: Path | None,
    run: Run,
    n: int,
    *,
    overwrite: bool = False,
    batch_size: int = 64,
    group: Group | None = None,
    progress: Callable[[int], None] = lambda pictures: None,
    note: Callable[[str], None] = lambda line: None,
    **choices: Any,
) -> Path:
    """Writes n samples into a folder, all but those that are there already; `choices` as in `Run.sample`. Returns it.

    folder: None for a new one in the run. group: processes that share the work. `progress` gets the number of samples
    that were just made, or found; `note` a line where the network is compiled. Raises UnblotError where the folder
    holds anything else and `overwrite` is False, or where another process writes into it.
    """
    SampleConfig(n=n, batch_size=batch_size)  # holds the numbers to their ranges
    if folder is not None and not (folder / MANIFEST).exists():
        refuse_foreign(folder, (), overwrite)  # before a lock is put there
    with claimed(folder, run.path / SAMPLES / "sample", group or Group()) as claim:
        _sample_into(claim, run, n, overwrite, batch_size, group or Group(), progress, note, choices)
    return claim


def _sample_into(
    folder: Path,
    run: Run,
    n: int,
    overwrite: bool,
    batch_size: int,
    group: Group,
    progress: Callable[[int], None],
    note: Callable[[str], None],
    choices: dict[str, Any],
) -> None:
    shards = n >= MANY or run.config.data.kind == "points"
    asked = {k: v for k, v in choices.items() if k in SETTLED}
    sampler = run.sampler(label=choices.get("label"), **asked)  # tuned or not meanwhile, the draw goes on as it began
    choices = {k: v for k, v in choices.items() if k not in asked} | dataclasses.asdict(sampler)
    manifest = {"n": n, "shards": shards, "model": fingerprint(run.denoiser), **choices}
    names = file_names(n, shards, run.config.data, labels=choices.get("label") is not None)
    there = _present(folder, manifest, names, overwrite)
    size = SHARD if shards else batch_size
    units = [range(first, min(first + size, n)) for first in range(0, n, size)]
    shown: list[Samples] = []
    begun = False

    def begin(first: Samples | None = None) -> None:
        nonlocal begun
        if not begun:
            fresh = overwrite or not (folder / MANIFEST).exists()
            if fresh and group.is_main_process and first is not None:
                begin_folder(folder, names, {**manifest, "sampled_with": _told(first)}, overwrite)
            wait_for_all(group)  # nobody writes before the first one has made room
        begun = True

    mine = units[group.rank :: group.world]
    left = [unit for unit in mine if not _names(unit, shards) <= there]
    progress(sum(map(len, mine)) - sum(map(len, left)))
    with _fast(run, sum(-(-len(unit) // batch_size) for unit in left), batch_size, choices, note):
        for unit in left:
            pictures = run.sample(len(unit), first=unit[0], batch_size=batch_size, **choices)
            if unit[0] < SHOWN:
                shown.append(pictures)
            begin(pictures)
            _write(folder, pictures, shards)
            progress(len(unit))
    begin()
    _sweep(folder, {name for unit in mine for name in _names(unit, shards)})
    if group.is_main_process:
        _grid(run, min(n, SHOWN), shown, batch_size, choices).save(folder / GRID)
    wait_for_all(group)  # the folder stays claimed until all are done


def _fast(
    run: Run, batches: int, batch_size: int, choices: dict[str, Any], note: Callable[[str], None]
) -> AbstractContextManager[None]:
    """Within it so many batches are drawn with a compiled network, on a GPU where that pays."""
    mode = "off" if run.config.train.compile == "off" else "auto"

    def a_batch() -> Samples:
        return run.sample(batch_size, batch_size=batch_size, **choices)

    return compiled_for_many(run.denoiser.network, mode, run.device, a_batch, batches, note)


def _told(pictures: Samples) -> dict[str, Any]:
    """How the pictures are drawn, every choice made, with the levels (sigma/alpha) that it leads to."""
    about = pictures.provenance
    levels = sampling_levels(about["schedule"], about["spacing"], about["steps"])
    ratios = [float(f"{ratio:.6g}") for ratio in (levels.sigma / levels.alpha).tolist()]
    return {**about, "levels": [ratio if math.isfinite(ratio) else "infinity" for ratio in ratios]}


def _names(unit: range, shards: bool) -> set[str]:
    """The stems of the files that say that these pictures are there."""
    return {f"shard-{unit[0] // SHARD:06d}"} if shards else {f"{i:06d}" for i in unit}


def _sweep(folder: Path, names: set[str]) -> None:
    """Removes what a process that was killed while it wrote one of these files has left."""
    for path in folder.glob(".*.tmp"):
        if path.name[1:].split(".")[0].replace("labels-", "shard-") in names:
            path.unlink(missing_ok=True)


def file_names(n: int, shards: bool, data: DataFacts, labels: bool) -> list[str]:
    """The names of all files of n samples, in the order in which they are written."""
    if not shards:
        suffix = picture_suffix(data.channels, ValueMap.from_dict(data.values))
        return [*(f"{i:06d}{suffix}" for i in range(n)), GRID]
    numbers = range(math.ceil(n / SHARD))
    beside = [f"labels-{i:06d}.npy" for i in numbers] if labels else []
    return [*beside, *(f"shard-{i:06d}.npy" for i in numbers), GRID]


def _present(folder: Path, manifest: dict[str, Any], names: Sequence[str], overwrite: bool) -> set[str]:
    """The stems of the files that an earlier call with the same choices has left in the folder."""
    path = folder / MANIFEST
    if overwrite or not path.exists():
        refuse_foreign(folder, names, overwrite)
        return set()
    there = read_stored(path, dict[str, Any])
    if {k: v for k, v in there.items() if k not in ("sampled_with", "files")} != json.loads(json.dumps(manifest)):
        raise UnblotError(
            f"{str(folder)!r} holds samples of another model or of other choices (see its {MANIFEST}); choose another "
            f"{arg('out')}, or give {arg('overwrite', True)}"
        )
    return {Path(name).stem for name in recorded(folder) if (folder / name).is_file()}


def _write(folder: Path, pictures: Samples, shards: bool) -> None:
    if not shards:
        pictures.save_files(folder)
        return
    number = f"{pictures.indices[0] // SHARD:06d}.npy"
    if pictures.labels is not None:
        save_array(folder / f"labels-{number}", np.array(pictures.labels))
    save_array(folder / f"shard-{number}", pictures.array)  # last: it says that all of this is there


def _grid(run: Run, n: int, shown: Sequence[Samples], batch_size: int, choices: dict[str, Any]) -> Any:
    """The sheet of the first n pictures: from those just drawn, or, where these are not all, drawn again."""
    if sum(len(part.array) for part in shown) < n:
        return run.sample(n, batch_size=batch_size, **choices).grid()
    array = np.concatenate([part.array for part in shown])[:n]
    return dataclasses.replace(shown[0], array=array).grid()
