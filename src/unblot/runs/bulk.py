"""Sampling any number of pictures into a folder: in bounded memory, on several processes, resumed after a stop.

    manifest.json                all choices (run, seed, solver, levels); a second call with the same choices resumes
    000000.png …                 one file per sample, its provenance inside
    shard-000000.npy …           or, of many, SHARD samples per file, (n, C, H, W), with labels-000000.npy beside it
    grid.png                     the first samples in one image

Every file appears whole or not at all, so that the names alone say what is missing after a stop.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unblot.config.choices import from_choices
from unblot.config.sampling import SampleConfig
from unblot.data.output import picture_suffix, save_array
from unblot.data.values import ValueMap
from unblot.errors import UnblotError, arg
from unblot.runs.conditions import labels_by_share, note_on_turns
from unblot.runs.folder import SAMPLES, fingerprint
from unblot.runs.run import Run, Samples, provenance_of
from unblot.runs.samples import network_calls
from unblot.sampling.batched import sampling_levels
from unblot.sampling.loop import Progress
from unblot.sampling.settings import SamplerConfig
from unblot.system.compiling import compiled_for_many
from unblot.system.distributed import Group, wait_for_all
from unblot.system.folders import GENERATOR, GRID, MANIFEST, begin_folder, claimed, recorded, refuse_foreign
from unblot.system.launch import need_name, started_again
from unblot.system.stored import read_stored

SHARD = 4096  # samples per file
MANY = 10_000  # from this number of samples on they are written in shards
SHOWN = 100  # samples in the grid
ASKED = {"n", "batch_size", "device", "quality", "nfe"}  # fields of SampleConfig that the manifest does not repeat


@dataclass(frozen=True)
class Job:
    """What is sampled: the run, the choices, and the sampler that they led to at the start."""

    run: Run
    config: SampleConfig
    sampler: SamplerConfig
    on_step: Callable[[Progress], None] | None = None

    @property
    def shards(self) -> bool:
        """Whether samples are written in shards instead of one file each."""
        return self.config.n >= MANY or self.run.config.data.kind == "points"

    def sample(self, indices: Sequence[int]) -> Samples:
        """The samples numbered `indices`."""
        return self.run.sample_with(self.sampler, self.config, indices, self.on_step)

    def manifest(self) -> dict[str, Any]:
        """Everything that the samples depend on, as plain JSON values."""
        asked = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in ASKED}
        asked = {k: v for k, v in asked.items() if v is not None or k not in ("prompt", "negative")}
        chosen = {**asked, **dataclasses.asdict(self.sampler)}
        about: dict[str, Any] = {"n": self.config.n, "shards": self.shards, "model": fingerprint(self.run.denoiser)}
        if self.sampler.autoguide is not None:
            about["weaker_model"] = fingerprint(self.run.weaker_model(self.sampler.autoguide))
        return {**about, **chosen, **self.run.added}

    def file_names(self) -> list[str]:
        """The names of all files, in the order in which they are written."""
        n, data = self.config.n, self.run.config.data
        if not self.shards:
            suffix = picture_suffix(data.channels, ValueMap.from_dict(data.values))
            return [*(f"{i:06d}{suffix}" for i in range(n)), GRID]
        numbers = range(math.ceil(n / SHARD))
        run = self.run.config
        by_class = self.config.label is not None or (run.draws_labels and labels_by_share(run, self.config))
        labels = [f"labels-{i:06d}.npy" for i in numbers] if by_class else []
        return [*labels, *(f"shard-{i:06d}.npy" for i in numbers), GRID]

    def compiled(self, batches: int, note: Callable[[str], None]) -> AbstractContextManager[None]:
        """Within it `batches` batches are sampled with a compiled network, on a GPU where that saves time."""
        mode = "off" if self.run.config.train.compile == "off" else "auto"
        batch = range(self.config.batch_size)
        return compiled_for_many(
            self.run.denoiser.network, mode, self.run.device, lambda: self.sample(batch), batches, note
        )


def sample_to_folder(
    folder: Path | None,
    run: Run,
    n: int = 16,
    *,
    overwrite: bool = False,
    group: Group | None = None,
    progress: Callable[[int], None] = lambda pictures: None,
    note: Callable[[str], None] = lambda line: None,
    on_step: Callable[[Progress], None] | None = None,
    **choices: Any,
) -> Path:
    """Writes n samples into a folder, all but those that are there already, and returns it; choices: see `Run.sample`.

    folder: None for a new one in the run. group: the processes that share the work. progress: called with the number of
    samples just written, or found. note: called with a line on whether the network was compiled, where that was tried.
    on_step: see `Run.sample`. Raises UnblotError where the folder holds anything else and `overwrite` is False, or
    another process writes into it; nothing is written before the first batch is done.
    """
    config = from_choices(SampleConfig, {"n": n, **choices}, without=["device"])
    if (group or Group()).is_main_process:
        note_on_turns(config.prompt, n)
    need_name(folder)
    overwrite = overwrite and not started_again()  # of torchrun's starts only the first replaces what is there
    job, group = Job(run, config, run.sampler(config), on_step), group or Group()
    if folder is not None and not (folder / MANIFEST).exists():
        refuse_foreign(folder, job.file_names(), overwrite)  # before a lock is put there
    with claimed(folder, run.path / SAMPLES / "sample", group) as claim:
        _sample_into(claim, job, overwrite, group, progress, note)
    return claim


def _sample_into(
    folder: Path,
    job: Job,
    overwrite: bool,
    group: Group,
    progress: Callable[[int], None],
    note: Callable[[str], None],
) -> None:
    n, batch_size, manifest, names = job.config.n, job.config.batch_size, job.manifest(), job.file_names()
    there = _present(folder, manifest, names, overwrite)
    size = SHARD if job.shards else batch_size
    units = [range(first, min(first + size, n)) for first in range(0, n, size)]
    shown: list[Samples] = []
    about = {**manifest, "sampled_with": _sampled_with(job)}
    begun = False

    def begin() -> None:
        nonlocal begun
        if not begun:
            fresh = overwrite or not (folder / MANIFEST).exists()
            if fresh and group.is_main_process:
                begin_folder(folder, names, about, overwrite)
            wait_for_all(group)  # no other process writes before the main one has prepared the folder
        begun = True

    mine = units[group.rank :: group.world]
    left = [unit for unit in mine if not _names(unit, job.shards) <= there]
    progress(sum(map(len, mine)) - sum(map(len, left)))
    with job.compiled(sum(-(-len(unit) // batch_size) for unit in left), note):
        for unit in left:
            samples = job.sample(unit)
            if unit[0] < SHOWN:
                shown.append(samples)
            begin()
            _write(folder, samples, job.shards)
            progress(len(unit))
    begin()
    _sweep(folder, {name for unit in mine for name in _names(unit, job.shards)})
    if group.is_main_process:
        _grid(job, min(n, SHOWN), shown).save(folder / GRID)
    wait_for_all(group)  # the folder stays claimed until all are done


def _sampled_with(job: Job) -> dict[str, Any]:
    """The provenance of samples, with the network calls of each and the levels sigma/alpha that are visited."""
    about = provenance_of(job.run, job.sampler, job.config)
    levels = sampling_levels(about["schedule"], about["spacing"], about["steps"])
    ratios = [float(f"{ratio:.6g}") for ratio in (levels.sigma / levels.alpha).tolist()]
    calls = network_calls(job.sampler, about["schedule"])
    return {**about, "nfe": calls, "levels": [ratio if math.isfinite(ratio) else "infinity" for ratio in ratios]}


def _names(unit: range, shards: bool) -> set[str]:
    """The stems of the files whose presence shows that these samples are written."""
    return {f"shard-{unit[0] // SHARD:06d}"} if shards else {f"{i:06d}" for i in unit}


def _sweep(folder: Path, names: set[str]) -> None:
    """Removes the partial files of processes that were killed while they wrote one of these."""
    for path in folder.glob(".*.part"):
        if path.name[1:].split(".")[0].replace("labels-", "shard-") in names:
            path.unlink(missing_ok=True)


def _present(folder: Path, manifest: dict[str, Any], names: Sequence[str], overwrite: bool) -> set[str]:
    """The stems of the files that an earlier call with the same choices has left in the folder."""
    path = folder / MANIFEST
    if overwrite or not path.exists():
        refuse_foreign(folder, names, overwrite)
        return set()
    there = read_stored(path, dict[str, Any])
    if {k: v for k, v in there.items() if k not in ("sampled_with", GENERATOR, "files")} != json.loads(
        json.dumps(manifest)
    ):
        raise UnblotError(
            f"{str(folder)!r} holds samples of another model or of other choices (see its {MANIFEST}); choose another "
            f"{arg('out')}, or give {arg('overwrite', True)}"
        )
    return {Path(name).stem for name in recorded(folder) if (folder / name).is_file()}


def _write(folder: Path, samples: Samples, shards: bool) -> None:
    if not shards:
        samples.save_files(folder)
        return
    number = f"{samples.indices[0] // SHARD:06d}.npy"
    if samples.labels is not None:
        save_array(folder / f"labels-{number}", np.array(samples.labels))
    save_array(folder / f"shard-{number}", samples.array)  # last: its presence shows that the labels are there too


def _grid(job: Job, n: int, shown: Sequence[Samples]) -> Image.Image:
    """The first n samples in one image: those at hand, or, where some are missing, sampled again."""
    if sum(len(part.array) for part in shown) < n:
        return job.sample(range(n)).grid()
    array = np.concatenate([part.array for part in shown])[:n]
    prompts = [prompt for part in shown for prompt in part.prompts or ()][:n]
    return dataclasses.replace(shown[0], array=array, prompts=prompts or None).grid()
