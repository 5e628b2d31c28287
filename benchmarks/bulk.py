"""A hundred thousand pictures in one command: flat memory, killed and gone on with, complete and without doubles.

    python benchmarks/bulk.py                         # trains a small fast model of the digits first
    python benchmarks/bulk.py --run runs/digits --steps 3 --out bulk.json

`unblot sample RUN -n 100000` is killed with SIGKILL after each of the given shares of its shards and started again,
until it ends by itself. memory: peak resident MB of the processes, beside that of a run of a tenth as many;
complete: as many rows in the shards as asked for; distinct: different pictures among them, by hash of their values;
equal: whether some whole shards are, bit for bit, what an undisturbed run gives; pictures/s: of the
undisturbed tenth.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import unblot
from measure import report
from unblot.runs.bulk import MANIFEST, SHARD

FAST = {"network": "unet:width=32,multipliers=1,blocks=1,patch=2,attention=", "steps": 600}


class Ended(NamedTuple):
    """How a process ended, its peak resident memory, and its time."""

    killed: bool
    megabytes: float
    seconds: float
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("-n", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--kills", type=float, nargs="*", default=[0.1, 0.45, 0.8], help="after these shares")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = unblot.load(args.run) if args.run else unblot.train("digits", out=folder / "run", quiet=True, **FAST)
        command = [sys.executable, "-m", "unblot", "sample", str(run.path), "--label", "all"]
        command += ["--steps", str(args.steps), "--batch-size", str(args.batch_size)]
        tenth = sampled([*command, "-n", str(args.n // 10), "--out", str(folder / "tenth")], folder / "tenth", None)
        many, parts = folder / "many", []
        shards = -(-args.n // SHARD)
        for share in [*args.kills, None]:
            wanted = None if share is None else max(1, round(share * shards))
            parts.append(sampled([*command, "-n", str(args.n), "--out", str(many)], many, wanted))
        again = sampled([*command, "-n", str(args.n), "--out", str(many)], many, None)  # nothing is left to do
        choices = {"steps": args.steps, "label": "all", "batch_size": args.batch_size}
        found = {
            "pictures": args.n,
            "shape": run.config.data.shape,
            "steps": args.steps,
            "killed_after_shards": [round(k * shards) for k, part in zip(args.kills, parts) if part.killed],
            "memory_megabytes": {"all": max(part.megabytes for part in parts), "tenth": tenth.megabytes},
            **examined(run, many, args.n, choices),
            "seconds": {"all_parts": sum(part.seconds for part in parts), "nothing_left": again.seconds},
            "pictures_per_second": args.n // 10 / tenth.seconds,
            "pictures_per_cpu_second": args.n // 10 / tenth.cpu_seconds,
            "megabytes_on_disk": sum(p.stat().st_size for p in many.iterdir()) / 1e6,
            "left_over": sorted(p.name for p in many.glob(".*")),
            "manifest": json.loads((many / MANIFEST).read_text()),
        }
        shutil.rmtree(many)
    report(args.out, **found)


def sampled(command: list[str], folder: Path, kill_after: int | None) -> Ended:
    """Runs a command; kills it as soon as the folder holds this many shards."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    killed = False
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if kill_after is not None and not killed and len(list(folder.glob("shard-*.npy"))) >= kill_after:
            process.send_signal(signal.SIGKILL)
            killed = True
        time.sleep(0.02)
    if not killed and status != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    kilobytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return Ended(killed, kilobytes / 1024, time.perf_counter() - start, used.ru_utime + used.ru_stime)


def examined(run: unblot.Run, folder: Path, n: int, choices: dict[str, Any]) -> dict[str, Any]:
    """Whether the shards hold every picture once, and what an undisturbed run holds."""
    paths = sorted(folder.glob("shard-*.npy"))
    hashes, rows = set(), []
    for path in paths:
        pictures = np.load(path)
        rows.append(len(pictures))
        hashes |= {hashlib.blake2b(picture.tobytes(), digest_size=16).digest() for picture in pictures}
    labels = np.concatenate([np.load(path) for path in sorted(folder.glob("labels-*.npy"))])
    some = [0, len(paths) // 2, len(paths) - 1]
    equal = []
    for k in some:
        undisturbed = run.sample(rows[k], first=k * SHARD, **choices)
        equal.append(bool(np.array_equal(np.load(paths[k]), undisturbed.array)))
    return {
        "complete": sum(rows) == n and [p.stem for p in paths] == [f"shard-{k:06d}" for k in range(-(-n // SHARD))],
        "labels_right": bool((labels == np.arange(n) % len(run.config.data.classes)).all()),
        "distinct": len(hashes),
        "equal": {"shards": some, "bit_for_bit": equal},
    }


if __name__ == "__main__":
    main()
