"""Reading stored JSON with its types checked: a damaged or edited file ends in one line, never in a traceback."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, TypeVar

from unblot.errors import UnblotError, command_line, sentence

T = TypeVar("T")

MOST_BYTES = 2**28  # of a stored JSON file


def read_stored(
    path: Path,
    kind: type[T],
    way_out: str = "it is damaged, or another version of unblot wrote it",
    extra: bool = False,
) -> T:
    """The value of type `kind` (a dataclass, NamedTuple, dict[str, float], …) in a JSON file.

    Types are held strictly: "300" is no number, and NaN is no JSON. A missing key takes the field's default. Raises
    UnblotError, with `way_out` at its end, for a file that cannot be read, is too large or is no regular file, and for
    a missing key without default, an unknown key (unless `extra`), a wrong type or a number out of its range.
    """
    try:
        if not path.is_file() and path.exists():
            raise UnblotError(f"{str(path)!r} is no regular file; {way_out}")
        if path.stat().st_size > MOST_BYTES:
            raise UnblotError(f"{str(path)!r} has more than {MOST_BYTES:,} bytes; {way_out}")
        text = path.read_bytes()
    except OSError as e:
        raise UnblotError(sentence(e)) from None
    return parse_stored(text, kind, repr(str(path)), way_out, extra)


def parse_stored(
    text: bytes | str, kind: type[T], where: str, way_out: str = "it is damaged", extra: bool = False
) -> T:
    """The value of type `kind` in a JSON text; see `read_stored`. `where` begins the message of an error."""
    try:
        plain = text if isinstance(text, str) else text.decode()
        # Python's own reader: a path in it may be no Unicode text ("caf\udce9"), which msgspec's refuses
        raw = json.loads(plain, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as e:
        raise UnblotError(f"{where} is no valid JSON ({e}); {way_out}") from None
    return convert_stored(raw, kind, where, way_out, extra)


def convert_stored(raw: Any, kind: type[T], where: str, way_out: str = "it is damaged", extra: bool = False) -> T:
    """The value of type `kind` for plain JSON values; see `read_stored`."""
    import msgspec

    try:
        with command_line(False):  # a stored value is no flag
            value = msgspec.convert(raw, kind)
        unknown = "" if extra else _unknown(raw, msgspec.to_builtins(value))
    except (msgspec.ValidationError, UnblotError, OverflowError, RecursionError, UnicodeError) as e:
        raise UnblotError(f"{where}: {e}; {way_out}") from None
    if unknown:
        raise UnblotError(f"{where}: unknown field {unknown}; {way_out}")
    return value


def _finite(text: str) -> float:
    """The number in a JSON text. Raises ValueError for NaN and infinity, which are none."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is no number")
    return number


def _unknown(raw: Any, kept: Any, at: str = "$") -> str:
    """The path of the first key that was read but not kept; "" where there is none."""
    if isinstance(raw, dict) and isinstance(kept, dict):
        parts = [(f"{at}.{key}", raw[key], kept[key]) for key in raw if key in kept]
        if extra := [key for key in raw if key not in kept]:
            return f"`{at}.{extra[0]}`"
    elif isinstance(raw, list) and isinstance(kept, list | tuple):
        parts = [(f"{at}[{i}]", *pair) for i, pair in enumerate(zip(raw, kept))]
    else:
        parts = []
    return next((found for name, a, b in parts if (found := _unknown(a, b, name))), "")


def signed(value: Any) -> str:
    """One line of JSON: a value after its hash."""
    text = json.dumps(value)
    return f'["{hashlib.sha256(text.encode()).hexdigest()[:16]}", {text}]'


def unsigned(line: str) -> Any:
    """The value that `signed` got. Raises ValueError where the line was changed."""
    line = line.strip()
    text = line[21:-1]  # after ["HASH", and before ]
    if line != f'["{hashlib.sha256(text.encode()).hexdigest()[:16]}", {text}]':
        raise ValueError("the line does not have its hash")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
