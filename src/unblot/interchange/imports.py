"""A run of a model that another program trained: a folder of diffusers, a checkpoint of another trainer."""

from pathlib import Path

import torch

from unblot.config.export import ImportConfig
from unblot.errors import UnblotError, arg, note, printable
from unblot.interchange.from_checkpoint import read_checkpoint
from unblot.interchange.from_diffusers import read_folder
from unblot.interchange.imported import LABELS
from unblot.runs.folder import MODEL, create, fitted, refuse_run, save_model
from unblot.system.folders import claimed, user_path


def import_run(
    source: str | Path, choices: ImportConfig | None = None, out: Path | None = None, overwrite: bool = False
) -> Path:
    """Makes a run of a model from elsewhere: its folder, by default a new one in runs/, which is returned.

    choices: what a checkpoint does not say of itself. Raises UnblotError for a source that is none of those known, and
    for a model that no network here holds; then nothing is written.
    """
    source, choices = user_path(source), choices or ImportConfig()
    if out is not None:
        refuse_run(out, overwrite)
    if source.is_dir() and (given := [(name, value) for name, value in vars(choices).items() if value]):
        raise UnblotError(f"{arg(*given[0])} is for a checkpoint, a single file; leave it out: a folder says it itself")
    config, weights, path, lines = read_checkpoint(source, choices) if source.is_file() else read_folder(source)
    if config.data.num_labels and config.data.num_labels == len(weights[LABELS]):  # none of them stands for "no label"
        weights[LABELS] = torch.cat([weights[LABELS], weights[LABELS].mean(0, keepdim=True)])
    denoiser = fitted(config, {f"network.{name}": tensor for name, tensor in weights.items()}, path)
    with claimed(out, out or Path("runs") / folder_name(config.data.name)) as folder:
        create(folder, config, overwrite)
        save_model(folder / MODEL, config, denoiser.state_dict())
    for line in lines:
        note(line)
    return folder


def folder_name(name: str) -> str:
    """The name of a run's folder, from the name that a file from elsewhere gives its data: of a path the last part.

    Raises UnblotError where that is no name of a folder.
    """
    last = Path(name.replace("\\", "/")).name
    if last in ("", "..") or printable(last) != last:
        raise UnblotError(f"its data has a name that no folder can have, {printable(name)!r}; name one by {arg('out')}")
    return last
