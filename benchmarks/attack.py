"""Damaged and hostile files: each must end right or in one clear line, in bounded time and memory.

    python benchmarks/attack.py [--only models|stored|data|samples] [--seed 0] [--scale 1]

Trains a tiny model, then tries 200 mutated model files, 300 edited JSON files of a run and of its dataset cache, 400
mutated data files of every format and 20 simultaneous `unblot sample` of one run, each command in a process of its own
with limits of memory and processor time. What is not held is printed with its command, its files are kept. Prints one
line of JSON at the end: tried and held of each kind, and the most that an attack took beyond the same command on sound
files.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attack_files import ALONE, TRAIN, data_files, edited, everything, mutated, warm
from unblot.cli.parser import main as unblot
from unblot.data.dataset import open_data
from unblot.errors import UnblotError

MEMORY, SECONDS = 2**30, 20  # beyond the same command on sound files; of processor time
ADDRESSES = 4 * 2**30  # bytes of address space that a command may add
CACHED = "a dataset cache's manifest.json"


class Ended(NamedTuple):
    """How a command ended: exit code (negative: the signal), output, seconds of processor time, peak bytes."""

    code: int
    output: str
    seconds: float
    peak: int

    def fault(self, allowed: int) -> str:
        """Why this is not held, "" if it is. allowed: the peak in bytes of the same command on sound files."""
        loud = [line for line in self.output.splitlines() if line[:1].strip() and "error: " in line]
        if self.code not in (0, 2) or "Traceback" in self.output or "Warning" in self.output:
            return f"exit {self.code}: {self.output[-600:]}"
        if self.code == 2 and len(loud) != 1:
            return f"not one line: {self.output[-600:]}"
        if self.seconds > SECONDS or self.peak > allowed + MEMORY:
            return f"{self.seconds:.1f} s, {self.peak / 1e6:.0f} MB (sound files: {allowed / 1e6:.0f} MB)"
        return ""


def start(command: list[str], log: Path) -> int:
    """The id of a process that runs a command of unblot within the limits, its output in a file."""
    if child := os.fork():
        return child
    code: Any = 99
    try:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.stdout, sys.stderr = (os.fdopen(i, "w", errors="backslashreplace") for i in (1, 2))
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + ADDRESSES, in_use + ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CPU, (2 * SECONDS, 2 * SECONDS + 1))
        code = read(command[1]) if command[0] == "doctor" else unblot(command)
    except SystemExit as e:
        code = e.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def read(path: str) -> int:
    """What `unblot doctor` does before it measures anything: reads the data."""
    try:
        open_data(path, on_broken="skip", report=print)
    except UnblotError as e:
        print(f"unblot: error: {e}")
        return 2
    return 0


def end(child: int, log: Path, patience: float = 10 * SECONDS) -> Ended:
    """How a process ended; it is killed after `patience` seconds of wall time, as it waits for something."""
    last = time.monotonic() + patience
    while not (found := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() > last:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    code, used = os.waitstatus_to_exitcode(found[1]), found[2]
    return Ended(code, log.read_text(errors="replace"), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


class Attack:
    """Counts what was tried and held, against the same command on sound files."""

    def __init__(self, folder: Path):
        self.folder, self.allowed = folder, dict[str, int]()
        self.tried = self.held = self.beyond = 0
        self.seconds = 0.0

    def run(self, command: str) -> Ended:
        """How a command ended."""
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        return end(start(command.split(), log), log)

    def sound(self, command: str) -> None:
        """Runs a command on sound files, where it must succeed, and notes its peak of memory."""
        ended = self.run(command)
        if ended.code:
            raise SystemExit(f"unblot {command} fails on sound files: {ended.output}")
        kind = command.split()[0]
        self.allowed[kind] = max(self.allowed.get(kind, 0), ended.peak)

    def attempt(self, command: str, evidence: Path) -> None:
        """Runs a command on attacked files; where it is not held, prints it and keeps the evidence."""
        ended = self.run(command)
        self.judge(command, ended.fault(self.allowed[command.split()[0]]), evidence)
        self.seconds = max(self.seconds, round(ended.seconds, 2))
        self.beyond = max(self.beyond, ended.peak - self.allowed[command.split()[0]])

    def judge(self, command: str, fault: str, evidence: Path) -> None:
        """Counts one attempt."""
        self.tried += 1
        self.held += not fault
        if fault:
            kept = self.folder / "not held" / f"{self.tried} {evidence.name}"
            kept.parent.mkdir(exist_ok=True)
            (shutil.copytree if evidence.is_dir() else shutil.copy)(evidence, kept)
            print(f"not held: unblot {command}\n  evidence: {kept}\n  {fault}", flush=True)


def models(attack: Attack, run: Path, chance: random.Random, count: int) -> None:
    """Model files with changed bytes, and with edited headers."""
    place = attack.folder / "model.safetensors"
    whole = (run / place.name).read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    commands = (f"show {place}", f"sample {place} -n 1 --steps 2 --out {attack.folder / 'out'} --overwrite")
    place.write_bytes(whole)
    for command in commands:
        attack.sound(command)
    for i in range(count):
        data = mutated(whole, chance)
        if i % 2:
            header = json.loads(whole[8 : 8 + size])
            if chance.random() < 0.6 and (kept := [k for k, v in header["__metadata__"].items() if v[:1] == "{"]):
                key = chance.choice(kept)
                header["__metadata__"][key] = edited(header["__metadata__"][key], chance)
                text = json.dumps(header)
            else:
                text = edited(json.dumps(header), chance)
            data = struct.pack("<Q", len(text.encode())) + text.encode() + whole[8 + size :]
        place.write_bytes(data)
        shutil.rmtree(attack.folder / "out", ignore_errors=True)
        attack.attempt(commands[i // 2 % 2], place)


def stored(attack: Attack, run: Path, chance: random.Random, count: int) -> None:
    """All JSON files of a run and of its dataset cache, edited, then read by what needs them."""
    whole, place = everything(attack.folder), attack.folder / "place"
    before, copy = os.environ["UNBLOT_CACHE"], place / "run"
    os.environ["UNBLOT_CACHE"] = str(place / "cache")
    show, resume = f"show {copy}", f"train --resume {copy} --steps 4 --quiet"
    again = f"sample {copy} -n 2 --steps 2 --out {copy / 'samples' / 'sample'}"
    readers = {
        "config.json": (show, resume),
        "metrics.jsonl": (show, resume),
        "state.json": (resume,),
        "manifest.json": (again, f"{again} --overwrite"),
        "plan.json": (show,),
        "tuning.json": (show, f"sample {copy} -n 1"),
        "report.json": (f"compare {copy}",),
        CACHED: (resume,),
    }
    for command in sorted({command for some in readers.values() for command in some}):
        shutil.copytree(whole, place)
        attack.sound(command)
        shutil.rmtree(place)
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.suffix in (".json", ".jsonl"))
    if missing := readers.keys() - {_kind_of(file) for file in files}:
        raise SystemExit(f"the run has no {', '.join(sorted(missing))}")
    for i in range(count):
        shutil.copytree(whole, place)
        path = place / files[i % len(files)]
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        line = chance.randrange(len(lines))
        lines[line] = edited(lines[line], chance)
        path.write_text("\n".join(lines) + "\n")
        commands = readers[_kind_of(files[i % len(files)])]
        attack.attempt(commands[i // len(files) % len(commands)], place)
        shutil.rmtree(place)
    os.environ["UNBLOT_CACHE"] = before


def _kind_of(file: Path) -> str:
    """What a JSON file is: its name, and of the dataset cache's manifest a name of its own."""
    return CACHED if file.parts[:2] == ("cache", "datasets") and file.name == "manifest.json" else file.name


def data(attack: Attack, run: Path, chance: random.Random, count: int) -> None:
    """Data files of every format, mutated: single pictures and labels beside two sound pictures, others alone."""
    files, folder = data_files(), attack.folder / "pictures"
    for i in range(count + len(files)):  # first every file as it is
        name = list(files)[i % len(files)]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / name).write_bytes(files[name] if i < len(files) else mutated(files[name], chance))
        if name in ALONE:
            command = f"doctor {folder / name}"
        else:
            command = f"doctor {folder}"
            for number in range(2):
                (folder / f"{number}.png").write_bytes(files["x.png"])
        if i < len(files):
            attack.sound(command)
        else:
            attack.attempt(command, folder)


def samples(attack: Attack, run: Path, chance: random.Random, count: int) -> None:
    """Simultaneous samples of one run: each must have a folder of its own, with the pictures of its seed."""
    commands = [f"sample {run} -n 2 --steps 2 --seed {seed}" for seed in range(count)]
    expected = {}
    for seed, command in enumerate(commands):
        out = attack.folder / "expected" / str(seed)
        attack.sound(f"{command} --out {out}")
        expected[seed] = [(out / f"{i:06}.png").read_bytes() for i in range(2)]
    shutil.rmtree(run / "samples")
    logs = [attack.folder / f"log {seed}" for seed in range(count)]
    children = [start(command.split(), log) for command, log in zip(commands, logs)]
    ended = [end(child, log, 60 * SECONDS) for child, log in zip(children, logs)]
    found: dict[int, list[bytes]] = {}
    for manifest in (run / "samples").glob("*/manifest.json"):
        pictures = [path.read_bytes() for path in sorted(manifest.parent.glob("[0-9]*.png"))]
        found[json.loads(manifest.read_text())["seed"]] = pictures
    for seed, command in enumerate(commands):
        fault = ended[seed].fault(attack.allowed["sample"])
        wrong = "" if found.get(seed) == expected[seed] else "its folder is missing, or holds other pictures"
        attack.judge(command, fault or wrong, run / "samples")


KINDS: dict[str, tuple[Callable[[Attack, Path, random.Random, int], None], int]] = {
    "models": (models, 200),
    "stored": (stored, 300),
    "data": (data, 400),
    "samples": (samples, 20),
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1, help="share of the attempts to make")
    args = parser.parse_args()
    torch.set_num_threads(1)  # threads do not live on in the processes that start from this one
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nor does a GPU's context
    base = Path(tempfile.mkdtemp(prefix="attack-"))
    os.environ["UNBLOT_CACHE"] = str(base / "cache")
    run = base / "run"
    for command in (f"{TRAIN} --out {run}", f"show {run}", f"sample {run} -n 2 --steps 2 --out {base / 'warm'}"):
        warm(command)
    results = {}
    for kind in [args.only] if args.only else KINDS:
        attack, count = Attack(base / kind), max(1, round(KINDS[kind][1] * args.scale))
        attack.folder.mkdir()
        KINDS[kind][0](attack, run, random.Random(args.seed), count)
        results[kind] = {"tried": attack.tried, "held": attack.held, "seconds": attack.seconds, "bytes": attack.beyond}
        print(f"{kind}: {attack.held} of {attack.tried} held", flush=True)
    if all(found["held"] == found["tried"] for found in results.values()):
        shutil.rmtree(base)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
