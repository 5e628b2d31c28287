"""What the help says of defaults and of values is what the code takes."""

import argparse
import pydoc
import re
from pathlib import Path

import pytest

import unblot
from unblot.cli.parser import main, make_parser
from unblot.config.edits import EDITS
from unblot.config.tables import entries
from unblot.data.split import AT_LEAST, AT_MOST
from unblot.runs import folder

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


def test_the_help_says_how_many_are_held_out_and_what_the_ends_of_shares_mean(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert f"at least {AT_LEAST}, of a small set at most a fifth (default: 0.05)" in told(capsys, "train")
    assert AT_MOST == 1 / 5
    for kind in ("img2img", "variations"):
        assert "above 0: near 0 the picture itself, 1 " in told(capsys, "edit", kind)
    assert "--network NAME[:OPTIONS] network (options left out have its own defaults" in told(capsys, "train")


def test_python_has_a_function_for_every_command_that_its_page_promises_one_for() -> None:
    page = (Path(unblot.__file__).parents[2] / "docs" / "reference" / "python.md").read_text()
    rows = dict(re.findall(r"^\| (`unblot .*?) \| (.*?) \|$", page, re.MULTILINE))
    commands = next(a.choices for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert {word for cell in rows for word in re.findall(r"`unblot (\w+)", cell)} == set(commands)
    for name in (name for cell in rows.values() for name in re.findall(r"`([\w.]+)`", cell)):
        place = f"unblot.{name.removeprefix('unblot.')}"
        assert place.endswith(".KIND") or pydoc.locate(place) is not None, name


def test_the_page_on_training_has_every_option_of_every_network() -> None:
    page = (Path(unblot.__file__).parents[2] / "docs" / "training.md").read_text()
    section = page.partition("## Networks\n")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", section, re.MULTILINE)) == entries("NETWORKS")["unet"]
    for network, options in entries("NETWORKS").items():
        assert {f"`{name}`" for name in (network, *options)} <= set(re.findall(r"`\w+`", section)), network


def test_the_page_on_the_files_of_a_run_has_every_file() -> None:
    page = (Path(unblot.__file__).parents[2] / "docs" / "reference" / "run-folder.md").read_text()
    files = re.findall(r"^    ([\w.]+/?) ", folder.__doc__ or "", re.MULTILINE)
    assert {"card/", "adapter.safetensors"} <= set(files)
    assert [name for name in files if f"`{name}" not in page] == []
