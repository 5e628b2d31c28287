"""The format of shards: a data set packed into files of some thousand pictures each, and an index that names them.

A folder of shards holds `00000.npy`, `00001.npy`, … (n, C, H, W), each a random part of the data set with the held-out
pictures first; beside each a `00000.json` with labels and captions; and `index.json`, written last.
"""

import hashlib
import io
import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from unblot.errors import UnblotError, printable
from unblot.system.stored import parse_stored

INDEX, JOB, FORMAT, VERSION = "index.json", "packing.json", "unblot shards", 2
DAMAGED = "it is damaged, or another version of unblot wrote it; pack the pictures again"


@dataclass(frozen=True)
class Shard:
    """One shard as the index knows it.

    pictures: how many it holds; the first `held_out` of them are not trained on. size: of its file, in bytes. sha256:
    of its file, and `beside` of the file of labels and captions.
    """

    file: str
    pictures: int
    held_out: int
    size: int
    sha256: str
    beside: str

    @property
    def training(self) -> int:
        """The number of training pictures."""
        return self.pictures - self.held_out

    @property
    def beside_file(self) -> str:
        """The name of the file of labels and captions."""
        return beside(self.file)


@dataclass(frozen=True)
class ShardIndex:
    """What index.json holds: the kind of the pictures, how they were packed, and every shard.

    dtype, shape: of a picture (C, H, W) in the stored type. alpha: whether its last channel is opacity. held_out: the
    share that packing held out. labelled, captioned: whether labels and captions stand beside the shards. notes,
    caption_notes: how the source and its captions were read.
    """

    format: str
    version: int
    dtype: str
    shape: tuple[int, int, int]
    alpha: bool
    held_out: float
    classes: tuple[str, ...]
    labelled: bool
    captioned: bool
    notes: tuple[str, ...]
    shards: tuple[Shard, ...]
    caption_notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of pictures in all shards."""
        return sum(shard.pictures for shard in self.shards)

    @property
    def picture_bytes(self) -> int:
        """The bytes of one picture."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def fingerprint(self, labels: bool, captions: bool) -> str:
        """A hash of the pictures in their order and, if used, of labels and captions."""
        told = (labels and self.labelled) or (captions and self.captioned)
        used = [labels and self.labelled, captions and self.captioned, self.classes if labels else ()]
        files = [[s.held_out, s.sha256, s.beside if told else ""] for s in self.shards]
        return hashlib.sha256(json.dumps([used, self.dtype, self.shape, self.alpha, files]).encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """The text of index.json."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: bytes, place: str) -> Self:
        """The index in the text of index.json. Raises UnblotError where it is none, or cannot be one of shards."""
        name = f"the index of the shards in {printable(place)!r}"
        index = parse_stored(text, cls, name, DAMAGED)
        if index.format != FORMAT or index.version != VERSION or not index._possible():
            raise UnblotError(f"{name} cannot be used: {DAMAGED}")
        return index

    def _possible(self) -> bool:
        """Whether these may be shards: names that stay in their folder, sizes that hold the pictures."""
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            return False
        return (
            dtype.kind in "biuf"
            and min(self.shape) >= 1
            and bool(self.shards)
            and all(
                re.fullmatch(r"\d{5,9}\.npy", s.file)
                and 0 <= s.held_out <= s.pictures
                and s.size >= s.pictures * self.picture_bytes
                for s in self.shards
            )
            and sum(s.training for s in self.shards) > 0
        )


def shard_file(number: int) -> str:
    """The name of a shard's file."""
    return f"{number:05}.npy"


def beside(file: str) -> str:
    """The name of the file of labels and captions beside a shard's."""
    return file.removesuffix(".npy") + ".json"


def array_header(count: int, shape: tuple[int, ...], dtype: str) -> bytes:
    """The header of the .npy file of `count` pictures."""
    file = io.BytesIO()
    described: dict[str, Any] = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()
