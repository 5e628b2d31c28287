"""Smallest pictures, folders and archives for tests."""

import io
import os
import random
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image


def png(value: int = 0) -> bytes:
    """A gray PNG of 4x4 pixels of one value."""
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, *names: str) -> Path:
    """A folder with a picture under each name, each of another value."""
    for i, name in enumerate(names):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(10 * i % 256))
    return folder


def blobs(count: int, height: int = 12, width: int = 12) -> np.ndarray:
    """Pictures (count, 1, height, width) of three soft spots anywhere, lit from nowhere: no up and no left."""
    rng = np.random.default_rng(0)
    x = np.zeros((count, height, width))
    for _ in range(3):
        at = rng.uniform(0, 1, (2, count, 1))
        down, along = (
            np.exp(-((np.arange(n) - (n - 1) * a) ** 2) / 6) for n, a in zip((height, width), at, strict=True)
        )
        x += down[:, :, None] * along[:, None, :]
    return x[:, None].astype(np.float32)


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """A zip, or a tar by its suffix, with these members."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


SCANDIR, LISTDIR = os.scandir, os.listdir


class Shuffled:
    """In place of os.scandir: the entries of a folder in a random order."""

    def __init__(self, path: str, chance: random.Random):
        with SCANDIR(path) as entries:
            self.left = sorted(entries, key=lambda entry: entry.name)
        chance.shuffle(self.left)

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        return self

    def __next__(self) -> os.DirEntry[str]:
        if not self.left:
            raise StopIteration
        return self.left.pop()

    def __enter__(self) -> "Shuffled":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Within it folders are listed in a random order, by os.scandir and os.listdir and whatever is made of them."""
    chance = random.Random(seed)

    def listdir(path: str = ".") -> list[str]:
        names = sorted(LISTDIR(path))
        chance.shuffle(names)
        return names

    with (
        mock.patch("os.scandir", lambda path=".": Shuffled(path, chance)),
        mock.patch("os.listdir", listdir),
    ):
        yield
