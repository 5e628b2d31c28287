"""Arrays: only true labels are labels, one picture is one picture, and no small file takes all memory."""

import gzip
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from unblot.data.dataset import open_data
from unblot.errors import UnblotError

RNG = np.random.default_rng(9)
GRAY = RNG.integers(0, 256, (6, 8, 10), np.uint8)
COLOUR = RNG.integers(0, 256, (6, 8, 10, 3), np.uint8)
NO_CLASSES = {
    "several labels": np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]] | np.eye(3, dtype=int)[[1, 1, 0, 0, 2, 2]],
    "no label": np.eye(3)[[0, 1, 2, 0, 1, 2]] * [[1], [1], [1], [1], [1], [0]],
    "soft labels": np.full((6, 4), 0.25),
    "class and id": np.array([[0, 1], [1, 0], [0, 3], [1, 4], [0, 5], [1, 6]]),
    "minus one": np.where(np.eye(3)[[0, 1, 2, 0, 1, 2]] > 0, 1, -1),
    "nan": np.full((6, 2), np.nan),
    "three axes": np.zeros((6, 1, 2), int),
}


@pytest.mark.parametrize("kind", NO_CLASSES)
def test_what_is_not_one_class_each_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=GRAY, labels=NO_CLASSES[kind])
    with pytest.raises(UnblotError, match=r"'labels' is an array \(6, .*not one class for each.*labels=none"):
        open_data(f"{tmp_path / 'x.npz'}:labels=labels")
    assert open_data(f"{tmp_path / 'x.npz'}:labels=none,images=images").labels is None
    assert open_data(f"{tmp_path / 'x.npz'}:labels=labels", labels=False).labels is None


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_one_hot_labels_are_read(dtype: type, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=GRAY, labels=np.eye(3, dtype=dtype)[[2, 1, 0, 0, 1, 2]])
    labels = open_data(str(tmp_path / "x.npz")).labels
    assert labels is not None
    assert labels.tolist() == [2, 1, 0, 0, 1, 2]


def test_arrays_that_are_not_read_are_named_and_fractions_are_no_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=GRAY, weight=np.full(6, 0.5), x_test=GRAY[:2])
    said: list[str] = []
    assert open_data(str(tmp_path / "x.npz"), report=said.append).labels is None
    assert "other arrays left out: weight (6,), x_test (2, 8, 10)" in said


def test_empty_labels_and_latin_1_in_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=GRAY, labels=np.array(["a", "", "b", "a", "", "b"]))
    with pytest.raises(UnblotError, match="'labels' holds 2 empty labels; add labels=none"):
        open_data(str(tmp_path / "x.npz"))
    np.savez(tmp_path / "y.npz", images=GRAY, labels=np.array([b"caf\xe9", b"a"] * 3))
    assert open_data(str(tmp_path / "y.npz")).classes == ("a", "café")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.h5"])
def test_one_colour_picture_is_one_picture(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, COLOUR[0])
    elif name.endswith("npz"):
        np.savez(path, a=COLOUR[0])
    else:
        with h5py.File(path, "w") as file:
            file["a"] = COLOUR[0]
    said: list[str] = []
    data = open_data(str(path), report=said.append)
    np.testing.assert_array_equal(data.pictures[0], COLOUR[0].transpose(2, 0, 1))
    assert any("is one picture of 3 channels; layout=NHW" in line for line in said)
    assert open_data(f"{path}:layout=NHW").shape == (1, 10, 3)


def test_three_planes_are_gray_pictures_unless_said_otherwise(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", GRAY[:3])
    said: list[str] = []
    assert len(open_data(str(tmp_path / "x.npy"), report=said.append)) == 3
    assert any("layout=CHW" in line for line in said)
    assert open_data(f"{tmp_path / 'x.npy'}:layout=CHW").shape == (3, 8, 10)
    with pytest.raises(UnblotError, match=r"does not fit an array .*; choose NHW or HWC or CHW"):
        open_data(f"{tmp_path / 'x.npy'}:layout=NCHW")


@pytest.mark.parametrize("pictures", [GRAY, COLOUR, COLOUR.transpose(0, 3, 1, 2)], ids=["HW", "HWC", "CHW"])
def test_hdf5_with_one_data_set_a_picture(pictures: np.ndarray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for i, picture in enumerate(pictures):
            file[f"{'ant' if i < 4 else 'bee'}/{i}"] = picture
    data = open_data(str(tmp_path / "x.h5"))
    wanted = GRAY[:, None] if pictures is GRAY else COLOUR.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.pictures, wanted)
    assert data.classes == ("ant", "bee")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 0, 1, 1]
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["bee/9"] = np.repeat(pictures[0], 2, axis=-2)
    with pytest.raises(UnblotError, match=r"one picture each, but not alike: ant/0 \(.*\), bee/9 \("):
        open_data(str(tmp_path / "x.h5"))


def test_hdf5_never_reads_other_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(480))
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("a", (6, 8, 10), "u1", external=[(str(tmp_path / "secret"), 0, 480)])
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["a"] = GRAY
    layout = h5py.VirtualLayout((6, 8, 10), "u1")
    layout[:] = h5py.VirtualSource(str(tmp_path / "y.h5"), "a", (6, 8, 10))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("a", layout)
    for name in ("external.h5", "virtual.h5"):
        with pytest.raises(UnblotError, match=r"'a' in .* takes its values from other files"):
            open_data(str(tmp_path / name))


def test_hdf5_in_blocks_too_large_to_hold_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a", (3 * 2**20, 32, 32), "u1", chunks=(3 * 2**20, 32, 32), compression="gzip")
    with pytest.raises(UnblotError, match=r"blocks of 3,221,225,472 bytes.*UNBLOT_MAX_BYTES"):
        open_data(str(tmp_path / "x.h5"))


def test_hdf5_with_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        node = file.create_dataset("a", data=GRAY, chunks=(6, 8, 10), compression="gzip")
        where = node.id.get_chunk_info(0)
    data = bytearray((tmp_path / "x.h5").read_bytes())
    data[where.byte_offset : where.byte_offset + 40] = b"?" * 40
    (tmp_path / "x.h5").write_bytes(data)
    with pytest.raises(UnblotError, match=r"cannot read '.*x\.h5' as an array"):
        open_data(str(tmp_path / "x.h5"))


def test_what_claims_to_expand_without_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBLOT_MAX_BYTES", "100000")
    head = struct.pack(">HBB3I", 0, 8, 3, 60_000, 28, 28)
    (tmp_path / "a-idx3-ubyte.gz").write_bytes(gzip.compress(head + bytes(60_000 * 784)))
    (tmp_path / "b-idx3-ubyte").write_bytes(head)
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros((60_000, 28, 28), np.uint8))
    for name in ("a-idx3-ubyte.gz", "b-idx3-ubyte", "x.npz"):
        with pytest.raises(UnblotError, match=r"takes 47,040,000 bytes or more, the file has .*UNBLOT_MAX_BYTES"):
            open_data(str(tmp_path / name))


@pytest.mark.parametrize(("channels", "alone"), [(2, "gray"), (4, "rgb")])
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.h5"])
def test_the_last_channel_is_opacity_only_where_the_options_speak_of_colours(
    name: str, channels: int, alone: str, tmp_path: Path
) -> None:
    path, array = tmp_path / name, RNG.integers(1, 256, (6, channels, 8, 10), np.uint8)
    array[:, -1, :4] = 0
    if name == "x.h5":
        with h5py.File(path, "w") as file:
            file["a"] = array
    else:
        np.save(path, array) if name == "x.npy" else np.savez(path, array)
    said: list[str] = []
    plain = open_data(str(path), report=said.append)
    np.testing.assert_array_equal(plain.pictures, array)
    assert not plain.values.alpha
    assert any("as a channel like the others; if it is opacity, give the option colour" in line for line in said)
    seen = open_data(str(path), colour="rgba", report=said.append)
    assert seen.values.alpha
    assert any("as opacity; without the options colour and background" in line for line in said)
    np.testing.assert_array_equal(seen.pictures[:, -1], array[:, -1])
    np.testing.assert_array_equal(seen.pictures[:, 0, 4:], array[:, 0, 4:])
    assert (seen.pictures[:, 0, :4] != array[:, 0, :4]).any()
    below = open_data(str(path), background="white", colour=alone)
    assert (below.pictures[:, :, :4] == 255).all()


def test_a_small_array_does_not_follow_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", GRAY)
    data = open_data(str(tmp_path / "x.npy"))
    np.load(tmp_path / "x.npy", mmap_mode="r+")[:] = 0
    np.testing.assert_array_equal(data.pictures[:, 0], GRAY)


def test_arrays_of_objects_are_refused_without_a_hint_at_danger(tmp_path: Path) -> None:
    objects = np.array([{}, {}], object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", images=GRAY, labels=objects)
    for name in ("x.npy", "x.npz:labels=labels"):
        with pytest.raises(UnblotError, match="holds Python objects, which are never loaded") as error:
            open_data(f"{tmp_path}/{name}")
        assert "allow_pickle" not in str(error.value)


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    for name, pictures in (("x", GRAY), ("y", GRAY), ("z", GRAY[:5])):
        np.save(tmp_path / f"{name}.npy", pictures)
    x, y, z = (open_data(str(tmp_path / f"{name}.npy")).fingerprint for name in "xyz")
    assert x == y != z
