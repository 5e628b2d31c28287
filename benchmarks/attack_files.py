"""What `attack.py` attacks, small files of every format and a run with all that is written into one, and how."""

import contextlib
import io
import json
import os
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from unblot.cli.parser import main as unblot

ALONE = ("stack.tif", "x.zip", "x.tar", "x.tar.gz", "x.npy", "x.npz", "x.h5", "x-idx3-ubyte")  # that hold many pictures
TRAIN = "train digits --quiet --steps 3 --batch-size 8 --network unet:width=16,multipliers=1,blocks=1,attention="
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    10**12,
    1e308,
    float("nan"),
    "300",
    "x" * 2000,
    "<b>",
    [],
    [[1]],
    {},
    {"a": 1},
)


def data_files() -> dict[str, bytes]:
    """A small file of every format, pictures by themselves and containers of them."""
    many = np.random.default_rng(0).integers(0, 256, (8, 24, 20, 3), np.uint8)
    rgb, deep = many[0], many[0].astype(np.uint16) * 257
    members = {f"{i % 2}/{i}.png": bytes(imagecodecs.png_encode(picture)) for i, picture in enumerate(many)}

    def written(write: Callable[..., Any], *rest: Any, **options: Any) -> bytes:
        stream = io.BytesIO()
        write(stream, *rest, **options)
        return stream.getvalue()

    def tar(stream: io.BytesIO, mode: Any) -> None:
        with tarfile.open(fileobj=stream, mode=mode) as archive:
            for name, body in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))

    def zipped(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in members.items():
                archive.writestr(name, body)

    def hdf5(stream: io.BytesIO) -> None:
        with h5py.File(stream, "w") as file:
            file.create_dataset("x", data=many, compression="gzip")

    save = Image.fromarray(rgb).save
    return {
        **{f"x.{kind}": written(save, kind) for kind in ("png", "webp", "gif", "bmp", "tga", "ppm", "avif")},
        "icc.jpg": written(save, "jpeg", icc_profile=imagecodecs.cms_profile("adobergb")),
        "12.jpg": bytes(imagecodecs.jpeg_encode(deep >> 4, bitspersample=12)),
        "16.png": bytes(imagecodecs.png_encode(deep)),
        "16.jp2": bytes(imagecodecs.jpeg2k_encode(deep, level=0)),
        "10.avif": bytes(imagecodecs.avif_encode(deep >> 6, bitspersample=10)),
        "stack.tif": written(tifffile.imwrite, many, photometric="rgb", compression="zlib"),
        "float.tif": written(tifffile.imwrite, rgb[..., 0].astype(np.float32)),
        "x.zip": written(zipped),
        "x.tar": written(tar, "w"),
        "x.tar.gz": written(tar, "w:gz"),
        "x.npy": written(np.save, many),
        "x.npz": written(np.savez_compressed, images=many, labels=np.arange(8)),
        "x.h5": written(hdf5),
        "x-idx3-ubyte": struct.pack(">HBB3I", 0, 8, 3, 8, 24, 20) + many[..., 0].tobytes(),
        "labels.csv": b"file,label\n0.png,cat\n1.png,dog\n",
    }


def little_pictures(folder: Path) -> Path:
    """A folder with 60 gray pictures of 8x8 in two classes."""
    for i, values in enumerate(np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)):
        place = folder / str(i % 2) / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(imagecodecs.png_encode(values))
    return folder


def warm(command: str) -> None:
    """Runs a command in this process, so that those that start from it find everything imported."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        if code := unblot(command.split()):
            raise SystemExit(f"unblot {command} ends with {code}")


def everything(folder: Path) -> Path:
    """A folder with a run on a folder of pictures, with every JSON file that a run has, and with its dataset cache."""
    whole, planned = folder / "whole", folder / "planned"
    pictures = little_pictures(folder / "pictures")
    before, os.environ["UNBLOT_CACHE"] = os.environ["UNBLOT_CACHE"], str(whole / "cache")
    run, train = whole / "run", TRAIN.replace("digits", str(pictures))
    warm(f"{train} --out {run}")
    warm(f"{train.replace('--steps 3', '--budget 10s')} --out {planned}")
    shutil.copy(planned / "plan.json", run)
    warm(f"sample {run} -n 2 --steps 2 --out {run / 'samples' / 'sample'}")
    warm(f"tune {run} --budget 10s -n 100")
    warm(f"evaluate {run} -n 60 --steps 1 --likelihood 0")
    os.environ["UNBLOT_CACHE"] = before
    return whole


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file with some bytes changed, removed, repeated or cut off; early ones more often, where headers are."""
    if chance.random() < 0.15:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        place = int(len(changed) * chance.random() ** 3)
        how, size = chance.random(), chance.choice([1, 2, 4, 40, 400])
        if how < 0.7:
            changed[place : place + 1] = bytes([chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])])
        else:
            changed[place : place + size * (how < 0.85)] = changed[place : place + size] if how >= 0.85 else b""
    return bytes(changed)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key in a JSON value, at any depth."""
    for key in range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ():
        yield value, key
        yield from places(value[key])


def edited(text: str, chance: random.Random) -> str:
    """A JSON text with one value replaced, removed or nested deeply; now and then with its bytes mutated."""
    if chance.random() < 0.2:
        return mutated(text.encode(), chance).decode("utf-8", "replace")
    try:
        value = json.loads(text)
        holder, key = chance.choice(list(places(value)))
    except (ValueError, IndexError):
        return text[: len(text) // 2]
    if chance.random() < 0.2:
        del holder[key]
    else:
        holder[key] = chance.choice(VALUES)
    return json.dumps(value)
