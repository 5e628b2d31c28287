"""The run folder, the one artefact of training, and the model file in it.

    config.json          every choice, and what the data is
    model.safetensors    the averaged weights; its header repeats the config, so that it is enough to sample from
    teacher.safetensors  of a distilled run: the model that it was made from
    metrics.jsonl        one JSON object a line; without times, so that a repetition writes the same
    plan.json            with --budget: what trial steps said of the run, and what became of it
    training.log         what was said while it trained, with times
    tuning.json          how this model samples best, where `unblot tune` has found that out
    checkpoints/         everything needed to go on
    snapshots/           averages of the weights on the way, from which others are rebuilt
    samples/  report/    pictures drawn on the way; the evaluation

Files are written under another name and then renamed, so that a reader never sees half of one.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import filelock
import torch
from torch import Tensor

from unblot.config.schema import RunConfig
from unblot.data.augment import AUGMENTATIONS
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.losses import OBJECTIVES
from unblot.nn import NETWORKS
from unblot.specs import build
from unblot.system.files import read_tensors, write_json, write_tensors

CONFIG, MODEL, METRICS, TEACHER = "config.json", "model.safetensors", "metrics.jsonl", "teacher.safetensors"
PLAN = "plan.json"
CHECKPOINTS, SAMPLES, REPORT, SNAPSHOTS = "checkpoints", "samples", "report", "snapshots"
TUNING = "tuning.json"
BEST, LOG, LOCK, WANDB_ID = "best.safetensors", "training.log", ".lock", "wandb.id"


def build_denoiser(config: RunConfig) -> Denoiser:
    """The run's denoiser with fresh weights, which follow from the run's seed, in channels_last."""
    train, data = config.train, config.data
    conditions = build(AUGMENTATIONS, train.augment, "augmentation").conditions
    learned = build(OBJECTIVES, train.objective, "objective").learned_variance
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
        torch.manual_seed(train.seed)
        size = (data.height, data.width)
        inputs = data.channels + conditions
        outputs = 2 * data.channels if learned else data.channels
        network = build(NETWORKS, train.network, "network", inputs, outputs, size, data.num_labels)
    denoiser = Denoiser(network, train.parameterization, train.data_std, data.num_labels, conditions, learned)
    return denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fingerprint(denoiser: Denoiser) -> str:
    """A hash of a model's weights: what was drawn or tuned with these is told from what was with others."""
    digest = hashlib.sha256()
    for _, weight in sorted(denoiser.state_dict().items()):
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def refuse_run(folder: Path) -> None:
    """Raises UnblotError where a run, or anything else, stands already in the folder."""
    if folder.exists() and any(p.name != LOCK for p in folder.iterdir()):
        raise UnblotError(
            f"run folder {str(folder)!r} exists; go on with --resume {folder}, choose another with --out, "
            "or replace it with --overwrite"
        )


def create(folder: Path, config: RunConfig, overwrite: bool = False) -> None:
    """A new run folder with its config.json. Raises UnblotError where one stands already and `overwrite` is False."""
    if not overwrite:
        refuse_run(folder)
    files = MODEL, TEACHER, METRICS, PLAN, TUNING, BEST, LOG, WANDB_ID
    for part in (CHECKPOINTS, SAMPLES, REPORT, SNAPSHOTS, *files, "tensorboard"):
        _remove(folder / part)
    for part in (SAMPLES, CHECKPOINTS):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, config.to_dict())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it no other process trains in this run folder, which is made where there is none.

    The lock ends with the process, however that ends. Raises UnblotError where another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / LOCK, timeout=0):
            yield
    except filelock.Timeout:
        raise UnblotError(
            f"run folder {str(folder)!r} is in training by another process; wait for its end, stop it, or "
            "choose another folder with --out"
        ) from None


def save_model(path: Path, config: RunConfig, weights: Mapping[str, Tensor]) -> None:
    """model.safetensors: the weights, with the whole config in the header."""
    write_tensors(path, weights, {"unblot": json.dumps(config.to_dict())})


def load_model(path: Path) -> tuple[RunConfig, Denoiser]:
    """The config and the trained denoiser of a model file or of a run folder.

    Raises UnblotError for a missing, truncated or foreign file, or one whose weights do not fit its config.
    """
    path = model_file(path)
    weights, header = read_tensors(path)
    if "unblot" not in header:
        raise UnblotError(f"{str(path)!r} was not written by unblot: its header has no config")
    try:
        config = RunConfig.from_dict(json.loads(header["unblot"]))
        denoiser = build_denoiser(config)
        denoiser.load_state_dict(weights)
    except (UnblotError, ValueError, TypeError, KeyError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UnblotError(f"{str(path)!r} is damaged: weights and config do not fit ({reason})") from None
    return config, denoiser.eval()


def model_file(path: Path) -> Path:
    """The model file of a run folder, or the file itself. Raises UnblotError where there is none."""
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise UnblotError(f"no model at {str(path)!r}; give a run folder or a model.safetensors")
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_config(folder: Path) -> RunConfig:
    """The config of a run folder. Raises UnblotError where there is none or it cannot be read."""
    path = folder / CONFIG
    try:
        return RunConfig.from_dict(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise UnblotError(f"no run at {str(folder)!r}: it has no {CONFIG}") from None
    except ValueError as e:
        raise UnblotError(f"{str(path)!r} is damaged ({e})") from None
