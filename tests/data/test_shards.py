"""Data in shards: packing loses nothing and is the same on any number of machines; training reads it in one order."""

import contextlib
import dataclasses
import errno
import functools
import http.server
import json
import signal
import threading
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch

import unblot
from helpers import TINY, TINY_RUN, captioned_folder
from small_sets import png
from unblot.cli.parser import main
from unblot.config.schema import DataConfig
from unblot.data.cache import pool
from unblot.data.dataset import open_data
from unblot.data.pack import decode, job
from unblot.data.readers.listing import Item, Listing
from unblot.data.shards import places
from unblot.data.shards.order import WINDOW, WindowedOrder
from unblot.errors import UnblotError
from unblot.runs.folder import METRICS
from unblot.training.batches import BatchMaker
from unblot.training.plan import plan_run
from unblot.training.trainer import Trainer

COUNT, EACH = 420, 20
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (COUNT, 6, 6), np.uint8)
LABELS = np.arange(COUNT) % 3


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """COUNT labelled pictures in 21 shards of EACH."""
    folder = tmp_path_factory.mktemp("packed")
    np.savez(folder / "all.npz", images=PICTURES, labels=LABELS)
    unblot.pack_data(folder / "all.npz", folder / "shards", per_shard=EACH, quiet=True)
    return folder / "shards"


@pytest.fixture
def copied(packed, tmp_path) -> Path:
    """The same shards, to be damaged."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for file in packed.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def address(packed):
    """The same shards at an address of HTTP."""
    pytest.importorskip("aiohttp")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=packed.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{packed.name}"
        server.shutdown()


def numbers_of(x: torch.Tensor, data) -> list[int]:
    """Which of PICTURES these are, (B, 1, 6, 6) in the network's range."""
    found = {picture.tobytes(): i for i, picture in enumerate(PICTURES)}
    return [found[picture.tobytes()] for picture in data.values.decode(x.numpy())]


def batches(data, steps, rank=0, world=1):
    """Pictures and labels of the batches of these steps."""
    config = plan_run(DataConfig(data="shards"), data, {"batch_size": 32, "network": "unet:width=16", "seed": 5})
    maker = BatchMaker(config, data, "none")
    return [maker.at(step, rank, world) for step in steps]


# --- the order


def test_an_epoch_takes_every_picture_once_and_a_window_of_shards_at_a_time():
    order = WindowedOrder([5, 0, 7, 3, 9, 1, 1, 4, 4, 6, 2, 8])
    seen = torch.cat([order.pictures(3, 1, w) for w in range(2)])
    assert sorted(seen.tolist()) == list(range(50))
    windows = order.windows(3, 1)
    assert [len(w) for w in windows] == [WINDOW, 4]
    assert set(order.shard_of(order.pictures(3, 1, 0).numpy())) <= set(windows[0])
    others = [torch.cat([order.pictures(seed, epoch, w) for w in range(2)]) for seed, epoch in ((3, 2), (4, 1))]
    assert not any(torch.equal(seen, other) for other in others)


def test_pictures_of_a_missing_shard_are_replaced_and_all_others_keep_their_places():
    order = WindowedOrder([5] * 4)
    whole, part = order.pictures(0, 0, 0), order.pictures(0, 0, 0, frozenset([2]))
    gone = torch.from_numpy(order.shard_of(whole.numpy()) == 2)
    assert int(gone.sum()) == 5
    assert torch.equal(whole[~gone], part[~gone])
    assert 2 not in order.shard_of(part.numpy())
    with pytest.raises(ValueError, match="all shards"):
        order.pictures(0, 0, 0, frozenset(range(4)))


def test_an_epoch_of_batches_holds_every_training_picture_once_with_its_label(packed):
    data = open_data(str(packed))
    count = data.training_count
    got = batches(data, range(-(-count // 32) + 1))
    seen = [i for batch in got for i in numbers_of(batch.x0, data)]
    labels = torch.cat([batch.label for batch in got])
    assert len(set(seen[:count])) == count
    visible = labels < 3  # others are hidden, for guidance
    assert torch.equal(labels[visible], torch.from_numpy(LABELS[seen])[visible])
    held_out = numbers_of(data.batch(data.held_out)[0], data)
    assert sorted({*seen, *held_out}) == list(range(COUNT))
    assert not set(seen) & set(held_out)


def test_batches_are_a_function_of_seed_and_step_alone(packed):
    one = batches(open_data(str(packed)), range(26))
    data = open_data(str(packed))
    for step in (25, 3, 12, 13):
        assert torch.equal(batches(data, [step])[0].x0, one[step].x0)
    shares = [batches(data, range(26), rank, 2) for rank in range(2)]
    for whole, *parts in zip(one, *shares):
        assert torch.equal(torch.cat([part.x0 for part in parts]), whole.x0)


# --- packing


def test_parts_on_several_machines_write_what_one_does(packed, tmp_path, capsys):
    folder = tmp_path / "parts"
    for part in ("2/3", "1/3"):
        assert not main(
            ["pack", str(packed.parent / "all.npz"), "--shards", str(folder), "--per-shard", str(EACH), "--part", part]
        )
        assert "when all parts are there" in capsys.readouterr().out
    with pytest.raises(UnblotError, match="not finished"):
        open_data(str(folder))
    assert unblot.pack_data(packed.parent / "all.npz", folder, per_shard=EACH, part="3/3", quiet=True).count == COUNT
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {f.name: f.read_bytes() for f in packed.iterdir()}


def test_packing_goes_on_with_the_shards_that_are_missing(packed, copied, monkeypatch):
    before = {f.name: f.read_bytes() for f in copied.iterdir()}
    (copied / "00003.npy").unlink()
    (copied / "00007.json").write_text("damaged")
    (copied / "index.json").unlink()
    times = {f.name: f.stat().st_mtime_ns for f in copied.iterdir()}
    unblot.pack_data(packed.parent / "all.npz", copied, per_shard=EACH, quiet=True)
    assert {f.name: f.read_bytes() for f in copied.iterdir()} == before
    same = [name for name, time in times.items() if (copied / name).stat().st_mtime_ns == time]
    assert len(same) == len(before) - 4 - 1  # files of two shards, and the index
    with pytest.raises(UnblotError, match="another way"):
        unblot.pack_data(packed.parent / "all.npz", copied, per_shard=EACH + 1, quiet=True)


def test_processes_on_one_folder_never_mix_their_rows(packed, tmp_path, monkeypatch):
    source, folder = packed.parent / "all.npz", tmp_path / "s"
    was = decode.write_rows

    def write(*args):
        monkeypatch.setattr(decode, "write_rows", was)
        with pytest.raises(UnblotError, match=r"in use by another process.*another part="):
            unblot.pack_data(source, folder, per_shard=EACH, quiet=True)
        unblot.pack_data(source, folder, per_shard=EACH, part="1/2", quiet=True)  # has the same first shard
        was(*args)

    monkeypatch.setattr(decode, "write_rows", write)
    unblot.pack_data(source, folder, per_shard=EACH, quiet=True)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {f.name: f.read_bytes() for f in packed.iterdir()}


def test_packing_again_after_the_data_changed_is_refused(packed, copied, tmp_path):
    np.savez(tmp_path / "all.npz", images=255 - PICTURES, labels=LABELS)
    with pytest.raises(UnblotError, match="shards of other pictures than"):
        unblot.pack_data(tmp_path / "all.npz", copied, per_shard=EACH, quiet=True)


def test_pictures_of_one_name_and_size_are_told_apart_by_what_they_hold(tmp_path):
    for name, picture in (("a", png(1)), ("b", png(1)[:-1] + b"?"), ("c", png(1))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(picture)
    items = [Item("0.png", "", -1, len(png(1)))]
    a, b, c = (job.sampled(Listing(str(tmp_path / name), items)) for name in "abc")
    assert a == c != b
    rows = [Item("row 0", offset=0)]
    told = [job.sampled(Listing(items=rows, read=lambda i, content=content: content)) for content in (b"1", b"2", b"1")]
    assert told[0] == told[2] != told[1]
    assert job.sampled(Listing(str(tmp_path), [Item("missing.png")])) == [0]


@pytest.mark.parametrize("kind", ["four bands", "gray with alpha", "8-bit RGBA", "16-bit RGBA"])
def test_whether_the_last_channel_is_opacity_is_packed_too(kind, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    channels = 2 if kind == "gray with alpha" else 4
    made = RNG.integers(0, 256, (4, 6, 7, channels)).astype(np.uint16 if kind == "16-bit RGBA" else np.uint8)
    made[:, :3, :3, -1] = 0
    for i, picture in enumerate(made):
        if kind == "four bands":
            tifffile.imwrite(folder / f"{i}.tif", picture, photometric="rgb", extrasamples=["unspecified"])
        else:
            (folder / f"{i}.png").write_bytes(imagecodecs.png_encode(picture))
    unblot.pack_data(folder, tmp_path / "s", held_out=0, quiet=True)
    whole, shards = open_data(str(folder), held_out=0), open_data(str(tmp_path / "s"), held_out=0)
    assert shards.values.alpha == whole.values.alpha == (kind != "four bands")
    assert {p.tobytes() for p in shards.pictures} == {p.tobytes() for p in whole.pictures}
    if kind == "four bands":
        assert {p.tobytes() for p in shards.pictures} == {p.tobytes() for p in made.transpose(0, 3, 1, 2)}
        with pytest.raises(UnblotError, match="with 4 channels"):
            open_data(str(tmp_path / "s"), held_out=0, colour="rgba")


def test_a_full_disk_is_said_of_the_shards_also_where_workers_write(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    for i in range(3):
        (tmp_path / "p" / f"{i}.png").write_bytes(png(i))
    full = {"cannot write": [errno.ENOSPC, "No space left on device"]}
    monkeypatch.setattr(decode, "ALONE", 0)
    monkeypatch.setattr(pool.Worker, "_ask", lambda self, message: "ready" if isinstance(message, dict) else full)
    with pytest.raises(UnblotError, match=r"cannot write shards into .*s': No space left on device") as error:
        unblot.pack_data(tmp_path / "p", tmp_path / "s", workers=1, quiet=True)
    assert "UNBLOT_CACHE" not in str(error.value)


def test_colour_after_gray_has_a_way_out_that_works(tmp_path, monkeypatch):
    from unblot.data.cache import build

    monkeypatch.setattr(build, "SAMPLE", 1)
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "0.png").write_bytes(imagecodecs.png_encode(PICTURES[0]))
    (folder / "1.png").write_bytes(imagecodecs.png_encode(np.stack([*PICTURES[:3]], 2)))
    with pytest.raises(UnblotError, match=r"in colour after all.*remove .*, or choose another folder, and give colour"):
        unblot.pack_data(folder, tmp_path / "s", quiet=True)
    unblot.pack_data(folder, tmp_path / "other", colour="rgb", held_out=0, quiet=True)
    assert open_data(str(tmp_path / "other"), held_out=0).shape == (3, 6, 6)


def test_a_folder_of_files_is_packed_by_workers_with_captions_and_without_broken_files(tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    captioned_folder(folder, (9, 7), ["a", "b", "c"])
    for i in range(60):
        (folder / f"x{i}.png").write_bytes(png(i))
    (folder / "bad.png").write_bytes(b"no picture")
    choices = [
        "pack",
        str(folder),
        "--shards",
        str(tmp_path / "s"),
        "--size",
        "8",
        "--per-shard",
        "30",
        "--workers",
        "1",
    ]
    assert main(choices) == 2
    assert "bad.png" in (said := capsys.readouterr().err)
    assert "--on-broken skip" in said
    assert not (tmp_path / "s" / "index.json").exists()
    assert main([*choices, "--on-broken", "skip"]) == 0
    assert not list((tmp_path / "s").glob(".*"))
    data, whole = open_data(str(tmp_path / "s")), open_data(str(folder), size=8, on_broken="skip")
    ours = sorted((p.tobytes(), c) for p, c in zip(data.pictures, data.captions))
    assert ours == sorted((p.tobytes(), c) for p, c in zip(whole.pictures, whole.captions))
    numbers = np.arange(data.training_count)
    told = data.stream.captions_of(numbers)
    pictures = data.values.decode(data.stream.batch(numbers)[0].numpy())
    assert {(p.tobytes(), c) for p, c in zip(pictures, told)} <= set(ours)


def test_copies_of_a_picture_are_on_one_side_of_the_split(tmp_path):
    np.save(tmp_path / "twice.npy", np.concatenate([PICTURES, PICTURES]))
    unblot.pack_data(tmp_path / "twice.npy", tmp_path / "s", per_shard=100, held_out=0.3, quiet=True)
    data = open_data(str(tmp_path / "s"), held_out=0.3)
    digests = data.cached.digests
    assert 0.2 < len(data.held_out) / len(data) < 0.4
    assert not set(digests[data.held_out]) & set(digests[data.train])
    with pytest.raises(UnblotError, match=r"held_out= as it was"):
        open_data(str(tmp_path / "s"))


def test_shards_are_not_written_into_their_pictures_nor_over_other_files(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    with pytest.raises(UnblotError, match="inside of the pictures"):
        unblot.pack_data(tmp_path, tmp_path / "s", quiet=True)
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "mine.npy", PICTURES)
    with pytest.raises(UnblotError, match="choose an empty folder"):
        unblot.pack_data(tmp_path / "a.png", other, quiet=True)


# --- training


def test_a_run_that_stops_within_an_epoch_goes_on_as_if_it_had_not(packed, address, tmp_path, monkeypatch):
    choices = {**TINY_RUN, "steps": 9, "batch_size": 24, "checkpoint_every": 4, "preview_every": 0, "quiet": True}
    whole = unblot.train(packed, out=tmp_path / "whole", **choices)
    take_step = Trainer.take_step

    def interrupted_step(self):
        if self.step == 6:
            signal.raise_signal(signal.SIGINT)
        return take_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", interrupted_step)
        unblot.train(address, out=tmp_path / "stopped", **choices)
    resumed = unblot.resume(tmp_path / "stopped", quiet=True)
    assert whole.config.data == dataclasses.replace(resumed.config.data, name=whole.config.data.name)
    for a, b in zip(whole.denoiser.parameters(), resumed.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (tmp_path / "whole" / METRICS).read_bytes() == (tmp_path / "stopped" / METRICS).read_bytes()


def bytes_below(folder: Path) -> int:
    """The bytes of the arrays in a folder, from which another thread removes some meanwhile."""
    found = 0
    for file in folder.rglob("*.npy"):
        with contextlib.suppress(FileNotFoundError):
            found += file.stat().st_size
    return found


def test_an_address_gives_the_batches_of_the_folder_within_few_bytes(packed, address, monkeypatch, cache):
    size = (packed / "00000.npy").stat().st_size
    with monkeypatch.context() as patch:
        patch.setenv("UNBLOT_SHARD_BYTES", str(size * 5))
        with pytest.raises(UnblotError, match="set UNBLOT_SHARD_BYTES to"):
            open_data(address)
    monkeypatch.setenv("UNBLOT_SHARD_BYTES", str(limit := size * 2 * WINDOW))
    here, there = open_data(str(packed)), open_data(address)
    assert here.fingerprint == there.fingerprint
    most = 0
    for step in range(30):
        (a,), (b,) = batches(here, [step]), batches(there, [step])
        assert torch.equal(a.x0, b.x0)
        most = max(most, bytes_below(cache / "shards"))
    assert size * WINDOW <= most <= limit


@pytest.mark.parametrize("harm", ["missing", "cut", "changed", "beside"])
def test_a_shard_that_is_not_what_was_packed_is_named_and_can_be_skipped(copied, harm):
    victim = copied / "00013.npy"
    content = bytearray(victim.read_bytes())
    if harm == "missing":
        victim.unlink()
    elif harm == "beside":
        victim.with_suffix(".json").write_text(victim.with_suffix(".json").read_text().replace("0", "1", 1))
    else:
        content[-5] ^= 255
        victim.write_bytes(content if harm == "changed" else content[:-5])
    with pytest.raises(UnblotError, match=r"00013.npy.*on_broken='skip'"):
        batches(open_data(str(copied)), range(14))
    lines = []
    data = open_data(str(copied), on_broken="skip", report=lines.append)
    (shard,) = [s for s in data.stream.index.shards if s.file == victim.name]
    count = data.training_count
    got = batches(data, range(-(-count // 32)))
    (told,) = [line for line in lines if "00013.npy" in line]
    assert f"its {shard.training} training pictures are left out" in told
    assert len({i for b in got for i in numbers_of(b.x0, data)}) == count - shard.training


def test_no_network_is_told_after_a_few_tries(monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(places, "PAUSE", 0.0)
    with pytest.raises(UnblotError, match=r"127.0.0.1:9.*check the address"):
        open_data("http://127.0.0.1:9/shards")
    with pytest.raises(UnblotError, match="no address that can be read"):
        open_data("nothing://here")


def test_what_is_no_index_of_shards_is_refused(copied):
    path = copied / "index.json"
    good = json.loads(path.read_text())
    for change in (
        {"version": good["version"] + 1},
        {"dtype": "object"},
        {"shape": [0, 6, 6]},
        {"shards": []},
        {"shards": [good["shards"][0] | {"file": "../00000.npy"}]},
        {"shards": [good["shards"][0] | {"size": 3}]},
        {"shards": [good["shards"][0] | {"held_out": -1}]},
        {"extra": 1},
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(UnblotError, match="index of the shards"):
            open_data(str(copied))


def test_choices_of_packing_are_not_made_again(packed):
    for choice in ({"size": 8}, {"colour": "rgb"}, {"background": "white"}, {"held_out": 0.2}):
        with pytest.raises(UnblotError, match="pack them again"):
            open_data(str(packed), **choice)
    assert open_data(str(packed), size=6, colour="gray").shape == (1, 6, 6)


def test_a_sample_of_more_shards_than_memory_is_bounded(packed, monkeypatch):
    monkeypatch.setattr("unblot.data.readers.shards.SAMPLE_PICTURES", 50)
    lines = []
    data = open_data(str(packed), report=lines.append)
    assert len(data) == 50
    assert any("50 of them" in line for line in lines)
    assert data.training_count + sum(s.held_out for s in data.stream.index.shards) == COUNT
    assert len(data.held_out)
    assert data.training_names(np.array([0]))[0].endswith("of 00000.npy")


def test_clusters_and_latents_of_streamed_pictures_are_those_of_the_sample(packed, tmp_path):
    from unblot.data.clusters import clustered

    data = clustered(open_data(str(packed), labels=False), 3)
    x, labels = data.stream.batch(np.arange(20))
    sample = {p.tobytes(): int(label) for p, label in zip(data.pictures, data.labels)}
    assert labels.tolist() == [sample[p.tobytes()] for p in data.values.decode(x.numpy())]
    sizes = ["--latent-steps", "1", "--latent-factor", "2", "--latent-width", "8", "--steps", "1"]
    run = tmp_path / "run"
    assert main(["train", str(packed), "--latent", *TINY, *sizes, "--out", str(run), "--quiet"]) == 0
