"""Messages name a choice by `arg`, so that they fit Python and the command line."""

import ast
import re
from pathlib import Path

import unblot
from unblot.errors import arg, command_line, counted, escaped, one_line, sentence

ROOT = Path(unblot.__file__).parent


def literal_flags(path: Path) -> list[str]:
    """The texts of UnblotErrors in a file that name a flag outside of a whole command (`unblot train --resume`)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UnblotError":
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            texts = [
                re.sub(r"unblot [a-z]+( [A-Z]+)*( --[a-z]+)*", "", text) for text in texts if isinstance(text, str)
            ]
            found += [text for text in texts if re.search(r"(?<![\w-])(--[a-z]|-n\b)", text)]
    return found


def test_no_error_names_a_flag_by_itself() -> None:
    found = {path.relative_to(ROOT).as_posix(): literal_flags(path) for path in ROOT.rglob("*.py")}
    assert not {name: texts for name, texts in found.items() if texts and not name.startswith("cli/")}


def test_a_choice_is_named_as_its_reader_gives_it() -> None:
    assert (arg("batch_size", 64), arg("batch_size"), arg("overwrite", True)) == (
        "batch_size=64", "batch_size=", "overwrite=True",
    )  # fmt: skip
    with command_line():
        assert (arg("batch_size", 64), arg("batch_size"), arg("overwrite", True), arg("n", 3)) == (
            "--batch-size 64", "--batch-size", "--overwrite", "-n 3",
        )  # fmt: skip
    assert arg("fit", "crop") == "fit='crop'"


def test_an_error_of_the_system_is_a_sentence() -> None:
    assert sentence(PermissionError(13, "Permission denied", "/a/b")) == (
        "'/a/b': permission denied; change the permissions, or choose another place"
    )
    assert sentence(OSError(28, "No space left on device")).startswith("the disk is full; free some space")
    assert sentence(OSError("odd")) == "odd"


def test_what_does_not_print_is_written_as_escapes() -> None:
    assert escaped("a\x1b[31mred\nb\u202e\x07é") == "a\\x1b[31mred\nb\\u202e\\x07é"


def test_a_message_of_several_lines_becomes_one() -> None:
    assert one_line(ValueError("no\n  such\tvalue ")) == "no such value"
    assert len(one_line("word " * 100)) == 200
    assert one_line("word " * 100, 7) == "word wo"


def test_things_are_counted() -> None:
    assert [counted(1, "file"), counted(2, "file"), counted(0, "class")] == ["1 file", "2 files", "0 classes"]
