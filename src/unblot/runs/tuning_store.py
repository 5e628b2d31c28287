"""The result of tuning a run, kept in its tuning.json, and the sampler that follows from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unblot.denoiser import Denoiser
from unblot.runs.folder import TUNING, fingerprint
from unblot.sampling.settings import Candidate, SamplerConfig
from unblot.system.files import checksum, write_json
from unblot.system.stored import read_stored

DEFAULT = "good"  # the quality of a tuned run that is sampled without choices


@dataclass(frozen=True)
class Tuning:
    """The candidates that a run's tuning measured, one for each NFE, and how they were measured (`about`).

    model: the fingerprint of the weights that they hold for. guides: the SHA-256 of each weaker model among them, by
    its path in the run's folder.
    """

    model: str
    candidates: tuple[Candidate, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    guides: Mapping[str, str] = field(default_factory=dict)


def write_tuning(folder: Path, tuning: Tuning) -> None:
    """Writes tuning.json into the run's folder, in place of an earlier one."""
    write_json(folder / TUNING, asdict(tuning))


def read_tuning(folder: Path, denoiser: Denoiser | None = None) -> Tuning | None:
    """The tuning of the run in a folder; None where there is none, or where it holds for other weights.

    Raises UnblotError for a damaged file.
    """
    path = folder / TUNING
    if not path.exists():
        return None
    tuning = read_stored(path, Tuning, f"it is damaged; write it anew with: unblot tune {folder}")
    return tuning if denoiser is None or tuning.model == fingerprint(denoiser) else None


def usable(tuning: Tuning | None, folder: Path, *, guided: bool) -> Tuning | None:
    """The tuning without the candidates that cannot be sampled in this folder; None where none is left.

    Without `guided` no guided candidate is kept. One whose weaker model is missing or changed is never kept.
    """
    if tuning is None:
        return None
    lost = lost_guides(tuning, folder) if guided else set()

    def can(sampler: SamplerConfig) -> bool:
        return not sampler.guided or (guided and sampler.autoguide not in lost)

    candidates = tuple(candidate for candidate in tuning.candidates if can(candidate.sampler))
    return replace(tuning, candidates=candidates) if candidates else None


def lost_guides(tuning: Tuning, folder: Path) -> set[str]:
    """The weaker models of a tuning that are missing from the folder, or changed."""
    wanted = {candidate.sampler.autoguide for candidate in tuning.candidates if candidate.sampler.autoguide is not None}
    return {
        name for name in wanted if not (folder / name).is_file() or checksum(folder / name) != tuning.guides.get(name)
    }
