"""Runs that others have published on the Hugging Face hub: `hf:OWNER/NAME`, kept in runs/OWNER--NAME from then on.

Only the files that a run is used with are taken, and they are read as any others: nothing in them is executed.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unblot.errors import UnblotError, note, one_line, printable
from unblot.runs.folder import CONFIG, MODEL, TUNING, load_model
from unblot.system.files import write_whole

PREFIX = "hf:"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MISSING = ("RepositoryNotFoundError", "RemoteEntryNotFoundError", "GatedRepoError", "DisabledRepoError")
INSTALL = "pip install 'unblot[hub]'"


def is_at_hub(path: str | Path) -> bool:
    """Whether a path names a run on the hub."""
    return str(path).startswith(PREFIX)


def hub_name(text: str) -> str:
    """OWNER/NAME in `hf:OWNER/NAME` or OWNER/NAME. Raises UnblotError for anything else."""
    name = text.removeprefix(PREFIX)
    if not NAME.fullmatch(name) or ".." in name:
        raise UnblotError(f"{printable(text)!r} is no name on the hub; give OWNER/NAME, as in hf:ada/digits")
    return name


def local_run(path: str | Path) -> Path:
    """The path of a run; one on the hub is first copied into runs/OWNER--NAME, where it then stays.

    Raises UnblotError where the hub cannot be reached, has no such run, or what it has is not one of unblot's.
    """
    if not is_at_hub(path):
        return Path(path)
    name = hub_name(str(path))
    place = Path("runs") / name.replace("/", "--")
    if not (place / MODEL).is_file():
        found = {file: _taken(name, file) for file in (CONFIG, TUNING, MODEL)}
        model = found[MODEL]
        assert model is not None
        load_model(model)  # before anything is kept
        for file, taken in found.items():  # the model last: with it the run is whole
            if taken is not None:
                write_whole(place / file, lambda target, taken=taken: shutil.copyfile(taken, target))  # type: ignore[misc]
        note(f"{name} is in {place} now; remove that folder to take it from the hub again")
    return place


def _taken(name: str, file: str) -> Path | None:
    """A file of a run on the hub, in the hub's own cache; None where the run has none and can do without."""
    with reaching_hub(name):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        try:
            return Path(hf_hub_download(name, file))
        except RemoteEntryNotFoundError:
            if file == MODEL:
                raise
            return None


@contextmanager
def reaching_hub(name: str) -> Iterator[None]:
    """Turns errors of the hub into a one-line UnblotError, and silences its retry messages."""
    try:
        with quiet_hub():
            yield
    except UnblotError:
        raise
    except ModuleNotFoundError as error:
        raise UnblotError(f"the hub needs the package {error.name}; {INSTALL}") from None
    except Exception as error:
        kind, reason = type(error).__name__, printable(one_line(error))
        if kind in MISSING:
            why = f"there is no such model, or it has no {MODEL}, or it is not for everybody (then: hf auth login)"
        elif kind == "LocalTokenNotFoundError" or getattr(getattr(error, "response", None), "status_code", 0) == 401:
            why = "the hub does not know you; log in with: hf auth login"
        else:
            why = f"the hub cannot be used ({reason or kind}); check the network, or give the folder of a run"
        raise UnblotError(f"{PREFIX}{name}: {why}") from None


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Within it the hub's library logs errors alone. Raises ModuleNotFoundError where it is not installed."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
