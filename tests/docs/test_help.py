"""What the help says of defaults and of values is what the code takes."""

import re

import pytest

from unblot.cli.parser import main
from unblot.config.edits import EDITS

EVERY_EDIT = [("edit", kind) for kind in EDITS]


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The help of a command on one line."""
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("commands", "by"),
    [
        ([("sample",), ("film",), ("evaluate",)], "as tuned, else those of the run"),
        (EVERY_EDIT, "suits the edit, see docs/sampling.md"),
        ([("export",)], "those of the run"),
    ],
)
def test_the_help_says_what_decides_the_sampler(
    commands: list[tuple[str, ...]], by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands:
        found = re.findall(r" --(?:steps|solver|spacing) [^(]*\(default: (.*?)\)", told(capsys, *words))
        assert found, words
        assert set(found) == {by}, words
