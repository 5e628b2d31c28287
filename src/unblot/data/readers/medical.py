"""Medical images, one slice or frame a picture: DICOM, NIfTI and MATLAB's .mat; needs the extra `medical`.

Stored values and their units are kept; where a file gives a slope and an intercept, they are applied, so that CT is in
Hounsfield units.
"""

import importlib.util
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.readers.arrays import file_source
from unblot.data.readers.dicom import Slices, dicom_slices
from unblot.data.readers.dicom_names import is_dicom, may_be_dicom
from unblot.data.readers.folders import PICTURES
from unblot.data.readers.labels import Labelled, labels_from_folders
from unblot.data.readers.layouts import (
    as_pictures,
    choose,
    is_label_name,
    is_one_colour_picture,
    labelled,
    unread,
)
from unblot.data.readers.listing import (
    Broken,
    DataSource,
    Item,
    Listing,
    check_expansion,
    file_origin,
    hidden,
    naming,
    wants_labels,
)
from unblot.data.readers.walking import Found, Wanted, suffix_of, walk
from unblot.errors import UnblotError, printable

NIFTI = (".nii", ".nii.gz")
MAT_BYTES = {  # by MATLAB's name of a type
    **{"double": 8, "single": 4, "logical": 1, "char": 4, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2},
    **{"int32": 4, "uint32": 4, "int64": 8, "uint64": 8},
}
PEEKED = 64  # files that decide what a folder holds


def dicom(path: str, *, labels: str = "") -> DataSource:
    """A DICOM file, or a folder of them: each frame is a picture, classes from the subfolders."""
    _require("pydicom")
    return _source(path, may_be_dicom, is_dicom, dicom_slices, labels)


def nifti(path: str, *, labels: str = "") -> DataSource:
    """A NIfTI file, or a folder of them: each axial slice, seen with the front of the body up, is a picture."""
    _require("nibabel")
    return _source(path, _is_nifti, _is_nifti, _nifti_slices, labels)


def mat(path: str, *, images: str = "", labels: str = "", layout: str = "") -> DataSource:
    """A MATLAB file: its longest array (H, W, N) or (H, W, C, N), or one picture, and the labels beside it."""

    def load() -> Listing:
        with naming(path, "a MATLAB file"):
            found = _pictures_first(_mat_arrays(path), layout)
            shapes = {name: (array.shape, array.dtype) for name, array in found.items()}
            chosen, beside = choose(shapes, images, labels, "", path)
        pictures, notes = as_pictures(found[chosen], layout, path)
        notes = [f"pictures from {printable(chosen)!r}", *notes, *unread(shapes, chosen, beside)]
        return labelled(pictures, found[beside] if beside else None, notes, beside)

    return file_source(path, load)


def medical_kind(folder: str) -> str:
    """ "dicom" or "nifti" where the first files of a folder are such and none are pictures, else ""."""
    kinds: set[str] = set()
    for path in _first_files(folder):
        base = os.path.basename(path)
        if suffix_of(base) in PICTURES:
            return ""
        if _is_nifti(base):
            kinds.add("nifti")
        elif may_be_dicom(base) and is_dicom(path):
            kinds.add("dicom")
    return kinds.pop() if len(kinds) == 1 else ""


def _first_files(folder: str) -> Iterator[str]:
    """The paths of the first files of a folder and of those below it, without links to folders and hidden ones."""
    left = PEEKED
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not hidden(name))
        names = sorted(name for name in files if not hidden(name))[:left]
        yield from (os.path.join(place, name) for name in names)
        left -= len(names)
        if not left:
            return


def _is_nifti(path: str) -> bool:
    return path.lower().endswith(NIFTI)


def _source(
    path: str, wanted: Wanted, is_one: Callable[[str], bool], open_file: Callable[[str], Slices], labels: str
) -> DataSource:
    """The pictures of a file, or of all files in a folder that have a wanted name and, by their path, are such."""
    with_labels = wants_labels(labels)
    place = os.path.abspath(path)
    if os.path.isdir(path):
        found, root = walk(path, wanted), path
        others = {item.name for item in found.items if not is_one(os.path.join(path, item.name))}
        found.others.update(map(suffix_of, others))
        found.items = [item for item in found.items if item.name not in others]
        origin: list[Any] = [place, found.digest]
    else:
        origin, root = file_origin(path), os.path.dirname(path)
        found = Found([Item(os.path.basename(path), "", -1, origin[1])])
    name = Path(place).name.split(".")[0]
    return DataSource(name, origin, lambda _: _listing(path, root, found, open_file, with_labels))


def _listing(path: str, root: str, found: Found, open_file: Callable[[str], Slices], with_labels: bool) -> Listing:
    """The pictures of all files; with slope and intercept in all, as float32, if they change the values of any."""
    opened: list[tuple[Item, Slices]] = []
    broken = [*found.broken]
    for item in found.items:
        try:
            with naming(item.name, "a medical image"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the libraries: what matters becomes an error
                opened.append((item, open_file(os.path.join(root, item.name))))
        except UnblotError as error:
            broken.append(Broken(item.name, str(error)))
    if not opened and not broken:
        raise UnblotError(f"no medical images in {printable(path)!r}")
    scaled = any(slices.scaled for _, slices in opened)
    place = [(file, i) for file, (_, slices) in enumerate(opened) for i in range(slices.count)]
    items = [
        Item(opened[file][0].name + (f", slice {i}" if opened[file][1].count > 1 else ""), offset=index)
        for index, (file, i) in enumerate(place)
    ]
    by_folder = labels_from_folders(items) if with_labels else Labelled(items)
    units = sorted({slices.unit for _, slices in opened if slices.unit})
    notes = [f"slope and intercept applied{f', values in {units[0]}' if len(units) == 1 else ''}"] if scaled else []

    @lru_cache(maxsize=1)  # the slices of a file are read one after another
    def values(file: int) -> np.ndarray:
        return opened[file][1].read(scaled)

    def read(index: int) -> bytes:
        file, i = place[index]
        return _as_tiff(values(file)[i])

    return Listing(
        items=by_folder.items,
        read=read,
        labels=by_folder.labels,
        classes=by_folder.classes,
        broken=tuple(broken),
        notes=(*found.notes(), *notes, *by_folder.notes),
    )


def _as_tiff(array: np.ndarray) -> bytes:
    """A picture (H, W) or (H, W, 3) as the bytes of a TIFF, which keeps every type of values."""
    import tifffile

    stream = io.BytesIO()
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    tifffile.imwrite(stream, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    return stream.getvalue()


def _require(module: str) -> None:
    """Raises UnblotError where the package that reads such files is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UnblotError(f"such files need the package {module}; pip install 'unblot[medical]'")


def _nifti_slices(path: str) -> Slices:
    """The axial slices of a NIfTI file in the nearest orientation along the body's axes, over time last."""
    import nibabel

    size = file_origin(path)[1]
    image: Any = nibabel.load(path)
    shape = image.shape + (1,) * (3 - len(image.shape))
    check_expansion(math.prod(shape) * image.get_data_dtype().itemsize, size, printable(path))
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    toward = nibabel.io_orientation(image.affine)[:, 0]  # the axis of the body that is nearest to each stored one
    if np.isnan(toward).any():
        raise UnblotError("its affine does not say which way its axes point; save it with a whole sform or qform")
    count = shape[toward.tolist().index(2)] * math.prod(shape[3:])

    def read(scaled: bool) -> np.ndarray:
        with naming(path, "NIfTI"):
            raw = np.asanyarray(image.dataobj) if scaled else image.dataobj.get_unscaled()
            volume = nibabel.Nifti1Image(raw.reshape(shape), image.affine, dtype=raw.dtype)
            array = np.asanyarray(nibabel.as_closest_canonical(volume).dataobj)
        array = array[:, ::-1].reshape(*array.shape[:2], -1, order="F").transpose(2, 1, 0)
        return array.astype(np.float32) if scaled else array

    return Slices(count, (slope, intercept) != (1, 0), "", read)


def _mat_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of numbers and texts in a MATLAB file, axes in MATLAB's order; version 7.3 is HDF5."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        is_hdf5 = b"MATLAB 7.3" in file.read(128)
    if not is_hdf5:
        from scipy.io import loadmat, whosmat

        wanted = [entry for entry in whosmat(path) if entry[2] in MAT_BYTES]  # what nests others may expand without end
        for name, shape, kind in wanted:
            check_expansion(math.prod(shape) * MAT_BYTES[kind], size, printable(name))
        arrays = loadmat(path, variable_names=[name for name, _, _ in wanted])
        return {name: arrays[name] for name, _, _ in wanted}
    import h5py

    from unblot.data.readers.hdf5 import whole

    with h5py.File(path, "r") as file:
        nodes = {name: node for name, node in file.items() if isinstance(node, h5py.Dataset)}
        return {name: whole(node, name, path).T for name, node in nodes.items() if node.dtype.kind in "biuf"}


def _pictures_first(arrays: dict[str, np.ndarray], layout: str) -> dict[str, np.ndarray]:
    """Arrays (H, W, …, N) as (N, H, W, …), rows and columns of labels as (N,); one picture stays as it is."""
    one = layout.upper() in ("HW", "HWC", "CHW")
    several = any(array.ndim > 2 for array in arrays.values())
    found = {}
    for name, array in arrays.items():
        if array.ndim == 2 and 1 in array.shape:
            array = array.reshape(-1)
        elif array.ndim == 2 and not (several or one or is_label_name(name)):
            array = array[None]
        elif array.ndim > 2 and not one and (layout or not is_one_colour_picture(array.shape)):
            array = np.moveaxis(array, -1, 0)
        found[name] = array
    return found
