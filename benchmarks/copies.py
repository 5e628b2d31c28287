"""Are planted copies found, and are real pictures left alone? On digits, MNIST and CIFAR-10.

    python benchmarks/copies.py --out copies.json

Held-out pictures pose as samples; a share of them is replaced by training pictures, as they are or changed. Prints, for
each data set, the share of the untouched held-out pictures called copies, and of the planted ones. MNIST and CIFAR-10
(its test pictures alone, split here) are searched in the folder UNBLOT_DATA.
"""

import argparse
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from unblot.evaluation.image_set import ImageSet
from unblot.evaluation.memorization import nearness

FOLDER = Path(os.environ.get("UNBLOT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """1,297 training and 500 held-out digits."""
    from sklearn.datasets import load_digits

    pictures = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[:, None]
    return _split(pictures, 500, seed)


def mnist(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """60,000 training pictures and 2,000 of the test pictures."""
    with np.load(FOLDER / "mnist.npz", allow_pickle=False) as file:
        return _split(file["x_train"][:, None], 0, seed)[0], _split(file["x_test"][:, None], 2000, seed)[1]


def cifar10(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """9,000 training and 1,000 held-out pictures, of the 10,000 test pictures."""
    with tarfile.open(FOLDER / "cifar10-test.tar") as archive:
        files = [archive.extractfile(m) for m in archive.getmembers() if m.name.endswith(".jpg")]
        pictures = [np.asarray(Image.open(io.BytesIO(f.read())).convert("RGB")) for f in files if f]
    return _split(np.stack(pictures).transpose(0, 3, 1, 2), 1000, seed)


def _split(pictures: np.ndarray, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(pictures))
    return pictures[order[held_out:]], pictures[order[:held_out]]


def as_they_are(pictures: np.ndarray) -> np.ndarray:
    """Exact copies."""
    return pictures


def with_noise(levels: float) -> Callable[[np.ndarray], np.ndarray]:
    """Copies with normal noise of this many gray levels."""

    def change(pictures: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, levels, pictures.shape)
        return np.clip(np.rint(pictures + noise), 0, 255).astype(np.uint8)

    return change


def recompressed(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    """Copies through JPEG."""

    def one(picture: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)).save(
            file, "JPEG", quality=quality
        )
        found = np.asarray(Image.open(file))
        return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)

    return lambda pictures: np.stack([one(picture) for picture in pictures])


CHANGES = {
    "exact": as_they_are,
    "noise of 2 levels": with_noise(2),
    "noise of 5 levels": with_noise(5),
    "JPEG, quality 95": recompressed(95),
    "JPEG, quality 75": recompressed(75),
    "JPEG, quality 50": recompressed(50),
}


def measure(training: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Shares called copies: of the held-out pictures and of 500 planted ones in each form; and exact counts."""

    def encode(stored: np.ndarray) -> np.ndarray:
        return stored.astype(np.float32) / np.float32(127.5) - 1

    reference = ImageSet(training, encode)
    called = nearness(ImageSet(held_out, encode), reference).copies()
    result = {"held-out": float(called.double().mean())}
    for name, change in CHANGES.items():
        found = nearness(ImageSet(change(training[:500]), encode), reference).copies()
        result[name] = float(found.double().mean())
    for share in (0.01, 0.05, 0.5):
        k = round(share * len(held_out))
        planted = np.concatenate([training[:k], held_out[k:]])
        found = nearness(ImageSet(planted, encode), reference).copies()
        result[f"{share:.0%} planted, {k}: missed"] = int((~found[:k]).sum())
        result[f"{share:.0%} planted, {k}: too many"] = int(found[k:].sum())
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits,cifar10,mnist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the JSON")
    args = parser.parse_args()
    sets = {"digits": digits, "mnist": mnist, "cifar10": cifar10}
    results = {name: measure(*sets[name](args.seed)) for name in args.data.split(",")}
    text = json.dumps(results, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
