"""60,000 PNG files to batches: the dataset cache against plain Pillow decoding on all cores, in the same run.

    python benchmarks/pack.py [--count 60000] [--rounds 3]

Takes MNIST from $UNBLOT_DATA (default ../shared/data) and writes it as PNG files into a temporary folder. The two
ways of decoding take turns; each round packs into a fresh cache. Then: how long a second start takes, how much memory
the packing process (with PyTorch in it) and all its workers had at their peak, and how much faster batches come than
the default network trains on them. Prints JSON.
"""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from measure import report, summary
from unblot.api import plan_run
from unblot.config.schema import DataConfig
from unblot.data.cache.pool import cores
from unblot.data.dataset import Dataset, open_data
from unblot.training.trainer import denoising_trainer

CHUNK = 500  # files that a Pillow process decodes at a time


def write_pngs(folder: Path, count: int) -> list[str]:
    """MNIST's first training pictures as PNG files in ten folders by class."""
    data = Path(os.environ.get("UNBLOT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    with np.load(data / "mnist.npz") as archive:
        pictures, labels = archive["x_train"][:count], archive["y_train"][:count]
    files = [folder / str(label) / f"{i:05}.png" for i, label in enumerate(labels)]
    for place in {file.parent for file in files}:
        place.mkdir(parents=True)
    for file, picture in zip(files, pictures):
        Image.fromarray(picture).save(file)
    return [str(file) for file in files]


def decode(files: list[str]) -> None:
    """Plain Pillow."""
    for file in files:
        with Image.open(file) as picture:
            picture.load()


def pillow_seconds(files: list[str]) -> float:
    """Decoding with Pillow in one process a core."""
    start = time.perf_counter()
    parts = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    with multiprocessing.get_context("fork").Pool(cores()) as pool:
        pool.map(decode, parts, chunksize=1)
    return time.perf_counter() - start


def pack_seconds(folder: Path, cache: Path) -> float:
    """Opening a folder of pictures whose dataset cache is there or not."""
    start = time.perf_counter()
    open_data(str(folder), cache=cache)
    return time.perf_counter() - start


def peak_megabytes(folder: Path, cache: Path) -> dict[str, float]:
    """Peak memory of a process that imports unblot and packs, and of it and its workers together (proportional set)."""
    code = "import sys; from unblot.data.dataset import open_data; open_data(sys.argv[1], cache=sys.argv[2])"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder), str(cache)])
    alone = together = 0.0
    while process.poll() is None:
        found = [megabytes(pid) for pid in [process.pid, *children(process.pid)]]
        alone, together = max(alone, found[0]), max(together, sum(found))
        time.sleep(0.01)
    return {"process": round(alone), "with_workers": round(together)}


def megabytes(pid: int) -> float:
    """The proportional set size of a process: its own pages, and its share of those it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    except (OSError, StopIteration):
        return 0.0


def children(pid: int) -> list[int]:
    """The processes that a process (by any of its threads) has started."""
    try:
        tasks = [p.name for p in Path(f"/proc/{pid}/task").iterdir()]
        return [int(c) for t in tasks for c in Path(f"/proc/{pid}/task/{t}/children").read_text().split()]
    except OSError:
        return []


def batch_seconds(data: Dataset, size: int, rounds: int = 200) -> float:
    """One batch of random training pictures, from the map."""
    chosen = np.random.default_rng(0).choice(data.train, (rounds, size))
    start = time.perf_counter()
    for indices in chosen:
        data.batch(indices)
    return (time.perf_counter() - start) / rounds


def step_seconds(data: Dataset, folder: Path, rounds: int = 5) -> tuple[float, int]:
    """One training step of the default network on this data, and the batch's size."""
    trainer = denoising_trainer(plan_run(DataConfig(data=str(folder)), data, {}), data)
    trainer.take_step()
    start = time.perf_counter()
    for _ in range(rounds):
        float(trainer.take_step().loss)
    return (time.perf_counter() - start) / rounds, trainer.config.train.batch_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary) / "pictures", Path(temporary) / "cache"
        files = write_pngs(folder, args.count)
        pillow_seconds(files)  # the first reading of the files is the disk's business
        pillow, packing, again = [], [], []
        for _ in range(args.rounds):
            pillow.append(pillow_seconds(files))
            packing.append(pack_seconds(folder, cache))
            again.append(pack_seconds(folder, cache))
            shutil.rmtree(cache)
        memory = peak_megabytes(folder, cache)
        data = open_data(str(folder), cache=cache)
        step, size = step_seconds(data, folder)
        batch = batch_seconds(data, size)
    report(
        files=args.count,
        cores=cores(),
        pillow_seconds=summary(pillow),
        pack_seconds=summary(packing),
        pack_to_pillow=round(summary(packing)["median"] / summary(pillow)["median"], 3),
        second_start_seconds=summary(again),
        peak_megabytes=memory,
        batch_milliseconds=round(batch * 1e3, 3),
        step_milliseconds=round(step * 1e3, 1),
        batches_to_steps=round(step / batch, 1),
    )


if __name__ == "__main__":
    main()
