"""Every source of the table: the same pictures and labels come out, however they lie on the disk."""

import bz2
import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image

import medical_files
from unblot.data.dataset import open_data
from unblot.data.readers.sources import BUILT_IN, SOURCES, kind_of
from unblot.errors import UnblotError
from unblot.runs.packing import pack_data

RNG = np.random.default_rng(3)
PICTURES = RNG.integers(0, 256, (6, 8, 10), np.uint8)
LABELS = np.array([1, 0, 1, 0, 2, 2])
NAMES = ("ant", "bee", "cow")


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def write_folder(folder: Path) -> Path:
    for i, (picture, label) in enumerate(zip(PICTURES, LABELS)):
        place = folder / NAMES[label] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(picture))
    return folder


def tar_of(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shards(folder: Path) -> Path:
    folder.mkdir()
    for s in range(2):
        members = {}
        for i in range(3 * s, 3 * s + 3):
            members[f"{i:04}.png"] = png(PICTURES[i])
            members[f"{i:04}.cls"] = str(LABELS[i]).encode()
        tar_of(folder / f"{s:03}.tar", members)
    return folder


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def make(kind: str, folder: Path) -> str:
    """A source of this kind with PICTURES and, where it can hold them, LABELS."""
    path = folder / kind
    if kind in BUILT_IN:
        return kind
    if kind == "folder":
        return str(write_folder(path))
    if kind == "zip":
        path = path.with_suffix(".zip")
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(write_folder(folder / "all").rglob("*.png")):
                archive.write(file, file.relative_to(folder))
    elif kind == "tar":
        path = path.with_suffix(".tar.gz")
        with tarfile.open(path, "w:gz") as archive:
            archive.add(write_folder(folder / "all"), "all")
    elif kind == "webdataset":
        return str(shards(path))
    elif kind == "npy":
        path = path.with_suffix(".npy")
        np.save(path, PICTURES)
    elif kind == "npz":
        path = path.with_suffix(".npz")
        np.savez(path, images=PICTURES[..., None], labels=LABELS)
    elif kind == "hdf5":
        path = path.with_suffix(".h5")
        with h5py.File(path, "w") as file:
            file["set/images"] = PICTURES[:, None]
            file["set/labels"] = LABELS
    elif kind == "idx":
        path = folder / "train-images-idx3-ubyte.gz"
        write_idx(path, PICTURES)
        write_idx(folder / "train-labels-idx1-ubyte", LABELS)
    elif kind == "tiff":
        path = path.with_suffix(".tif")
        tifffile.imwrite(path, PICTURES, photometric="minisblack")
    elif kind == "picture":
        path = path.with_suffix(".png")
        path.write_bytes(png(PICTURES[0]))
    elif kind == "dicom":
        return str(medical_files.write_dicom(path, PICTURES, [NAMES[label] for label in LABELS]))
    elif kind == "nifti":
        path = path.with_suffix(".nii.gz")
        medical_files.write_nifti(path, PICTURES)
    elif kind == "mat":
        path = path.with_suffix(".mat")
        scipy.io.savemat(path, {"X": np.moveaxis(PICTURES, 0, -1), "y": LABELS[:, None]})
    elif kind == "huggingface":
        pytest.importorskip("datasets")
        write_folder(path / "train")
        return f"hf:{path}"
    elif kind == "results":
        path.mkdir()
        for s in range(2):
            np.save(path / f"shard-{s:06}.npy", PICTURES[3 * s : 3 * s + 3, None])
            np.save(path / f"labels-{s:06}.npy", LABELS[3 * s : 3 * s + 3])
        names = sorted(file.name for file in path.iterdir())
        (path / "manifest.json").write_text(json.dumps({"generator": "unblot 1.0", "files": [*names, "grid.png"]}))
        (path / "grid.png").write_bytes(png(PICTURES[0]))
    elif kind == "shards":
        np.savez(folder / "all.npz", images=PICTURES, labels=LABELS)
        pack_data(folder / "all.npz", path, quiet=True)
    return str(path)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_its_pictures_labels_and_the_same_again(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    spec = make(kind, tmp_path)
    assert kind_of(spec) == kind
    data = open_data(spec)
    again = open_data(spec)
    assert data.fingerprint == again.fingerprint
    np.testing.assert_array_equal(data.pictures, again.pictures)
    np.testing.assert_array_equal(data.held_out, again.held_out)
    assert sorted([*data.train, *data.held_out]) == list(range(len(data)))
    x, y = data.batch(data.train[:3])
    assert tuple(x.shape) == (min(3, len(data.train)), *data.shape)
    assert x.isfinite().all()
    assert (y is None) == (data.labels is None)
    if kind in BUILT_IN:
        return
    by_folder = kind in ("folder", "zip", "tar", "dicom", "huggingface")
    order = np.argsort(LABELS, kind="stable") if by_folder else np.arange(6)
    if kind == "shards":  # those held out come first
        order = np.array([[(p == q).all() for q in PICTURES].index(True) for p in data.pictures[:, 0]])
        assert sorted(order) == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(data.pictures[:, 0], PICTURES[order][: len(data)])
    assert len(data) == (1 if kind == "picture" else 6)
    if kind not in ("npy", "tiff", "nifti", "picture"):
        np.testing.assert_array_equal(data.labels, LABELS[order])
        assert data.classes == (NAMES if by_folder else ("0", "1", "2"))


@pytest.mark.parametrize(
    "array",
    [
        PICTURES,
        RNG.integers(0, 256, (6, 8, 10, 3), np.uint8),
        RNG.integers(0, 4096, (6, 3, 8, 10), np.uint16),
        RNG.random((6, 7, 8, 10), np.float32),
        RNG.random((6, 8, 10, 7), np.float64),
        RNG.random((6, 1, 12, 3)) > 0.5,
        RNG.integers(-9, 9, (6, 3, 1, 12)),
        RNG.random((6, 2), np.float32),
        PICTURES.astype(">i2"),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_of_any_type_and_layout(array, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, array)
    data = open_data(str(path))
    wanted = {2: lambda a: a[:, :, None, None], 3: lambda a: a[:, None]}.get(array.ndim)
    if wanted is None:
        last = array.shape[3] in (3, 7)
        wanted = (lambda a: a.transpose(0, 3, 1, 2)) if last else (lambda a: a)
    np.testing.assert_array_equal(data.pictures, wanted(array))
    assert data.pictures.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(data.values.decode(data.values.encode(data.pictures)), data.pictures)


def test_a_layout_can_be_said_outright(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, RNG.integers(0, 256, (6, 8, 8, 8), np.uint8))
    assert open_data(f"{path}:layout=NCHW").shape == (8, 8, 8)
    with pytest.raises(UnblotError, match="NHWC or NCHW"):
        open_data(f"{path}:layout=CHWN")


def test_the_training_part_of_an_archive_is_taken_unless_another_is_named(tmp_path):
    path = tmp_path / "x.npz"
    parts = {"x_test": PICTURES, "y_test": LABELS, "x_train": PICTURES[:5], "y_train": LABELS[:5]}
    np.savez(path, **parts)
    data = open_data(str(path))
    np.testing.assert_array_equal(data.pictures[:, 0], PICTURES[:5])
    np.testing.assert_array_equal(data.labels, LABELS[:5])
    other = open_data(str(path), options={"images": "x_test"})
    np.testing.assert_array_equal(other.labels, LABELS)
    assert open_data(f"{path}:images=x_test,labels=y_test").fingerprint == other.fingerprint


@pytest.mark.parametrize(
    "labels", [LABELS[:, None], np.eye(3)[LABELS], LABELS.astype(np.float32), np.array(NAMES)[LABELS]]
)
def test_labels_may_be_columns_one_hot_floats_or_names(labels, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=PICTURES, labels=labels)
    np.testing.assert_array_equal(open_data(str(path)).labels, LABELS)


def test_labels_from_a_table(tmp_path):
    folder = write_folder(tmp_path / "set")
    lines = [f"{NAMES[label]}/{i}.png,{'even' if i % 2 == 0 else 'odd'}" for i, label in enumerate(LABELS) if i < 5]
    (folder / "labels.csv").write_text("\n".join(["file,label", *lines]))
    said = []
    data = open_data(str(folder), report=said.append)
    assert data.classes == ("even", "odd")
    np.testing.assert_array_equal(data.pictures[:, 0], PICTURES[:5])
    np.testing.assert_array_equal(data.labels, [0, 1, 0, 1, 0])
    assert any("1 picture that labels.csv does not name" in line for line in said)
    (folder / "labels.csv").write_text("file,label\nant/1.png,x\nant/gone.png,y\n")
    with pytest.raises(UnblotError, match=r"gone\.png: labels\.csv names it"):
        open_data(str(folder))
    (folder / "labels.csv").write_text("picture;what\n")
    with pytest.raises(UnblotError, match="needs `file` and `label`"):
        open_data(str(folder))


def test_folders_of_a_split_are_no_classes_and_one_folder_is_none(tmp_path):
    write_folder(tmp_path / "set" / "train")
    write_folder(tmp_path / "set" / "test")
    assert open_data(str(tmp_path / "set")).classes == NAMES
    assert open_data(str(tmp_path / "set" / "train" / "ant")).labels is None
    assert open_data(str(tmp_path / "set" / "train"), labels=False).classes == ()


def test_numbered_classes_are_in_the_order_of_numbers(tmp_path):
    for name in ("10", "9", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png(PICTURES[0]))
    assert open_data(str(tmp_path)).classes == ("2", "9", "10")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_of_every_compression(mode, tmp_path):
    path = tmp_path / f"x.tar{mode[1:].replace(':', '.')}"
    tar_of(path, {f"{i}.png": png(p) for i, p in enumerate(PICTURES)}, mode)
    np.testing.assert_array_equal(open_data(str(path)).pictures[:, 0], PICTURES)


def test_shards_by_range_and_labels_in_json(tmp_path):
    for s in range(2):
        members = {f"{s}{i}.jpg": png(PICTURES[3 * s + i]) for i in range(3)}
        members |= {f"{s}{i}.json": json.dumps({"label": NAMES[LABELS[3 * s + i]]}).encode() for i in range(3)}
        tar_of(tmp_path / f"shard-{s:02}.tar", members)
    data = open_data(str(tmp_path / "shard-{00..01}.tar"))
    np.testing.assert_array_equal(data.pictures[:, 0], PICTURES)
    assert tuple(data.classes[label] for label in data.labels) == tuple(NAMES[label] for label in LABELS)
    with pytest.raises(UnblotError, match="shard-02"):
        open_data(str(tmp_path / "shard-{00..02}.tar"))


def test_pages_of_tiff_files_in_a_folder_are_pictures_or_channels(tmp_path):
    deep = RNG.integers(0, 65536, (2, 3, 8, 10), np.uint16)
    for i in range(2):
        tifffile.imwrite(tmp_path / f"{i}.tif", deep[i], photometric="minisblack")
    np.testing.assert_array_equal(open_data(str(tmp_path)).pictures, deep.reshape(6, 1, 8, 10))
    np.testing.assert_array_equal(open_data(str(tmp_path), pages="channels").pictures, deep)
    one = open_data(f"{tmp_path / '0.tif'}:pages=channels")
    np.testing.assert_array_equal(one.pictures, deep[:1])


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path):
    first, second = write_folder(tmp_path / "a"), write_folder(tmp_path / "b" / "c")
    assert open_data(str(first)).fingerprint == open_data(str(second)).fingerprint
    (second / "ant" / "1.png").write_bytes(png(255 - PICTURES[1]))
    assert open_data(str(first)).fingerprint != open_data(str(second)).fingerprint


def wrong(folder: Path) -> dict[str, tuple[str, str]]:
    """Specs that cannot be used, and a part of what is said about each."""
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("a")
    np.save(folder / "complex.npy", PICTURES.astype(np.complex64))
    np.save(folder / "one.npy", PICTURES[0])
    np.save(folder / "none.npy", PICTURES[:0])
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(folder / "long.npz", images=PICTURES, labels=LABELS[:4])
    np.savez(folder / "flat.npz", a=LABELS)
    np.savez(folder / "fraction.npz", images=PICTURES, labels=LABELS + 0.5)
    (folder / "what.xyz").write_bytes(b"?")
    for name in ("bad.npy", "bad.npz", "bad.zip", "bad.tar", "bad.h5", "bad.idx", "bad.tif", "bad.tgz"):
        (folder / name).write_bytes(b"\x1f\x8bnonsense" if name.endswith("gz") else b"nonsense, really nonsense")
    return {
        str(folder / "gone"): ("no such file or folder", "gone"),
        "gone/too": ("no such file or folder: 'gone/too'", os.getcwd()),
        "digit": ("no such file or folder: 'digit'", "digits"),
        str(folder / "texts") + ":pages=rows": ("pages=rows is unknown", "pages=channels"),
        "moons:count=0": ("count", "at least 1"),
        "moons:size=4": ("no option", "count="),
        str(folder / "empty"): ("no pictures", "nothing"),
        str(folder / "texts"): ("no pictures", ".txt"),
        str(folder / "complex.npy"): ("complex64", "floats"),
        str(folder / "one.npy"): ("(8, 10)", "(N, H, W)"),
        str(folder / "none.npy"): ("no pictures", "(0, 8, 10)"),
        str(folder / "objects.npy"): ("cannot read", "objects.npy"),
        str(folder / "long.npz"): ("4 labels for 6 pictures", "as many"),
        str(folder / "flat.npz"): ("no pictures", "a (6,)"),
        str(folder / "fraction.npz"): ("fractions", "labels"),
        str(folder / "long.npz") + ":images=b": ("no array 'b'", "it has images, labels"),
        str(folder / "what.xyz"): ("cannot tell what", ".npy"),
        **{
            str(folder / n): ("cannot read", n)
            for n in ("bad.npy", "bad.npz", "bad.zip", "bad.tar", "bad.h5", "bad.idx")
        },
        str(folder / "bad.tgz"): ("cannot read", "bad.tgz"),
        str(folder / "bad.tif"): ("bad.tif", "no TIFF"),
    }


def test_what_cannot_be_used_is_told_in_one_line(tmp_path):
    for spec, told in wrong(tmp_path).items():
        with pytest.raises(UnblotError) as error:
            open_data(spec)
        assert "\n" not in str(error.value), spec
        assert all(part in str(error.value) for part in told), (spec, str(error.value))


def test_bz2_is_known_by_its_content_not_its_name(tmp_path):
    tar_of(tmp_path / "x.tar", {"a.png": png(PICTURES[0])})
    path = tmp_path / "y.tar"
    path.write_bytes(bz2.compress((tmp_path / "x.tar").read_bytes()))
    assert len(open_data(str(path))) == 1
