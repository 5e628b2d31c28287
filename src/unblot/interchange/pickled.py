"""Weights that PyTorch pickled: read without running what is in the file, in memory that the file bounds.

`torch.load` with weights_only builds tensors and plain containers alone. The file is mapped, not read, and holds its
tensors uncompressed, so that a small one can claim no large tensor.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unblot.errors import UnblotError, sentence


def read_pickled(path: Path) -> dict[Any, Any]:
    """What a file of `torch.save` holds: a dictionary, perhaps of dictionaries, of tensors and plain values.

    Raises UnblotError for a file that is cut off or damaged, that holds anything else, or that is compressed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except zipfile.BadZipFile:
        raise UnblotError(
            f"{str(path)!r} is no whole file of PyTorch: it is cut off, or older than PyTorch 1.6; get it again, or "
            f"save it anew with a present PyTorch"
        ) from None
    except OSError as e:
        raise UnblotError(sentence(e)) from None
    if packed:
        raise UnblotError(f"{str(path)!r} is compressed, which PyTorch's own files are not; it is not read")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as e:  # of the unpickler: whatever the bytes of a stranger lead to
        code = re.search(r"Unsupported global: GLOBAL (\S{1,80})", str(e))
        what = f"holds code, {code[1]}, which is not run" if code else "is damaged, or holds what is no tensor"
        raise UnblotError(f"{str(path)!r} {what}; get it again, or its weights as safetensors") from None
    if not isinstance(found, dict):
        raise UnblotError(f"{str(path)!r} holds a {type(found).__name__}, not named weights")
    return found


def state_dict(found: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """The named tensors of a file. Raises UnblotError for anything else, and for tensors larger than the file."""
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise UnblotError(f"{str(path)!r} holds {str(name)[:80]!r}, which is no named tensor")
    if sum(tensor.numel() * tensor.element_size() for tensor in found.values()) > path.stat().st_size:
        raise UnblotError(f"{str(path)!r} is damaged: it claims larger tensors than it holds")
    return found
