"""How many planted copies `unblot doctor` finds among CIFAR-10's 10,000 test pictures, and how many groups are false.

    python benchmarks/doctor.py [--copies 100] [--seed 0]

Takes cifar10-test.tar from $UNBLOT_DATA (default ../shared/data), adds copies of pictures sampled at random (as they
are, recompressed as JPEG of quality 60, shrunk to a half and to three quarters and enlarged again, mirrored),
examines the lot and prints JSON. CIFAR-10 has copies of its own, so that "false" means: a group without a planted
copy.
"""

import argparse
import io
import os
import random
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from measure import report
from unblot.data.audit.audit import audit_dataset
from unblot.data.dataset import open_data


def saved(picture: Image.Image, kind: str, **options: int) -> bytes:
    """A picture as the bytes of a file."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def rescaled(data: bytes, side: int) -> bytes:
    """The picture shrunk to `side` pixels and enlarged again, bicubically."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return saved(picture.resize((side, side)).resize(picture.size), "PNG")


COPIES: dict[str, Callable[[bytes], bytes]] = {
    "exact": lambda data: data,
    "quality_60": lambda data: saved(Image.open(io.BytesIO(data)), "JPEG", quality=60),
    "rescaled_16": lambda data: rescaled(data, 16),
    "rescaled_24": lambda data: rescaled(data, 24),
    "mirrored": lambda data: saved(ImageOps.mirror(Image.open(io.BytesIO(data))), "PNG"),
}


def plant(folder: Path, count: int, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Adds copies to a folder; for each kind the names of the original and the copy."""
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.jpg"))
    planted: dict[str, list[tuple[str, str]]] = {kind: [] for kind in COPIES}
    for i, name in enumerate(random.Random(seed).sample(names, count)):
        kind = list(COPIES)[i % len(COPIES)]
        data = COPIES[kind]((folder / name).read_bytes())
        copy = f"{name[:-4]}_{kind}.{'jpg' if data[:2] == bytes([255, 216]) else 'png'}"
        (folder / copy).write_bytes(data)
        planted[kind].append((name, copy))
    return planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    archive = Path(os.environ.get("UNBLOT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10-test.tar"
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        folder = Path(temporary) / "test"
        planted = plant(folder, args.copies, args.seed)
        data = open_data(str(folder), cache=Path(temporary) / "cache")
        start = time.perf_counter()
        found = audit_dataset(data, flipped=True)
        seconds = time.perf_counter() - start
    groups = {"exact": found.exact, "mirrored": found.flipped or ()}
    together = {
        kind: {(a, b) for group in groups.get(kind, found.near or ()) for a in group for b in group} for kind in COPIES
    }
    copies = {copy for pairs in planted.values() for _, copy in pairs}
    false = {
        kind: [group for group in some if not copies & set(group)]
        for kind, some in (("exact", found.exact), ("near", found.near or ()), ("mirrored", found.flipped or ()))
    }
    report(
        pictures=found.count,
        found={kind: f"{sum(p in together[kind] for p in pairs)}/{len(pairs)}" for kind, pairs in planted.items()},
        other_groups={kind: len(some) for kind, some in false.items()},
        other_groups_share={kind: len(some) / (found.count - args.copies) for kind, some in false.items()},
        examination_seconds=round(seconds, 2),
    )


if __name__ == "__main__":
    main()
