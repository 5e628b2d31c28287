"""Where pictures come from: one small reader for each kind of source, in one table."""

import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unblot import specs
from unblot.data.readers import archives, arrays, builtin, dicom_names, folders, hdf5, hub, medical, results, shapes
from unblot.data.readers import shards as in_shards
from unblot.data.readers.listing import NO_LABELS, DataSource, Listing, hidden, kind_of_file
from unblot.data.shards import places
from unblot.errors import UnblotError, printable

SOURCES: dict[str, Callable[..., DataSource]] = {
    "digits": builtin.digits,
    "moons": builtin.moons,
    "rings": builtin.rings,
    "gaussians": builtin.gaussians,
    "shapes": shapes.shapes,
    "folder": folders.folder,
    "picture": folders.picture,
    "zip": archives.zipped,
    "tar": archives.tar,
    "webdataset": archives.webdataset,
    "npy": arrays.npy,
    "npz": arrays.npz,
    "hdf5": hdf5.hdf5,
    "idx": arrays.idx,
    "tiff": arrays.tiff_stack,
    "dicom": medical.dicom,
    "nifti": medical.nifti,
    "mat": medical.mat,
    "huggingface": hub.huggingface,
    "shards": in_shards.shards,
    "results": results.results,
}
BUILT_IN = ("digits", "moons", "rings", "gaussians", "shapes")
ENDINGS = {  # of a file's name, in small letters
    ".zip": "zip",
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), "tar"),
    ".npy": "npy",
    ".npz": "npz",
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".he5"), "hdf5"),
    **dict.fromkeys((".idx", ".idx.gz", "-ubyte", "-ubyte.gz"), "idx"),
    **dict.fromkeys(dicom_names.DICOM, "dicom"),
    **dict.fromkeys(medical.NIFTI, "nifti"),
    ".mat": "mat",
    **dict.fromkeys(folders.PICTURES, "picture"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
}


def open_source(spec: str, options: Mapping[str, Any] | None = None, *, labels: bool = True) -> tuple[DataSource, str]:
    """The source that `spec` names and a stamp that changes when its files or the way of reading them do.

    spec: a built-in name, a path (~ is the home folder) or `hf:NAME`, each perhaps with options:
    `stack.tif:pages=channels`. `options` are laid over those. labels: False reads all pictures, also those without a
    label, and no labels. Raises UnblotError where there is nothing, or nothing that can be read.
    """
    place, written = split_spec(spec)
    kind = kind_of(place)
    _, chosen = specs.parse(SOURCES, f"{kind}:{written}", "data source")
    for key, value in (options or {}).items():
        if key not in chosen:
            known = ", ".join(chosen) or "none"
            raise UnblotError(f"the data source {kind!r} has no option {key!r}; its options are: {known}")
        chosen[key] = value
    for key in ("labels", "label") if not labels else ():
        if isinstance(chosen.get(key), str):
            chosen[key] = NO_LABELS
    source = SOURCES[kind](place, **chosen)
    if place in BUILT_IN and kind != place:
        source = _noted(source, f"{place!r} is the {kind} of this name here, not the built-in data")
    choices = json.dumps([kind, source.origin, sorted(chosen.items())])
    return source, hashlib.sha256(choices.encode()).hexdigest()


def split_spec(spec: str) -> tuple[str, str]:
    """A spec's place, ~ expanded, and its written options; a file that is really called so comes first."""
    if os.path.lexists(spec):
        return spec, ""
    match = re.fullmatch(r"(.+?):(\w+=[^:]*)", spec, re.DOTALL)
    place, written = (match[1], match[2]) if match else (spec, "")
    head = hub.PREFIX if place.startswith(hub.PREFIX) else ""
    return head + os.path.expanduser(place.removeprefix(head)), written


def kind_of(place: str) -> str:
    """The name of the reader, a key of SOURCES, for a place. Raises UnblotError where there is none."""
    if place.startswith(hub.PREFIX):
        return "huggingface"
    if places.is_address(place):
        return "shards"
    try:
        mode = os.stat(place).st_mode
    except (OSError, ValueError):
        if os.path.lexists(place):
            raise UnblotError(f"{printable(place)!r} is a link to nowhere; give a file or a folder") from None
        return _kind_of_missing(place)
    if stat.S_ISDIR(mode):
        return _kind_of_folder(place)
    if not stat.S_ISREG(mode):
        raise UnblotError(f"{printable(place)!r} is {kind_of_file(mode)}; give a file or a folder")
    name = Path(place).name.lower()
    fitting = [kind for ending, kind in ENDINGS.items() if name.endswith(ending)]
    if fitting:
        return fitting[-1]
    if re.search(r"idx[1-4]", name):
        return "idx"
    if dicom_names.may_be_dicom(name) and dicom_names.is_dicom(place):
        return "dicom"
    known = "a folder, " + ", ".join(dict.fromkeys(ending for ending in ENDINGS if ending[0] == "."))
    raise UnblotError(f"cannot tell what {printable(place)!r} is from its name; known are {known} and IDX files")


def _kind_of_missing(place: str) -> str:
    """The kind of what is no file: built-in data or a range of shards. Raises UnblotError for anything else."""
    if place in BUILT_IN:
        return place
    if "{" in place and place.lower().endswith(".tar"):
        return "webdataset"
    looked = "" if os.path.isabs(place) else f" in {printable(os.getcwd())!r}"
    known = "" if os.path.dirname(place) else f"; built-in data: {', '.join(BUILT_IN)}"
    raise UnblotError(f"no such file or folder: {printable(place)!r}{looked}{known}")


def _kind_of_folder(place: str) -> str:
    """The kind of a folder: shards, of unblot or of WebDataset, samples in arrays, medical images, or pictures."""
    if in_shards.has_shards(place):
        return "shards"
    if results.has_arrays(place):
        return "results"
    try:
        names = [name for name in os.listdir(place) if not hidden(name)]
    except OSError:
        return "folder"  # which says why it cannot be read
    if names and all(name.endswith(".tar") for name in names):
        return "webdataset"
    return medical.medical_kind(place) or "folder"


def _noted(source: DataSource, note: str) -> DataSource:
    """The source with one more note."""

    def load(scratch: Path) -> Listing:
        listing = source.load(scratch)
        return dataclasses.replace(listing, notes=(note, *listing.notes))

    return dataclasses.replace(source, origin=[*source.origin, note], load=load)
