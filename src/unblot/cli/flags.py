"""Flags made from the fields of the configuration: names, values, defaults and help stand there and in the tables."""

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from unblot.config.options import field_type
from unblot.config.tables import help_of, names, with_options
from unblot.errors import flag

DATA = f"a folder, archive or array file of pictures, shards, or built-in data: {names('BUILT_IN')}"
OVERWRITE = "replace the run in --out and its samples; files that unblot did not write stay"
FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # what a shell completes a path with


Command = Callable[[str, str, Callable[[dict[str, Any]], None], str], argparse.ArgumentParser]


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, as the command that it was given to."""

    def parse_known_args(self, args=None, namespace=None):
        """Raises SystemExit for an unknown argument, which argparse leaves to the parser of all commands."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
            near = difflib.get_close_matches(name, self._option_string_actions, 1, 0.7)
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + "".join(f"; did you mean {n}?" for n in near))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and the column of help narrow enough for long flags."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30)


class PrintCompletion(argparse.Action):
    """`--print-completion SHELL`: prints the script with which a shell completes commands and flags."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
        import shtab

        print(shtab.complete(parser, shell=args[1]))
        parser.exit()


def path_of(text: str) -> Path:
    """A path of the command line, `~` expanded, which the shell leaves to us in `--out=~/x`."""
    try:
        return Path(text).expanduser()
    except RuntimeError as e:
        raise argparse.ArgumentTypeError(f"{text!r}: {e}") from None


def filled(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Reads a text as `kind` does, and refuses an empty one: a variable of the shell that is not set."""

    def read(text: str) -> Any:
        if not text:
            raise argparse.ArgumentTypeError("an empty name; give a file or a folder, or leave the argument out")
        return kind(text)

    return read


def add_path(parser: argparse.ArgumentParser, *args: str, type: Callable[[str], Any] = path_of, **kwargs: Any) -> None:
    """An argument that is a path, which shells complete."""
    parser.add_argument(*args, type=filled(type), **kwargs).complete = FILES  # type: ignore[attr-defined]


def add_flags(
    parser: argparse.ArgumentParser, config: type, skip: Sequence[str] = (), groups: Sequence[str] = ()
) -> None:
    """One flag for each field of a configuration class, or of some groups of it.

    Flags that are not given stay out of the parsed arguments.
    """
    added: dict[str, Any] = {}
    options: list[str] = []
    for field in dataclasses.fields(config):
        about = field.metadata
        if field.name in skip or (groups and about["group"] not in groups):
            continue
        if about["group"] not in added:
            added[about["group"]] = parser.add_argument_group(about["group"])
        kind = field_type(field)
        read = filled(kind) if about["value"] == "PATH" else kind
        how = {"action": "store_true"} if kind is bool else {"type": read, "metavar": about["value"]}
        how |= {"action": "append"} if about["repeats"] else {}
        name = flag(field.name)
        action = added[about["group"]].add_argument(
            name, dest=field.name, default=argparse.SUPPRESS, help=help_of(field).replace("%", "%%"), **how
        )
        if about["value"] == "PATH":
            action.complete = FILES
        if about["table"] and (entries := with_options(about["table"])):
            options.append("\n      ".join([f"  {name}", *entries]))
    if options:
        title = "values with OPTIONS, which are written as NAME:KEY=VALUE,KEY=VALUE, with their defaults:"
        parser.epilog = "\n".join([*filter(None, [parser.epilog]), title, *options])


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run that a command is about."""
    add_path(parser, "run", metavar="RUN", help="a run folder, a model.safetensors, or hf:OWNER/NAME of the hub")


def add_adapters(parser: argparse.ArgumentParser) -> None:
    """The adapters that are added to the run's weights."""
    add_path(
        parser,
        "--adapter",
        dest="adapters",
        action="append",
        default=[],
        type=str,
        metavar="FILE[:WEIGHT]",
        help="add an adapter of this run to its weights; may be given several times",
    )


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """A file of prompts."""
    add_path(parser, "--prompts", default=argparse.SUPPRESS, metavar="FILE", help="a file of prompts, one a line")


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
    """The folder that a command writes into, and whether what is there is replaced."""
    default = f"a new one in RUN/samples/: {name}, {name}-2, …"
    add_path(parser, "--out", metavar="FOLDER", help=f"folder to write into (default: {default})")
    parser.add_argument("--overwrite", action="store_true", help="replace the results in --out; other files stay")
