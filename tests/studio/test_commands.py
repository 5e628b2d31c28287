"""Forms and flags are made from the configuration: each choice of a form is one that the command line takes."""

import pytest

from unblot.cli.parser import make_parser
from unblot.config.edits import EDITS
from unblot.errors import UnblotError
from unblot.studio import commands

BEFORE = {"train": ["digits"], "doctor": ["digits"], "edit": ["inpaint", "run", "a.png"]}
VALUES = {"number": "1", "text": "x", "lines": ["x", "y"]}
LEAST = {"n": "100", "latent_factor": "4", "latent_width": "32", "held_out": "0.5"}  # of what 1 is no value for


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_the_command_line_takes_every_choice_of_a_form(command: str) -> None:
    first, others = commands.fields(command)
    chosen = commands.COMMANDS[command]
    assert [f.name for f in first] == [name for name in chosen.first if name in {f.name for f in first}]
    for field in (*first, *others):
        value = True if field.kind == "switch" else LEAST.get(field.name, VALUES[field.kind])
        flags = commands.arguments(command, {field.name: value})
        parsed = vars(make_parser().parse_args([command, *BEFORE.get(command, ["run"]), *flags]))
        assert field.name in parsed
        assert field.help


def test_no_form_has_a_first_choice_that_does_not_exist() -> None:
    for command, chosen in commands.COMMANDS.items():
        names = {f.name for part in commands.fields(command) for f in part}
        assert set(chosen.first) <= names, command


def test_bad_values_are_refused_before_anything_runs() -> None:
    for values, words in (
        ({"n": "x"}, "whole number"),
        ({"steps": "0"}, "from 1 to"),
        ({"nonsense": "1"}, "unknown choice"),
    ):
        with pytest.raises(UnblotError, match=words):
            commands.arguments("sample", values)


def test_empty_values_are_left_to_the_command() -> None:
    assert commands.arguments("sample", {"n": "", "seed": None, "prompt": []}) == []
    assert commands.arguments("sample", {"n": "3", "prompt": ["a b", "c"]}) == ["-n3", "--prompt=a b", "--prompt=c"]


def test_nought_is_a_value() -> None:
    assert commands.arguments("sample", {"seed": 0, "guidance_low": 0.0, "label": 0}) == [
        "--seed=0", "--guidance-low=0.0", "--label=0",
    ]  # fmt: skip


def test_a_film_has_its_own_number_of_pictures() -> None:
    usual = {one: {f.name: f.placeholder for f in commands.fields(one)[0]}["n"] for one in ("sample", "film")}
    assert usual == {"sample": "16", "film": "4"}


@pytest.mark.parametrize("kind", EDITS)
def test_each_kind_of_edit_takes_its_own_choices_alone(kind: str) -> None:
    for other, own in commands.edit_fields().items():
        for field in own:
            value = {"factor": "2"}.get(field.name, "1")
            if other != kind:
                with pytest.raises(UnblotError, match="unknown choice"):
                    commands.arguments("edit", {field.name: value}, kind)
                continue
            flags = commands.arguments("edit", {field.name: value}, kind)
            assert getattr(make_parser().parse_args(["edit", kind, "run", "a.png", *flags]), field.name) == float(value)


def test_a_mask_is_painted_and_never_a_path_of_a_form() -> None:
    with pytest.raises(UnblotError, match="unknown choice"):
        commands.arguments("edit", {"mask": "/etc/passwd"}, "inpaint")
