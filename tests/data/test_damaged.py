"""Archives, arrays, tables and medical files with random damage: data, or one clear line."""

import gzip
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from medical_files import dicom_file, write_nifti
from small_sets import packed, png
from unblot.data.dataset import open_data
from unblot.errors import UnblotError

TIMES = 24
GRAY = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
FILES = ("x.zip", "x.tar", "x.tar.gz", "x.npy", "x.npz", "x.h5", "x.idx", "x.dcm", "x.nii", "x.mat", "labels.csv")


def write(path: Path) -> None:
    """A sound file of the kind that its name says."""
    members = {f"{'ant' if i % 2 else 'bee'}/{i}.png": png(i) for i in range(3)}
    if path.name in ("x.zip", "x.tar"):
        packed(path, members)
    elif path.name == "x.tar.gz":
        path.write_bytes(gzip.compress(packed(path.with_suffix(""), members).read_bytes()))
    elif path.name == "x.npy":
        np.save(path, GRAY)
    elif path.name == "x.npz":
        np.savez_compressed(path, images=GRAY, labels=LABELS)
    elif path.name == "x.h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("images", data=GRAY, chunks=(2, 8, 8), compression="gzip")
            file["labels"] = LABELS
    elif path.name == "x.idx":
        path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 6, 0, 0, 0, 8, 0, 0, 0, 8]) + GRAY.tobytes())
    elif path.name == "x.dcm":
        dicom_file(path, GRAY)
    elif path.name == "x.nii":
        write_nifti(path, GRAY.astype(np.int16))
    elif path.name == "x.mat":
        scipy.io.savemat(path, {"X": GRAY.transpose(1, 2, 0), "y": LABELS}, do_compression=True)
    else:
        path.write_text("file,label\n0.png,ant\n1.png,bee\n")


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with some changed, cut off, left out or put in; most near the start, where headers are."""
    kind, start = rng.integers(5), int(len(data) * rng.random() ** 3)
    length = int(rng.integers(1, 40))
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + data[start + length :]
    if kind == 2:
        return data[:start] + rng.bytes(length) + data[start:]
    return data[:start] + (rng.bytes(length) if kind == 3 else b"\xff" * length) + data[start + length :]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_data_or_one_clear_line(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(FILES.index(name))
    write(tmp_path / name)
    sound = (tmp_path / name).read_bytes()
    for i in range(TIMES):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / name).write_bytes(damaged(sound, rng))
        place = folder
        if name == "labels.csv":
            for k in range(2):
                (folder / f"{k}.png").write_bytes(png(k))
        else:
            place = folder / name
        try:
            assert len(open_data(str(place), on_broken="skip")) > 0
        except UnblotError as error:
            first, *broken = str(error).split("\n")
            assert str(folder) in first or "not one picture can be used" in first or name in first, first
            assert all(line.startswith("  ") for line in broken)
        shutil.rmtree(folder)
