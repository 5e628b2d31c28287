"""A run on the Hugging Face hub: its model, its card, and how it samples best; no path of this machine goes along."""

import dataclasses
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from unblot.config.card import CardConfig
from unblot.config.schema import RunConfig
from unblot.errors import note
from unblot.interchange.card import PICTURE, README, own_report, write_card
from unblot.runs.folder import CARD, CONFIG, MODEL, TUNING, save_model
from unblot.runs.hub import hub_name, reaching_hub
from unblot.runs.run import Run
from unblot.system.files import write_json

T = TypeVar("T", bound=Any)


def publish(run: Run, name: str, config: CardConfig | None = None, private: bool = False) -> str:
    """Puts a run on the hub as OWNER/NAME, with a new card; returns its address.

    A model of that name gets another version. Raises UnblotError where the hub cannot be reached or refuses.
    """
    name = hub_name(name)
    with reaching_hub(name):
        from huggingface_hub import HfApi
    write_card(run, config)
    if own_report(run) is None:
        note(f"whether it copies its training pictures is not known; unblot evaluate {run.path} measures it")
    with tempfile.TemporaryDirectory() as folder:
        gather(run, Path(folder))
        with reaching_hub(name):
            api = HfApi()
            address = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="A run of unblot")
    return str(address)


def gather(run: Run, folder: Path) -> None:
    """Writes the files that are published into a folder."""
    config = without_paths(run.config)
    save_model(folder / MODEL, config, run.denoiser.state_dict())
    write_json(folder / CONFIG, config.to_dict())
    for file in (run.path / CARD / README, run.path / CARD / PICTURE, run.path / TUNING):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def without_paths(config: RunConfig) -> RunConfig:
    """The configuration with the last part alone of every path of this machine."""
    source = config.source if config.source.data.startswith("hf:") else _named(config.source, "data")
    distill = None if config.distill is None else _named(config.distill, "teacher")
    origin = None if config.origin is None else _named(config.origin, "path")
    encoder = re.sub(r"(?<=:model=)/[^,]*", lambda found: Path(found[0]).name, config.train.text_encoder)
    train = dataclasses.replace(config.train, text_encoder=encoder)
    return dataclasses.replace(config, source=source, train=train, distill=distill, origin=origin)


def _named(config: T, field: str) -> T:
    """The configuration with the last part of the path in one of its fields."""
    return dataclasses.replace(config, **{field: Path(getattr(config, field)).name})
