"""The dataset cache: found again, continued after any kind of death, the same array whatever happened."""

import errno
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_files import encoded
from unblot.data.cache import build, journal, manifest, place, pool, worker
from unblot.data.cache.decoding import Decoded
from unblot.data.dataset import open_data
from unblot.data.image_spec import ImageOptions, ImageSpec
from unblot.data.readers import reading
from unblot.data.readers.listing import Item
from unblot.data.readers.sources import open_source
from unblot.errors import UnblotError

RNG = np.random.default_rng(21)
COUNT, BROKEN_ONE = 300, "p0123.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """COUNT pictures of which one is broken."""
    place = tmp_path_factory.mktemp("pictures")
    for i in range(COUNT):
        (place / f"p{i:04}.png").write_bytes(encoded(RNG.integers(0, 256, (24, 24, 3), np.uint8), "PNG"))
    (place / BROKEN_ONE).write_bytes(b"broken")
    return place


def cached(folder: Path, cache: Path, **options) -> manifest.CachedDataset:
    source, stamp = open_source(str(folder))
    ignore = {"report": lambda line: None, "progress": lambda done, count: None}
    return build.cached_dataset(source, stamp, ImageOptions(size=(16, 16)), cache, **(ignore | options))


def same(a: manifest.CachedDataset, b: manifest.CachedDataset) -> bool:
    return bool(
        np.array_equal(a.pictures, b.pictures)
        and np.array_equal(a.digests, b.digests)
        and (a.names, a.broken, a.kinds, a.values) == (b.names, b.broken, b.kinds, b.values)
    )


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    return cached(folder, tmp_path_factory.mktemp("undisturbed"), workers=1)


def decoded_nothing(*args, **kwargs):
    raise AssertionError("a cache that is there was not used")


def test_it_holds_what_the_files_hold(folder, undisturbed):
    assert undisturbed.pictures.shape == (COUNT - 1, 3, 16, 16)
    assert undisturbed.broken == ((BROKEN_ONE, "it is text, not a picture: it starts with 'broken'"),)
    with reading.Reader(str(folder)) as reader:
        for i in (0, 122, 123, COUNT - 2):
            values = reader.open(Item(undisturbed.names[i])).values()
            assert np.abs(values.mean() - undisturbed.pictures[i].mean()) < 6
    assert undisturbed.kinds == {"8-bit RGB 24x24": COUNT - 1}
    assert any("cropped to height 16, width 16" in note for note in undisturbed.notes)


def test_it_is_found_again_and_only_for_the_same_files_and_options(folder, tmp_path, undisturbed, monkeypatch):
    cache = tmp_path / "cache"
    first = cached(folder, cache, workers=2)
    assert same(first, undisturbed)
    monkeypatch.setattr(build, "_build", decoded_nothing)
    assert same(cached(folder, cache), first)
    assert isinstance(cached(folder, cache).pictures, np.memmap)
    source, stamp = open_source(str(folder))
    with pytest.raises(AssertionError):
        build.cached_dataset(source, stamp, ImageOptions(size=(8, 8)), cache, print, print)
    os.utime(folder / "p0001.png", ns=(1, 1))
    with pytest.raises(AssertionError):
        cached(folder, cache)


def start_building(folder: Path, cache: Path, workers: int):
    """Forks a process that builds the cache; its id, and a file from which one can read how many pictures are done."""
    reading_end, writing_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            cached(folder, cache, workers=workers, progress=lambda d, n: os.write(writing_end, b"%d\n" % d))
        finally:
            os._exit(0)
    os.close(writing_end)
    return child, os.fdopen(reading_end)


def test_sigkill_at_20_random_moments_changes_nothing(folder, tmp_path, undisturbed, monkeypatch):
    moments = random.Random(4)
    went_on = 0
    for i in range(20):
        cache = tmp_path / str(i)
        monkeypatch.setattr(build, "TASK_PICTURES", 4)
        monkeypatch.setattr(place, "ALONE", 64)
        child, done = start_building(folder, cache, 1 + i % 2)
        until = moments.randrange(0, COUNT)
        with done:
            for line in done:
                if int(line) >= until:
                    break
            time.sleep(moments.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        monkeypatch.setattr(place, "ALONE", COUNT)
        told: list[int] = []
        assert same(cached(folder, cache, progress=lambda d, n, told=told: told.append(d)), undisturbed), i
        went_on += bool(told) and told[0] > 0
    assert went_on >= 10  # most went on from where the dead one was


def die_at(step: int, folder: Path, cache: Path, monkeypatch) -> bool:
    """Builds in a child that kills itself before it writes for the step-th time; whether it came that far."""
    calls = 0

    def deadly(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    child = os.fork()
    if child == 0:
        try:
            for owner, name in (
                (build, "write_rows"),
                (journal.Journal, "add"),
                (journal.Journal, "ready"),
                (np.lib.format, "open_memmap"),
                (np, "save"),
                (Path, "write_text"),
                (os, "replace"),
                (os, "rename"),
            ):
                monkeypatch.setattr(owner, name, deadly(getattr(owner, name)))
            cached(folder, cache)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_death_before_any_write_changes_nothing(folder, tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(place, "ALONE", COUNT)
    step = 1
    while die_at(step, folder, tmp_path / str(step), monkeypatch):
        assert same(cached(folder, tmp_path / str(step)), undisturbed), step
        step += 1
    assert step > 8


def test_a_torn_row_and_a_torn_line_are_made_again(folder, tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(place, "ALONE", COUNT)
    cache = tmp_path / "cache"
    assert die_at(6, folder, cache, monkeypatch)
    (work,) = cache.glob("datasets/*.part/work")
    with open(work / "rows.npy", "r+b") as file:
        file.seek(128 + 5 * 768)
        file.write(b"torn")
    with open(work / "journal.jsonl", "a") as file:
        file.write("[256, [1, 2")
    assert same(cached(folder, cache), undisturbed)


def test_a_damaged_cache_is_built_again(folder, tmp_path, undisturbed):
    cached(folder, tmp_path, workers=1)
    (pictures,) = tmp_path.glob("datasets/*/pictures.npy")
    pictures.write_bytes(pictures.read_bytes()[:999])
    assert same(cached(folder, tmp_path, workers=1), undisturbed)


@pytest.mark.parametrize("name", ["manifest.json", "digests.npy"])
def test_a_cache_that_was_edited_is_built_again(name, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for i in range(3):
        (few / f"{i}.png").write_bytes(encoded(RNG.integers(0, 256, (16, 16, 3), np.uint8), "PNG"))
    sound = cached(few, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob(f"datasets/*/{name}")
    whole = path.read_bytes()
    deep = b'["", ' + b"[" * 100_000
    edits = [b"", b"{}", b"null", b"[]", deep, whole[:-9], whole.replace(b"uint8", b"uint9"), b"\xff" + whole]
    for i in range(0, len(whole), max(1, len(whole) // 24)):
        edits.append(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
    for edit in edits:
        path.write_bytes(edit)
        assert same(cached(few, tmp_path / "cache"), sound), edit[:80]
        assert path.read_bytes() == whole


def test_an_error_before_anything_is_decoded_leaves_no_folder(tmp_path):
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "0.png").write_bytes(b"")
    for few in (tmp_path / "few", tmp_path / "few" / "0.png"):
        with pytest.raises(UnblotError, match="not one picture can be used"):
            cached(few, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache" / "datasets").iterdir() if path.is_dir()] == []


def test_journal_lines_that_were_edited_are_done_again(folder, tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(place, "ALONE", COUNT)
    assert die_at(6, folder, tmp_path, monkeypatch)
    (path,) = tmp_path.glob("datasets/*.part/work/journal.jsonl")
    lines = path.read_text().splitlines()
    spec = [3, 16, 16, "uint8", False, "crop", [0.0, 0.0, 0.0], False]
    for line in (
        "null",
        "[]",
        "{}",
        journal.signed(5),
        journal.signed([-40, [1], [], {}]),
        journal.signed([COUNT - 1, [0, 0], [], {}]),
        journal.signed(["0", [0], [], {}]),
        journal.signed([0, ["x"], [], {}]),
        journal.signed([0, [0], [[0]], {}]),
        journal.signed([0, [0], [[0, "why"]], {"kind": "many"}]),
        journal.signed([0, [], [], {}]),
        lines[-1].replace("RGB", "BGR"),
    ):
        path.write_text("\n".join([*lines, line]) + "\n")
        found = journal.Journal.resume(path.parent, COUNT)
        assert found is not None
        assert not found.kinds["many"]
        assert set(found.kinds) <= {"8-bit RGB 24x24"}
    for header in ("", "null", journal.signed([COUNT, spec[:2]]), journal.signed([COUNT, ["3", *spec[1:]]])):
        path.write_text("\n".join([header, *lines[1:]]) + "\n")
        assert journal.Journal.resume(path.parent, COUNT) is None
    path.write_text("\n".join([*lines, journal.signed([-40, [1], [], {}])]) + "\n")
    assert same(cached(folder, tmp_path), undisturbed)


BUILD = """
import sys
from pathlib import Path
from unblot.data.cache import build
from unblot.data.image_spec import ImageOptions, ImageSpec
from unblot.data.readers.sources import open_source
build.TASK_PICTURES = 4
source, stamp = open_source(sys.argv[1])
ignore = lambda *told: None
build.cached_dataset(source, stamp, ImageOptions(size=(16, 16)), Path(sys.argv[2]), ignore, ignore, 2)
"""


def test_two_processes_build_one_cache(folder, tmp_path, undisturbed):
    command = [sys.executable, "-c", BUILD, str(folder), str(tmp_path)]
    others = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    mine = cached(folder, tmp_path, workers=1)
    assert [other.wait() for other in others] == [0, 0]
    assert same(mine, undisturbed)
    assert [p.suffix for p in sorted((tmp_path / "datasets").iterdir())] == ["", ".lock"]


def test_a_decoder_that_crashes_breaks_only_its_picture(folder, tmp_path):
    killer = Path(tmp_path / "bin" / "sitecustomize.py")
    killer.parent.mkdir()
    killer.write_text(
        "import os, sys\n"
        "if 'unblot.data.cache.worker' in ' '.join(sys.orig_argv):\n"
        "    from unblot.data.readers import reading\n"
        "    was = reading.Reader.read\n"
        "    reading.Reader.read = lambda self, item: os.abort() if '0077' in item.name else was(self, item)\n"
    )
    sys.path.insert(0, str(killer.parent))
    try:
        made = cached(folder, tmp_path / "cache", workers=2)
    finally:
        sys.path.remove(str(killer.parent))
    assert made.broken[0] == ("p0077.png", "its decoder crashed or hung")
    assert len(made.pictures) == COUNT - 2


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_what_fails_in_passing_is_tried_again_and_nothing_else(error, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.png").write_bytes(encoded(RNG.integers(0, 256, (8, 8), np.uint8), "PNG"))
    (folder / "2.png").write_bytes(b"broken")
    fails, read, was = ["3.png"], [], reading.Reader._read_file

    def failing(path, size):
        read.append(Path(path).name)
        if read[-1] in fails:
            raise error
        return was(path, size)

    monkeypatch.setattr(reading.Reader, "_read_file", staticmethod(failing))
    reason = "Input/output error" if isinstance(error, OSError) else "it needs more memory than there is"
    for _ in range(2):
        with pytest.raises(UnblotError, match=r"^2 pictures cannot be used; try again, repair") as told:
            open_data(str(folder))
        assert "2.png: it is text" in str(told.value)
        assert f"3.png: {reason}" in str(told.value)
    without = open_data(str(folder), on_broken="skip", cache=tmp_path / "other")
    assert [broken.name for broken in without.cached.broken] == ["2.png", "3.png"]
    fails.clear()
    read.clear()
    with pytest.raises(UnblotError, match=r"^1 picture cannot be used; repair"):
        open_data(str(folder))
    assert read == ["3.png"]
    assert len(open_data(str(folder), on_broken="skip")) == 4
    again = open_data(str(folder), on_broken="skip", cache=tmp_path / "other")
    assert again.fingerprint == without.fingerprint  # a run finds the pictures that it was trained on
    assert read == ["3.png"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_a_cache_that_cannot_be_read_now_is_not_removed(error, tmp_path, monkeypatch):
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "0.png").write_bytes(encoded(RNG.integers(0, 256, (8, 8), np.uint8), "PNG"))
    first = cached(tmp_path / "few", tmp_path / "cache")

    def unreadable(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(manifest.np, "load", unreadable)
        with pytest.raises(UnblotError, match=r"cannot read the dataset cache in .*; try again"):
            cached(tmp_path / "few", tmp_path / "cache")
    monkeypatch.setattr(build, "_build", decoded_nothing)
    assert same(cached(tmp_path / "few", tmp_path / "cache"), first)


def test_a_full_disk_is_told_and_no_reason_to_call_pictures_broken(folder, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place, "ALONE", COUNT)
    monkeypatch.setattr(build, "write_rows", full)
    with pytest.raises(UnblotError, match=r"No space left on device.*UNBLOT_CACHE"):
        cached(folder, tmp_path)
    monkeypatch.setattr(journal.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 1000))
    with pytest.raises(UnblotError, match=r"cache needs .* GB"):
        cached(folder, tmp_path / "other")


def test_colour_among_gray_starts_again_in_colour(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SAMPLE", 2)
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(9):
        shape = (8, 8, 3) if i == 4 else (8, 8)
        (folder / f"{i}.png").write_bytes(encoded(RNG.integers(0, 256, shape, np.uint8), "PNG"))
    said: list[str] = []
    data = open_data(str(folder), report=said.append)
    assert data.shape == (3, 8, 8)
    assert any("in colour after all" in line for line in said)
    assert open_data(str(folder), colour="gray").shape == (1, 8, 8)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_large_array_is_cached_in_slices(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "IN_MEMORY", 0)
    monkeypatch.setattr(build, "TASK_BYTES", 4000)
    array = (RNG.random((60, 3, 9, 11)) * 200).astype(dtype)
    if dtype == "float32":
        array[7, 0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", array)
    data = open_data(str(tmp_path / "x.npy"), on_broken="skip")
    assert isinstance(data.pictures, np.memmap)
    kept = np.delete(array, 7, axis=0) if dtype == "float32" else array
    np.testing.assert_array_equal(data.pictures, kept)
    monkeypatch.setattr(build, "IN_MEMORY", 2**30)
    other = open_data(str(tmp_path / "x.npy"), on_broken="skip", cache=tmp_path / "other")
    assert (other.fingerprint, other.values, other.cached.broken) == (data.fingerprint, data.values, data.cached.broken)


def test_runs_of_indices_are_consecutive_and_within_their_cost():
    rng = random.Random(0)
    for _ in range(50):
        indices = np.array(sorted(rng.sample(range(200), rng.randrange(0, 150))), np.int64)
        cost = [rng.random() * 0.6 for _ in range(200)]
        runs = list(build._runs(indices, cost.__getitem__))
        assert [i for a, b in runs for i in range(a, b)] == indices.tolist()
        assert all(b - a == 1 or sum(cost[a:b]) <= 1 + 1e-9 for a, b in runs)


def test_workers_end_with_the_iteration(folder, tmp_path):
    spec = ImageSpec(3, 16, 16, "uint8", False, "crop", (0, 0, 0), False)
    work = journal.Journal.start(tmp_path / "work", COUNT, spec)
    job = {"root": str(folder), "pages": "pictures", "spec": spec, "path": str(work.rows), "offset": 128}
    tasks = ((i, [Item(f"p{i:04}.png")]) for i in range(COUNT))
    with pool.started(3) as idle:
        results = pool.decode_all(job, tasks, COUNT, 2, idle)
        next(results)
        results.close()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    assert not children.exists() or not any("worker" in _command(pid) for pid in children.read_text().split())


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_rows_are_written_where_they_belong(tmp_path):
    path = tmp_path / "rows.npy"
    offset = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(9, 1, 2, 2)).offset
    rows = RNG.integers(0, 65536, (3, 1, 2, 2), np.uint16)
    worker.write_rows(str(path), offset, 4, rows)
    found = np.load(path)
    np.testing.assert_array_equal(found[4:7], rows)
    assert not found[[0, 1, 2, 3, 7, 8]].any()


def test_a_cache_of_what_lay_there_before_goes_when_nobody_opened_it_for_long(tmp_path):
    cache, here, other = tmp_path / "cache", tmp_path / "here", tmp_path / "other"
    datasets = cache / "datasets"

    def put(folder: Path) -> manifest.CachedDataset:
        """Puts another picture into the folder and caches it."""
        folder.mkdir(exist_ok=True)
        (folder / "a.png").write_bytes(encoded(RNG.integers(0, 256, (16, 16), np.uint8), "PNG"))
        os.utime(folder / "a.png", ns=(len(names()), len(names())))
        return cached(folder, cache)

    def names() -> set[str]:
        return {p.name for p in datasets.glob("*") if p.is_dir()}

    def age(names: set[str], days: float) -> None:
        for name in names:
            os.utime(datasets / name, (time.time() - 86400 * days,) * 2)

    put(other)
    others = names()
    first = put(here)
    values, firsts = np.array(first.pictures), names() - others
    age(names(), place.KEPT_DAYS + 1)
    cached(here, cache)  # opens it
    put(here)
    seconds = names() - others - firsts
    assert len(names()) == 3
    age(others | firsts, place.KEPT_DAYS + 1)
    age(seconds, place.KEPT_DAYS - 1)
    put(here)
    assert names() & (others | firsts | seconds) == others | seconds
    assert len(names()) == 3
    assert np.array_equal(first.pictures, values)  # of who still reads it


def test_workers_start_early_only_for_a_folder_of_many_files_that_was_never_cached_so(folder, tmp_path, monkeypatch):
    started: list[int] = []
    was = pool.started
    monkeypatch.setattr(pool, "started", lambda count: started.append(count) or was(count))
    few = tmp_path / "few"
    few.mkdir()
    (few / "a.png").write_bytes(encoded(RNG.integers(0, 256, (9, 9), np.uint8), "PNG"))
    for source, size in ((few, 16), (folder, 16), (folder, 16), (folder, 8)):
        open_data(str(source), size=size, on_broken="skip", workers=2, cache=tmp_path / "cache")
    assert started == [0, 2, 0, 2]


def test_a_decoder_that_hangs_is_ended_and_breaks_only_its_picture(folder, tmp_path, monkeypatch):
    waited: list[float] = []
    hangs = tmp_path / "hangs"

    class Impatient(queue.SimpleQueue):
        """Runs out of patience as soon as nobody but the hanging decoder can have anything to say."""

        def get(self, block=True, timeout=None):
            while self.empty():
                if hangs.exists():
                    hangs.unlink()
                    waited.append(timeout)
                    raise queue.Empty
                time.sleep(0.01)
            return super().get()

    killer = Path(tmp_path / "bin" / "sitecustomize.py")
    killer.parent.mkdir()
    killer.write_text(
        "import pathlib, sys, time\n"
        "if 'unblot.data.cache.worker' in ' '.join(sys.orig_argv):\n"
        "    from unblot.data.readers import reading\n"
        "    was = reading.Reader.read\n"
        "    def read(self, item):\n"
        "        if '0077' in item.name:\n"
        f"            pathlib.Path({str(hangs)!r}).touch()\n"
        "            time.sleep(1000)\n"
        "        return was(self, item)\n"
        "    reading.Reader.read = read\n"
    )
    monkeypatch.setattr(pool.queue, "SimpleQueue", Impatient)
    monkeypatch.syspath_prepend(str(killer.parent))
    made = cached(folder, tmp_path / "cache", workers=1)
    assert made.broken[0] == ("p0077.png", "its decoder crashed or hung")
    assert len(made.pictures) == COUNT - 2
    assert waited == [pool.PATIENCE] * 2


@pytest.mark.parametrize(
    ("limit", "found"), [("150000 100000\n", 2), ("50000 100000\n", 1), ("900000 100000\n", 8), ("max 100000\n", 8)]
)
def test_there_are_as_many_workers_as_a_container_has_processor_time(limit, found, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(limit)
    assert pool.cores(tmp_path / "cpu.max") == found
    assert pool.cores(tmp_path / "nothing") == 8


def test_no_more_workers_start_than_there_is_work_for(folder, tmp_path, monkeypatch):
    started = []

    class Counted:
        def __init__(self):
            started.append(self)

        def begin(self, job): ...

        def close(self): ...

        def ask(self, task):
            return Decoded(task[0], [1] * len(task[1]), [], {})

    monkeypatch.setattr(pool, "Worker", Counted)
    tasks = iter([(0, [Item("a.png")] * 150), (150, [Item("b.png")] * 150)])
    assert len(list(pool.decode_all({}, tasks, COUNT, 8, []))) == 2
    assert len(started) <= 2
    early = [place.early_workers(str(folder), ImageOptions(), tmp_path / "cache", most) for most in (1, 3, 64)]
    assert early == [1, 3, 4]  # one for each 64 of 300 files beyond the 64 that need none
