"""A process that decodes pictures into a dataset cache: `python -m unblot.data.cache.worker`, driven by lines of JSON.

A process of its own, started afresh and reading from a pipe, rather than a pool: it needs no import of the caller's
main module, ends when the caller is killed, and a decoder that crashes takes nothing with it.
"""

import json
import os
import sys
from typing import Any

import numpy as np

from unblot.data.cache.decoding import decode_items
from unblot.data.image_spec import ImageSpec
from unblot.data.readers.listing import Item
from unblot.data.readers.reading import Reader


def write_rows(path: str, offset: int, start: int, rows: np.ndarray) -> None:
    """Writes pictures (n, C, H, W) as rows start… of an array that begins at byte `offset` of a file."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(offset + start * rows[:1].nbytes)
        left = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        while left:
            left = left[file.write(left) :]


def part_of_rows(folder: str, number: int) -> str:
    """The path of one of several files of rows."""
    return os.path.join(folder, f".{number:05}.rows")


def main() -> None:
    """Reads a job (one line), answers that it is ready, then answers tasks (start, items) with their results."""
    job = json.loads(sys.stdin.readline() or sys.exit())
    spec = ImageSpec(*job["spec"])
    print(json.dumps("ready"), flush=True)
    with Reader(job["root"], job["pages"]) as reader:
        for line in sys.stdin:
            print(json.dumps(_answer(reader, job, spec, *json.loads(line))), flush=True)


def _answer(reader: Reader, job: dict[str, Any], spec: ImageSpec, start: int, items: list[Any]) -> Any:
    """The result of one task, or why its rows could not be written."""
    rows, result = decode_items(reader, start, [Item(*item) for item in items], spec)
    path = job["path"]
    if rows_each := job.get("rows_each"):  # one file for so many rows, numbered, in the folder `path`
        path, start = part_of_rows(path, start // rows_each), start % rows_each
    try:
        write_rows(path, job["offset"], start, rows)
    except OSError as error:
        return {"cannot write": [error.errno, error.strerror or str(error)]}
    return result


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
