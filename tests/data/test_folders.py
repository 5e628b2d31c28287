"""Folders and archives: what is data and what is not, the limits of archives, and that no picture is lost."""

import csv
import gzip
import io
import json
import os
import shutil
import socket
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unblot
from helpers import printed_by_hash_seed
from small_sets import packed, png, shuffled, write
from unblot.data.dataset import open_data
from unblot.data.readers.labels import SPLITS
from unblot.data.readers.listing import Listing, hidden, max_bytes, readable
from unblot.data.readers.sources import open_source
from unblot.errors import UnblotError, printable

CONFIG = {"source": {}, "data": {}, "train": {}, "version": "0"}


def listed(path: Path, scratch: Path) -> Listing:
    return open_source(str(path))[0].load(scratch / "scratch")


def put(place: Path, members: dict[str, bytes]) -> None:
    """Writes files into a folder, or into an archive where the name of the place is one's."""
    if place.suffix:
        packed(place, members)
        return
    for name, data in members.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)


@pytest.mark.parametrize(
    ("name", "is_hidden"),
    [
        ("a/b.png", False),
        ("./a/../b.png", False),
        (".thumbnails/b.png", True),
        ("./__MACOSX/a/._b.png", True),
        ("set\\@eaDir\\b.png", True),
        ("set/Thumbs.db", True),
        ("...", True),
    ],
)
def test_hidden_names(name: str, is_hidden: bool) -> None:
    assert hidden(name) == is_hidden


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar"])
def test_hidden_folders_and_runs_are_no_data_in_folders_and_archives(suffix: str, tmp_path: Path) -> None:
    members = {f"./{c}/1.png": png() for c in ("ant", "bee", ".thumbnails", "__MACOSX", "@eaDir")}
    members |= {"runs/one/config.json": json.dumps(CONFIG).encode(), "runs/one/samples/step-1.png": png()}
    members |= {"two/model.safetensors": b"", "two/checkpoints/1/x": b"", "two/samples/1.png": png()}
    members |= {"new/manifest.json": b'{"n": 1, "shards": false, "model": ""}', "new/000000.png": png()}
    members |= {"edits/manifest.json": b'{"generator": "unblot 1.0", "files": []}', "edits/ant-1.png": png()}
    members |= {"cat/manifest.json": b'{"generator": "camera", "files": []}'}
    members |= {"bee/config.json": b"{}", "bee/manifest.json": b'{"files": []}'}
    members |= {"bee/x.json": b"[" * 10_000, "Thumbs.db": b""}
    place = tmp_path / f"set{suffix}"
    put(place, members)
    listing = listed(place, tmp_path)
    assert [os.path.normpath(item.name) for item in listing.items] == ["ant/1.png", "bee/1.png"]
    assert listing.classes == ("ant", "bee")
    assert "4 folders of runs or results left out: edits, new, runs/one, two" in listing.notes
    assert not any(".db" in note for note in listing.notes)


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar"])
def test_the_sheet_of_results_is_none_of_their_pictures(suffix: str, tmp_path: Path) -> None:
    members = {f"{name}.png": png() for name in ("000000", "000001", "grid", "more/grid")}
    place = tmp_path / f"drawn{suffix}"
    for manifest, expected in ((b'{"generator": "unblot 1.0", "files": []}', 3), (b'{"generator": "camera"}', 4)):
        members["manifest.json"] = manifest
        put(place, members)
        listing = listed(place, tmp_path)
        assert len(listing.items) == expected
        assert ("grid.png" in {item.name for item in listing.items}) == (expected == 4)
        assert any(".png (1)" in note for note in listing.notes) == (expected == 3)


def test_a_run_written_into_its_own_data_changes_nothing(tmp_path: Path) -> None:
    pictures = write(tmp_path / "pics", "ant/1.png", "bee/1.png")
    before, stamp = open_data(str(pictures)), open_source(str(pictures))[1]
    write(pictures / "runs" / "pics", "samples/step-1.png", "report/a/b.png")
    (pictures / "runs" / "pics" / "config.json").write_text(json.dumps(CONFIG))
    after = open_data(str(pictures))
    assert (after.fingerprint, after.classes) == (before.fingerprint, ("ant", "bee"))
    assert open_source(str(pictures))[1] == stamp
    with pytest.raises(UnblotError, match="is a run folder, which is never data"):
        open_data(str(pictures / "runs" / "pics"))
    assert len(open_data(str(pictures / "runs" / "pics" / "samples"))) == 1


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    os.mkfifo(tmp_path / "shard-0.tar")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.zip"))
        for name, kind in (("pipe.npy", "a named pipe"), ("s.zip", "a socket"), ("shard-{0..0}.tar", "a named pipe")):
            with pytest.raises(UnblotError, match=f"is {kind}; give a file or a folder"):
                open_data(str(tmp_path / name))
    with pytest.raises(UnblotError, match="is a device"):
        open_data(os.devnull)


def test_a_path_comes_before_built_in_data_and_the_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rings", "1.png", "2.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    said: list[str] = []
    assert len(open_data("rings", report=said.append)) == 2
    assert "'rings' is the folder of this name here, not the built-in data" in said
    assert len(open_data("~/rings")) == 2
    assert len(open_data("moons:count=7")) == 7


def test_one_picture_is_a_data_set_of_one(tmp_path: Path) -> None:
    write(tmp_path, "1.png", "2.png")
    assert len(open_data(str(tmp_path / "1.png"))) == 1


def test_an_archive_that_expands_without_measure_is_refused_and_nothing_is_left(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNBLOT_MAX_BYTES", "100000")
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(UnblotError, match=r"unpacking .*bomb\.tar\.gz.*UNBLOT_MAX_BYTES"):
        open_data(str(tmp_path / "bomb.tar.gz"))
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) == 0
    noise = np.random.default_rng(0).bytes(300_000)  # as large, but no larger than the archive itself
    plain = packed(tmp_path / "x.tar", {"1.png": png(), "notes.txt": noise})
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert len(open_data(str(tmp_path / "x.tar.gz"))) == 1
    monkeypatch.setenv("UNBLOT_MAX_BYTES", "much")
    with pytest.raises(UnblotError, match="UNBLOT_MAX_BYTES is 'much'; give a number"):
        max_bytes()


def test_a_tar_member_of_negative_size_ends(tmp_path: Path) -> None:
    info = tarfile.TarInfo("1.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # −1024 in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(2048))
    with pytest.raises(UnblotError, match="a member has a negative size"):
        open_data(str(tmp_path / "x.tar"))


def test_a_tar_that_is_damaged_in_the_middle_says_so(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.tar", {"1.png": png(1), "2.png": png(2)})
    data = bytearray(path.read_bytes())
    data[1024:1100] = b"?" * 76
    path.write_bytes(data)
    with pytest.raises(UnblotError, match=r"x\.tar: the archive is damaged after its first 1 files"):
        open_data(str(path))


def test_links_in_a_tar_stand_for_files_and_the_last_of_one_name_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, value in (("a/1.png", 1), ("b/2.png", 2), ("a/1.png", 9)):
            info = tarfile.TarInfo(name)
            info.size = len(png(value))
            archive.addfile(info, io.BytesIO(png(value)))
        for name, kind, target in (
            ("a/hard.png", tarfile.LNKTYPE, "b/2.png"),
            ("a/soft.png", tarfile.SYMTYPE, "../b/2.png"),
            ("a/gone.png", tarfile.SYMTYPE, "\x1b"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    data = open_data(str(tmp_path / "x.tar"), on_broken="skip")
    assert data.cached is not None
    assert data.cached.names == ["a/1.png", "a/hard.png", "a/soft.png", "b/2.png"]
    assert data.pictures[:, 0, 0, 0].tolist() == [9, 2, 2, 2]
    assert [str(b) for b in data.cached.broken] == ["a/gone.png: it links to a/\\x1b, which is not in the archive"]


NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=6) | st.sampled_from(
    ["train", "Test", "ant", "bee", "<b>", "\x1b[2J", "a\\b", "café", "1", "01", "\u202e", ",", ";", '"', "\n", "x.y"]
)
PLACES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
LABELS = st.sampled_from(["ant", "bee", "1", "01", "nan", "", " ", "<b>", "\x1b[2J", 'a"b', "a\nb", "é"])


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[str], list[str], list[tuple[str, str]] | None]:
    """Pictures and other files of a folder by name, and the rows of its labels.csv."""
    pictures = draw(st.lists(PLACES.map(lambda name: name + ".png"), min_size=1, max_size=8, unique=True))
    strays = draw(st.lists(PLACES.map(lambda name: name + ".txt"), max_size=2, unique=True))
    rows = st.lists(st.tuples(st.sampled_from(pictures) | PLACES, LABELS), max_size=8)
    return pictures, strays, draw(st.none() | rows)


def wanted(names: list[str], rows: list[tuple[str, str]] | None) -> dict[str, str | None]:
    """The right label of each picture, None without classes, for pictures that must be in the set."""
    if rows is not None:
        return {name: readable(label.strip()) for name, label in rows if name in names and label.strip()}
    parts = {name: name.split("/")[:-1] for name in names}
    for level in range(3):
        folders = {p[level] for p in parts.values() if len(p) > level}
        if len(folders) > 1 and not {f.casefold() for f in folders} <= SPLITS:
            inside = {name: readable(p[level]) for name, p in parts.items() if len(p) > level}
            return inside if 2 * len(inside) > len(names) else dict.fromkeys(names)
    return dict.fromkeys(names)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with several of everything whose order could matter."""
    folder = write(
        tmp_path_factory.mktemp("many") / "set",
        *(f"{c}/{i}.png" for c in ("nan", "1", "01", "1.0", "10", "1_0", "cat", "Cat", "é") for i in (10, 9, 1)),
        *("stray.png", "b.png", "runs/x/samples/1.png", ".hidden/1.png"),
    )
    (folder / "runs/x/config.json").write_text(json.dumps(CONFIG))
    return folder


REPORT = (
    "import sys, pathlib; from unblot.data.readers.sources import open_source; "
    "source, stamp = open_source(sys.argv[1]); l = source.load(pathlib.Path()); "
    "print(ascii((stamp, l.items, l.labels.tolist(), l.classes, l.notes, l.broken)))"
)


def test_the_listing_does_not_follow_the_hash_seed(many: Path) -> None:
    found = printed_by_hash_seed(("0", "1", "2"), REPORT, str(many))
    assert len(found) == 1


CLASSES = (
    "import random, sys; from unblot.data.readers.listing import class_names; chance = random.Random(7); "
    "pool = ['nan', 'NaN', '-nan', '1', '01', '1.0', '10', '1_0', 'inf', '1e400', '-0', '0', 'a', 'A', 'é', '']; "
    "sets = [chance.sample(pool, 6) for _ in range(200)]; "
    "found = [class_names(labels)[1] for labels in sets]; "
    "assert found == [class_names(list(set(labels)))[1] for labels in sets]; print(ascii(found))"
)


def test_the_order_of_classes_follows_neither_the_hash_seed_nor_the_order_of_labels() -> None:
    found = printed_by_hash_seed(("1", "2"), CLASSES)
    assert len(found) == 1


def test_the_listing_does_not_follow_the_order_of_the_disk(many: Path) -> None:
    first, stamp = open_source(str(many))
    with shuffled(0):
        second, other_stamp = open_source(str(many))
    assert stamp == other_stamp
    one, two = first.load(many), second.load(many)
    assert (one.items, one.classes, one.notes, one.broken) == (two.items, two.classes, two.notes, two.broken)
    assert one.classes == ("01", "1", "1.0", "10", "1_0", "Cat", "cat", "nan", "é")
    assert one.labels is not None
    assert two.labels is not None
    assert one.labels.tolist() == two.labels.tolist()


def test_training_in_the_folder_of_the_data_leaves_the_data_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "pics", *(f"{c}/{i}.png" for c in ("ant", "bee") for i in range(6)))
    monkeypatch.chdir(tmp_path / "pics")
    before = open_data(".").fingerprint
    network = "mlp:width=8"
    run = unblot.train(".", steps=1, network=network, batch_size=4, quiet=True)
    assert run.path.resolve().is_relative_to(tmp_path / "pics")
    assert any(run.path.rglob("*.png"))
    after = open_data(".")
    assert after.fingerprint == run.config.data.fingerprint == before
    assert after.classes == run.config.data.classes == ("ant", "bee")


def listed_or_refused(folder: Path) -> tuple[Listing | None, str]:
    try:
        return listed(folder, folder), ""
    except UnblotError as error:
        return None, str(error)


def told(listing: Listing | None) -> object:
    """Everything that a listing says, to be compared."""
    if listing is None:
        return None
    labels = None if listing.labels is None else listing.labels.tolist()
    return listing.items, labels, listing.classes, listing.notes, listing.broken


@given(trees())
@settings(max_examples=150, deadline=None)
def test_every_picture_is_in_the_set_with_its_label_or_named(
    tree: tuple[list[str], list[str], list[tuple[str, str]] | None],
) -> None:
    pictures, strays, rows = tree
    folder = Path(tempfile.mkdtemp())
    try:
        there = []
        for name in [*pictures, *strays]:
            try:
                write(folder, name)
            except OSError:  # a folder where there is a file, or a name that this system has not
                continue
            there += [name] if name in pictures else []
        if rows is not None:
            with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("file", "label"), *rows])
        listing, refusal = listed_or_refused(folder)
        with shuffled(len(pictures)):
            again, other_refusal = listed_or_refused(folder)
        assert refusal == other_refusal
        assert told(listing) == told(again)
        seen = [name for name in there if not hidden(name)]
        if listing is None:
            assert "\n" not in refusal
            assert not seen or "two labels" in refusal
            return
        classes = [None] * len(listing) if listing.labels is None else [listing.classes[i] for i in listing.labels]
        found = dict(zip([item.name for item in listing.items], classes))
        right = wanted(seen, rows)
        if rows is not None and not any(right.values()) and not listing.broken:
            right = dict.fromkeys(seen)
        assert found.items() >= right.items()
        report = "\n".join([*listing.notes, *map(str, listing.broken)])
        assert all(printable(name) in report for name in seen if name not in found)
        assert not any(ord(c) < 32 for line in report.split("\n") for c in line)
    finally:
        shutil.rmtree(folder)


def test_the_name_of_a_data_set_can_be_printed(tmp_path: Path) -> None:
    write(tmp_path / "a\x1b[2J", "1.png", "2.png")
    assert open_data(str(tmp_path / "a\x1b[2J")).name == "a\\x1b[2J"
