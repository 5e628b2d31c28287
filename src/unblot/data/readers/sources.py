"""Where pictures come from: one small reader for each kind of source, in one table."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unblot import specs
from unblot.data.readers import arrays, builtin, folders, hub
from unblot.data.readers.listing import DataSource, printable
from unblot.errors import UnblotError

SOURCES: dict[str, Callable[..., DataSource]] = {
    "digits": builtin.digits,
    "moons": builtin.moons,
    "rings": builtin.rings,
    "gaussians": builtin.gaussians,
    "folder": folders.folder,
    "zip": folders.zipped,
    "tar": folders.tar,
    "webdataset": folders.webdataset,
    "npy": arrays.npy,
    "npz": arrays.npz,
    "hdf5": arrays.hdf5,
    "idx": arrays.idx,
    "tiff": arrays.tiff_stack,
    "huggingface": hub.huggingface,
}
BUILT_IN = ("digits", "moons", "rings", "gaussians")
ENDINGS = {  # of a file's name, in small letters
    ".zip": "zip",
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), "tar"),
    ".npy": "npy",
    ".npz": "npz",
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".he5"), "hdf5"),
    **dict.fromkeys((".idx", ".idx.gz", "-ubyte", "-ubyte.gz"), "idx"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
}


def open_source(spec: str, options: Mapping[str, Any] | None = None) -> tuple[DataSource, str]:
    """The source that `spec` names and a stamp that changes when its files or the way of reading them do.

    spec: a built-in name, a path or `hf:NAME`, each perhaps with options: `stack.tif:pages=channels`. `options` are
    laid over those. Raises UnblotError where there is nothing, or nothing that can be read.
    """
    place, written = _place_and_options(spec)
    kind = kind_of(place)
    _, chosen = specs.parse(SOURCES, f"{kind}:{written}", "data source")
    for key, value in (options or {}).items():
        if key not in chosen:
            known = ", ".join(chosen) or "none"
            raise UnblotError(f"the data source {kind!r} has no option {key!r}; its options are: {known}")
        chosen[key] = value
    source = SOURCES[kind](place, **chosen)
    told = json.dumps([kind, source.origin, sorted(chosen.items())])
    return source, hashlib.sha256(told.encode()).hexdigest()


def kind_of(place: str) -> str:
    """The name of the reader, a key of SOURCES, for a place. Raises UnblotError where there is none."""
    if place in BUILT_IN:
        return place
    if place.startswith(hub.PREFIX):
        return "huggingface"
    name = Path(place).name.lower()
    if "{" in place and name.endswith(".tar") and not os.path.exists(place):
        return "webdataset"
    if os.path.isdir(place):
        shards = [n for n in os.listdir(place) if n.endswith(".tar")] if os.access(place, os.R_OK) else []
        return "webdataset" if shards and len(shards) == len(os.listdir(place)) else "folder"
    if not os.path.lexists(place):
        raise UnblotError(f"no such file or folder: {printable(place)!r}; built-in data: {', '.join(BUILT_IN)}")
    for ending, kind in ENDINGS.items():
        if name.endswith(ending):
            return kind
    if re.search(r"idx[1-4]", name):
        return "idx"
    known = "a folder, " + ", ".join(dict.fromkeys(e for e in ENDINGS if e[0] == "."))
    raise UnblotError(f"cannot tell what {printable(place)!r} is; known are {known} and IDX files")


def _place_and_options(spec: str) -> tuple[str, str]:
    """A spec's place and its written options; a file that is really called so comes first."""
    if os.path.lexists(spec):
        return spec, ""
    match = re.fullmatch(r"(.+?):(\w+=[^:]*)", spec, re.DOTALL)
    return (match[1], match[2]) if match else (spec, "")
