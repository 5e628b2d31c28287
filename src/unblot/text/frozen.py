"""A frozen text encoder of the transformers library: its hidden states, and the map from them that a run learns.

The library's files are in a folder, or come from the hub by name. Weights are read from safetensors alone, and no code
of a model's author runs.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from unblot.config.schema import TextFacts
from unblot.errors import UnblotError, arg, one_line, printable
from unblot.nn.layers import channel_norm, check_sizes
from unblot.system.files import checksum, write_whole
from unblot.text.tokenizer import LONGEST, PAD, SPECIAL, START
from unblot.text.words import spaced

MOST_STATES = 2**16  # channels of hidden states
RECENT_BYTES = 2**27  # of hidden states computed while drawing that are kept: of some hundred texts or more
AT_A_TIME = 32  # captions that are encoded together, for the dataset cache
FILES = "*.json", "*.safetensors", "*.txt", "*.model"  # of an encoder and its tokenizer
INSTALL = "pip install 'unblot[transformers]'"


class FrozenEncoder(nn.Module):
    """Tokens (B, L) int64 -> a vector of each in its text (B, L, width), a learned linear map of frozen hidden states.

    The state of the first token, START, is the mean of all others. model: a folder, or a name on the hub. size:
    channels of its hidden states. sha256: of its files. width: channels. layout: as of `TextEncoder`. The frozen
    weights are read when they are first needed; they belong to no run. Raises UnblotError for options out of range.
    """

    def __init__(
        self, facts: TextFacts, *, model: str = "", size: int = 0, sha256: str = "", width: int = 128, layout: int = 0
    ):
        super().__init__()
        check_sizes("text encoder", width=width, layout=layout)
        if not 1 <= size <= MOST_STATES:
            raise UnblotError(f"text encoder: hidden states of {size} channels are impossible")
        self.states = FrozenStates(Frozen(model, sha256, size), facts.length)
        self.tokenizer, self.width, self.squares = self.states.tokenizer, width, layout
        self.map = nn.Linear(size, width)
        nn.init.normal_(self.map.weight, std=size**-0.5)  # the scale of the activations, as of an own encoder

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.states(tokens).to(self.map.weight)
        there = (tokens > START)[..., None].to(states)
        mean = (states * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp_min(1)
        return self.map(channel_norm(torch.cat([mean, states[:, 1:]], 1)))

    def read(self, texts: Sequence[str]) -> Tensor:
        """The tokens (B, L) of texts, on the encoder's device."""
        return self.tokenizer(texts).to(self.map.weight.device)


class Frozen:
    """An encoder and its tokenizer as they are on the disk, read when they are first needed.

    place: a folder, or a name on the hub. sha256: of its files, "" for whatever is there. size: channels of its hidden
    states, 0 for whatever they are. lock: to be held while the tokenizer is used, which keeps how it cuts.
    """

    def __init__(self, place: str, sha256: str = "", size: int = 0):
        self.place, self.sha256, self.size = place, sha256, size
        self.lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen":
        return self  # it stands for the same files

    @cached_property
    def folder(self) -> Path:
        """The folder of its files. Raises UnblotError where it is not there, or holds another encoder."""
        if self.sha256 and Path(self.place).is_absolute() and not Path(self.place).is_dir():
            raise UnblotError(
                f"this run reads texts with a frozen encoder, and no text encoder is at {printable(self.place)!r} any "
                f"more; put back there the one whose checksum is {self.sha256[:12]}…"
            )
        folder = _folder(self.place, download=not self.sha256)
        if self.sha256 and digest(folder) != self.sha256:
            raise UnblotError(
                f"the text encoder {self.place!r} has changed since this run learned with it; put the files back whose "
                f"checksum was {self.sha256[:12]}…"
            )
        return folder

    @cached_property
    def tokenizer(self) -> Any:
        """The library's tokenizer."""
        with _told(self.place):
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)

    @cached_property
    def model(self) -> nn.Module:
        """The library's encoder, in float32 and eval mode, without a gradient."""
        with _told(self.place):
            from transformers import AutoModelForTextEncoding
            from transformers.utils import logging

            logging.disable_progress_bar()
            model = AutoModelForTextEncoding.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
        return model.eval().requires_grad_(False)

    def channels(self) -> int:
        """The number of channels of its hidden states."""
        with _told(self.place):
            settings = json.loads((self.folder / "config.json").read_text())
            text = settings.get("text_config") or settings
        for name in ("d_model", "hidden_size", "n_embd", "dim"):
            if isinstance(text.get(name), int):
                return text[name]
        raise UnblotError(f"the text encoder {self.place!r} does not say how many channels its hidden states have")


class FrozenTokenizer:
    """Texts to rows of tokens: START, then those of the library's tokenizer, moved behind PAD and START; then PAD."""

    def __init__(self, frozen: Frozen, length: int):
        if not 1 <= length <= LONGEST:
            raise UnblotError(f"captions of {length} tokens are impossible")
        self.frozen, self.length = frozen, length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokens (n, length) int64."""
        rows = torch.full((len(texts), self.length), PAD)
        rows[:, 0] = START
        most = self.length - 1
        for row, ids in zip(rows, self._ids(texts, most), strict=True):
            row[1 : 1 + len(ids)] = torch.tensor(ids[:most], dtype=torch.int64) + len(SPECIAL)
        return rows

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, START included, before anything is cut."""
        return [1 + len(ids) for ids in self._ids(texts, None)]

    def _ids(self, texts: Sequence[str], most: int | None) -> list[list[int]]:
        if not texts:
            return []
        cut = {"truncation": False} if most is None else {"truncation": True, "max_length": max(1, most)}
        plain = [spaced(text) for text in texts]
        with self.frozen.lock:
            return self.frozen.tokenizer(plain, **cut, verbose=False)["input_ids"]


class FrozenStates:
    """Hidden states of the last layer for rows of tokens, kept in float16: those of the training's captions in files,
    of others those that were needed last, in RECENT_BYTES."""

    def __init__(self, frozen: Frozen, length: int):
        self.frozen, self.length = frozen, length
        self.tokenizer = FrozenTokenizer(frozen, length)
        self.known: dict[bytes, np.ndarray] = {}  # tokens as bytes -> states (L, D) float16, memory-mapped
        self.recent: dict[bytes, np.ndarray] = {}  # the same of other tokens, in memory, the last used at the end

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenStates":
        return self  # what it remembers is true for every copy

    def __call__(self, tokens: Tensor) -> Tensor:
        """States (B, L, D) float16 of tokens (B, L), on their device; unknown ones are computed, each by itself.

        By itself: what a text is encoded to must not depend on the texts beside it.
        """
        if tokens.is_meta:  # shapes alone, for a count of memory
            return torch.empty(*tokens.shape, self.frozen.size, dtype=torch.float16, device="meta")
        rows = tokens.cpu().contiguous()
        keys = [row.numpy().tobytes() for row in rows]
        states = {key: self._state(key, row, tokens.device) for key, row in dict(zip(keys, rows)).items()}
        most = RECENT_BYTES // (2 * self.length * self.frozen.size)
        for key in list(self.recent)[: -max(most, len(states))]:
            self.recent.pop(key, None)
        return torch.from_numpy(np.stack([states[key] for key in keys])).to(tokens.device)

    def _state(self, key: bytes, row: Tensor, device: torch.device) -> np.ndarray:
        """The states (L, D) float16 of one row of tokens (L,), whose bytes are the key."""
        if key in self.known:
            return self.known[key]
        state = self.recent.pop(key, None)
        self.recent[key] = self.compute(row[None], device)[0] if state is None else state
        return self.recent[key]

    def remember(self, texts: Sequence[str], folder: Path, device: torch.device) -> None:
        """Knows the states of these texts, from a file in the folder, or computed and written there."""
        texts = sorted(set(texts))
        name = hashlib.sha256(json.dumps([1, self.frozen.sha256, self.length, texts]).encode()).hexdigest()[:32]
        path, rows = folder / f"{name}.npy", self.tokenizer(texts)
        shape = (len(texts), self.length, self.frozen.size)
        states = _mapped(path, shape)
        if states is None:
            write_whole(path, lambda unfinished: self._write(unfinished, rows, shape, device))
            states = _mapped(path, shape)
            assert states is not None
        self.known |= {row.numpy().tobytes(): states[i] for i, row in enumerate(rows)}

    def _write(self, path: Path, rows: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
        array = open_memmap(path, "w+", np.float16, shape)
        for first in range(0, len(rows), AT_A_TIME):
            array[first : first + AT_A_TIME] = self.compute(rows[first : first + AT_A_TIME], device)
        array.flush()

    @torch.no_grad()
    def compute(self, rows: Tensor, device: torch.device) -> np.ndarray:
        """States (B, L, D) float16 of rows of tokens (B, L); zeros at START and PAD."""
        rows = rows.to(device)
        ids, there = (rows[:, 1:] - len(SPECIAL)).clamp_min(0), rows[:, 1:] > START
        with torch.autocast(device.type, enabled=False), _told(self.frozen.place):
            found = self.frozen.model.to(device)(input_ids=ids, attention_mask=there.long()).last_hidden_state
        if found.shape[-1] != self.frozen.size:
            raise UnblotError(f"the text encoder {self.frozen.place!r} has hidden states of {found.shape[-1]} channels")
        most = torch.finfo(torch.float16).max
        states = torch.where(there[..., None], found, 0).clamp(-most, most)
        return F.pad(states, (0, 0, 1, 0)).to(torch.float16).cpu().numpy()


def digest(folder: Path) -> str:
    """SHA-256 of the names and contents of an encoder's files."""
    files = sorted({path for pattern in FILES for path in folder.glob(pattern)})
    return _digest(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=4)  # a run with a budget is planned many times, and weights are large
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    return hashlib.sha256(json.dumps([[path.name, checksum(path)] for path, *_ in files]).encode()).hexdigest()


def _folder(place: str, download: bool) -> Path:
    """The folder of an encoder: itself, or that in which the hub's files are kept.

    download: whether they may come from the hub, for a name that the user gave; one that a model file gives is looked
    for on this machine alone.
    """
    if Path(place).is_dir():
        return Path(place)
    where = f"give {arg('text_encoder', 'transformers:FOLDER')}, or a name on the hub"
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", place):
        raise UnblotError(f"no text encoder at {printable(place)!r}; put its folder back, or {where}")
    if not download:
        where = f"where you trust it, get it with: hf download {place}"
    try:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(place, local_files_only=not download, allow_patterns=[*FILES], ignore_patterns=["*/*"])
        )
    except Exception as error:
        raise _unusable(place, error, where) from None


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Within it what goes wrong in the library is an UnblotError."""
    try:
        yield
    except UnblotError:
        raise
    except Exception as error:
        way = f"give a folder of an encoder with its tokenizer, weights in safetensors; it needs {INSTALL}"
        raise _unusable(place, error, way) from None


def _unusable(place: str, error: Exception, way_out: str) -> UnblotError:
    reason = one_line(error) or type(error).__name__
    return UnblotError(f"the text encoder {printable(place)!r} cannot be used ({reason}); {way_out}")


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The states in a file, memory-mapped; None where there is none of this shape."""
    try:
        states = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return states if states.shape == shape and states.dtype == np.float16 else None
