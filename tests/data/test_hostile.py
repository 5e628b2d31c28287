"""A folder of everything that goes wrong: each file is named with its reason, nothing hangs, nothing is a traceback."""

import contextlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_files import encoded, hostile
from unblot.data.dataset import open_data
from unblot.errors import UnblotError

RNG = np.random.default_rng(8)
NOBODY = 65534


def test_skipping_names_every_broken_file_once_and_uses_every_other(tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    good, bad = hostile(folder)
    said: list[str] = []
    data = open_data(str(folder), size=16, on_broken="skip", report=said.append)
    assert set(data.cached.names) == good
    assert {b.name for b in data.cached.broken} == bad
    assert len(data.cached.broken) == len(bad)
    assert data.shape == (3, 16, 16)
    told = "\n".join(said)
    for broken in data.cached.broken:
        assert broken.reason
        assert "Traceback" not in broken.reason
        assert str(broken) in told
        assert "\n" not in str(broken)
    assert "zeros\\n1.png" in told


def test_by_default_it_stops_with_the_whole_list(tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    _, bad = hostile(folder)
    with pytest.raises(UnblotError, match=f"{len(bad)} pictures cannot be used.*on_broken='skip'") as error:
        open_data(str(folder), size=16)
    lines = str(error.value).split("\n")
    assert len(lines) == 1 + len(bad)
    wanted = {"bomb": "pixels", "text": "it is text", "empty": "empty", "dangling": "No such file", "pipe": "regular"}
    for start, reason in wanted.items():
        assert any(line.strip().startswith(start) and reason in line for line in lines), (start, lines)


def test_workers_say_the_same_as_one_process(tmp_path, monkeypatch):
    folder = tmp_path / "hostile"
    folder.mkdir()
    hostile(folder)
    alone = open_data(str(folder), size=16, on_broken="skip", cache=tmp_path / "one")
    monkeypatch.setattr("unblot.data.cache.place.ALONE", 0)
    many = open_data(str(folder), size=16, on_broken="skip", cache=tmp_path / "two", workers=2)
    assert many.cached.broken == alone.cached.broken
    assert many.cached.kinds == alone.cached.kinds
    assert many.fingerprint == alone.fingerprint
    np.testing.assert_array_equal(many.pictures, alone.pictures)


def test_a_zip_of_it_is_read_likewise(tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    good, bad = hostile(folder)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in sorted(good | bad):
            if (folder / name).is_file():
                archive.write(folder / name, name)
    data = open_data(str(tmp_path / "x.zip"), size=16, on_broken="skip")
    assert set(data.cached.names) == good
    assert {b.name for b in data.cached.broken} == {name for name in bad if (folder / name).is_file()}


@contextlib.contextmanager
def without_privileges():
    """As root, whom no permission stops, becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_named(tmp_path):
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        for name in ("open.png", "shut.png"):
            (folder / name).write_bytes(encoded(RNG.integers(0, 256, (9, 9), np.uint8), "PNG"))
        (folder / "shut").mkdir()
        (folder / "shut.png").chmod(0)
        (folder / "shut").chmod(0)
        (folder / "cache").mkdir()
        (folder / "cache").chmod(0o777)
        with without_privileges():
            data = open_data(str(folder), on_broken="skip", cache=folder / "cache")
        assert data.cached.names == ["open.png"]
        assert sorted(data.cached.broken) == [("shut", "Permission denied"), ("shut.png", "Permission denied")]
    finally:
        (folder / "shut").chmod(0o700)
        shutil.rmtree(folder)


def test_what_may_be_read_since_is_read():
    outside = Path(tempfile.mkdtemp())
    folder, cache = outside / "set", outside / "cache"
    try:
        outside.chmod(0o777)
        folder.mkdir()
        for name in ("a.png", "b.png", "c.png"):
            (folder / name).write_bytes(encoded(RNG.integers(0, 256, (9, 9), np.uint8), "PNG"))
        (folder / "a.txt").write_text("a fox")
        (folder / "metadata.csv").write_text("file_name,text\nb.png,an owl")
        read = []
        for mode in (0, 0o644, 0):
            for name in ("a.txt", "c.png", "metadata.csv"):
                (folder / name).chmod(mode)
            with without_privileges():
                data = open_data(str(folder), labels=False, on_broken="skip", cache=cache)
            read.append((len(data), data.captions))
        assert read == [(2, None), (3, (("a fox",), ("an owl",), ())), (2, None)]
    finally:
        shutil.rmtree(outside)


def test_nothing_but_broken_files_is_an_error_either_way(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    for on_broken in ("stop", "skip"):
        with pytest.raises(UnblotError, match=r"not one picture.*\n  a\.png: the file is empty"):
            open_data(str(tmp_path), on_broken=on_broken)


def test_a_cache_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(RNG.integers(0, 256, (9, 9), np.uint8), "PNG"))
    (tmp_path / "file").write_text("")
    assert len(open_data("digits", cache=tmp_path / "file")) == 1797  # which is small enough to need none
    with pytest.raises(UnblotError, match=r"cannot write the dataset cache.*UNBLOT_CACHE"):
        open_data(str(tmp_path), cache=tmp_path / "file")
