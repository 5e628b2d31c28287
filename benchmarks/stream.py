"""300,000 pictures in 60 shards: how fast, in how much memory, and in which order training reads them.

    python benchmarks/stream.py [--count 300000] [--shards 60] [--size 32]

Makes pictures of noise in a temporary folder, packs them, and reads a whole epoch in batches, from the folder and from
a server of HTTP on this machine (with room for two windows of shards on disk). Then: pictures/s against those that the
default network trains on in the same run; memory while the epoch goes on; whether a fresh data set that begins in the
middle of it gives the same pictures; and what a missing and a damaged shard do. Prints JSON.
"""

import argparse
import functools
import hashlib
import http.server
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import unblot
from measure import report
from unblot.config.schema import DataConfig
from unblot.data.dataset import Dataset, open_data
from unblot.data.shards.order import WINDOW
from unblot.errors import UnblotError
from unblot.training.plan import plan_run
from unblot.training.trainer import denoising_trainer

BATCH = 128


def write_pictures(path: Path, count: int, size: int) -> None:
    """Coloured squares under noise, (count, size, size, 3)."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
    rng = np.random.default_rng(0)
    for start in range(0, count, 10_000):
        n = min(10_000, count - start)
        squares = rng.integers(0, 128, (n, 4, 4, 3), np.uint8).repeat(size // 4, 1).repeat(size // 4, 2)
        out[start : start + n] = squares + rng.integers(0, 64, (n, size, size, 3), np.uint8)


def megabytes() -> float:
    """The memory of this process that is no cache of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def epoch(data: Dataset, first: int = 0, steps: int | None = None) -> dict[str, Any]:
    """Reads an epoch's batches from a step on: the pictures' hash, pictures/s, and memory at ten moments."""
    assert data.stream is not None
    last = len(data.stream) // BATCH if steps is None else first + steps
    digest, memory, start = hashlib.sha256(), [], time.perf_counter()
    for step in range(first, last):
        numbers = data.stream.order(0, 0, step * BATCH, (step + 1) * BATCH).numpy()
        if len(numbers) < BATCH:  # the batch goes on in the next window
            more = data.stream.order(0, 0, step * BATCH + len(numbers), (step + 1) * BATCH).numpy()
            numbers = np.concatenate([numbers, more])
        x, _ = data.stream.batch(numbers)
        digest.update(numbers.tobytes() + x[:, 0, 0, 0].numpy().tobytes())
        if (step - first) % max(1, (last - first) // 10) == 0:
            memory.append(round(megabytes()))
    seconds = time.perf_counter() - start
    rate = round((last - first) * BATCH / seconds)
    return {"pictures_per_second": rate, "megabytes": memory, "hash": digest.hexdigest()[:16]}


def training_rate(data: Dataset, place: Path, rounds: int = 4) -> float:
    """Pictures/s that the default network trains on."""
    trainer = denoising_trainer(plan_run(DataConfig(data=str(place)), data, {}), data)
    trainer.take_step()
    start = time.perf_counter()
    for _ in range(rounds):
        float(trainer.take_step().loss)
    return rounds * trainer.config.train.batch_size / (time.perf_counter() - start)


def serve(folder: Path) -> tuple[http.server.ThreadingHTTPServer, str]:
    """A server of the files in a folder, and its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


def harmed(shards: Path, cache: Path) -> dict[str, Any]:
    """What is said of a missing and of a damaged shard, and whether training goes on without them when asked to."""
    missing, damaged = sorted(shards.glob("*.npy"))[-2:]
    missing.rename(shards / "gone")
    with open(damaged, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    said: list[str] = []
    try:
        epoch(open_data(str(shards), cache=cache))
    except UnblotError as error:
        said.append(str(error))
    (shards / "gone").rename(missing)
    try:
        epoch(open_data(str(shards), cache=cache))
    except UnblotError as error:
        said.append(str(error))
    missing.unlink()
    lines: list[str] = []
    epoch(open_data(str(shards), cache=cache, on_broken="skip", report=lines.append))
    return {"errors": said, "skipped": [line for line in lines if "left out" in line]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300_000)
    parser.add_argument("--shards", type=int, default=60)
    parser.add_argument("--size", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pictures(folder / "all.npy", args.count, args.size)
        start = time.perf_counter()
        each = -(-args.count // args.shards)
        index = unblot.pack_data(folder / "all.npy", folder / "shards", per_shard=each, quiet=True)
        packing = time.perf_counter() - start
        assert index is not None
        (folder / "all.npy").unlink()
        os.environ["UNBLOT_SHARD_BYTES"] = str(2 * WINDOW * max(shard.size for shard in index.shards))
        shards, cache = folder / "shards", folder / "cache"
        data = open_data(str(shards), cache=cache, labels=False)
        whole = epoch(data)
        middle = len(data.stream or ()) // BATCH // 2
        some = min(middle - 1, 200)
        resumed = epoch(open_data(str(shards), cache=cache), middle, some)
        straight = epoch(data, middle, some)
        server, address = serve(folder)
        there = open_data(f"{address}/shards", cache=folder / "other")
        remote = epoch(there)
        on_disk = sum(f.stat().st_size for f in (folder / "other" / "shards").rglob("*.npy")) / 1e6
        server.shutdown()
        trained = training_rate(data, shards)
        harm = harmed(shards, cache)
    report(
        pictures=args.count,
        shards=len(index.shards),
        packing_seconds=round(packing, 1),
        folder=whole,
        http=remote | {"megabytes_on_disk": round(on_disk), "same_order": remote["hash"] == whole["hash"]},
        middle_of_epoch_same=resumed["hash"] == straight["hash"],
        training_pictures_per_second=round(trained, 1),
        folder_to_training=round(whole["pictures_per_second"] / trained, 1),
        http_to_training=round(remote["pictures_per_second"] / trained, 1),
        **harm,
    )


if __name__ == "__main__":
    main()
