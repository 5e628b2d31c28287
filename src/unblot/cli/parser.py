"""The command line: flags made from the fields of the configuration, and one line for every error."""

import argparse
import dataclasses
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from unblot._version import __version__
from unblot.cli.commands import (
    compare_command,
    distill_command,
    doctor_command,
    edit_command,
    ema_command,
    evaluate_command,
    film_command,
    sample_command,
    show_command,
    train_command,
    tune_command,
)
from unblot.config.schema import (
    DataConfig,
    DistillConfig,
    EditConfig,
    EmaConfig,
    EvaluateConfig,
    SampleConfig,
    TrainConfig,
    TuneConfig,
    field_type,
)
from unblot.errors import UnblotError, command_line, flag

DESCRIPTION = """Train a diffusion model from scratch on your own pictures, and draw new ones from it.

  unblot train PICTURES/        learn from a folder of pictures (or: unblot train digits)
  unblot sample runs/PICTURES   draw new ones

The model, and everything about how it came to be, is in the run folder."""


EDITS: dict[str, tuple[str, tuple[tuple[str, dict[str, Any]], ...]]] = {  # what it does, and flags of its own
    "inpaint": (
        "draw the masked part of a picture to fit the rest, which stays as it is",
        (("--mask", {"metavar": "FILE", "help": "white: to be made anew (default: the transparent pixels)"}),),
    ),
    "outpaint": (
        "go on beyond the border of a picture, which stays as it is",
        tuple(
            (f"--{side}", {"type": int, "metavar": "N", "help": f"pixels to add on the {side}"})
            for side in ("left", "right", "top", "bottom")
        ),
    ),
    "upscale": (
        "draw the large pictures that a small one may have been",
        (("--factor", {"type": int, "metavar": "N", "help": "first make pictures of the run's size N times smaller"}),),
    ),
    "colorize": ("draw the colours that a gray picture may have had (one in colour is made gray first)", ()),
    "img2img": (
        "redraw a picture from a noise level: coarse features stay, fine ones are new",
        (("--strength", {"type": float, "metavar": "X", "help": "share of the steps, 0 to 1 (default: 0.5)"}),),
    ),
    "variations": (
        "draw variations of a picture",
        (("--amount", {"type": float, "metavar": "X", "help": "0 none, 1 another picture (default: 0.3)"}),),
    ),
    "interpolate": ("draw pictures on the way between two", ()),
    "reconstruct": ("find the noise that a picture is drawn from, draw it again, and say what was lost", ()),
}

METAVARS = {int: "N", float: "X", str: "NAME"}


class Parser(argparse.ArgumentParser):
    """Tells of a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def add_flags(
    parser: argparse.ArgumentParser, config: type, skip: Sequence[str] = (), groups: Sequence[str] = ()
) -> None:
    """One flag for each field of a configuration class, or of these groups of it alone.

    Those that are not given stay out of the parsed arguments.
    """
    added: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        group = field.metadata["group"]
        if field.name in skip or (groups and group not in groups):
            continue
        if group not in added:
            added[group] = parser.add_argument_group(group)
        shown = field.default not in (None, "", dataclasses.MISSING)
        default = f" (default: {field.default})" if shown else ""
        kind = field_type(field)
        how = {"action": "store_true"} if kind is bool else {"type": kind, "metavar": METAVARS[kind]}
        told = field.metadata["help"] + ("" if kind is bool else default)
        added[group].add_argument(flag(field.name), default=argparse.SUPPRESS, help=told, **how)


def make_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="unblot", description=DESCRIPTION, formatter_class=shape)
    parser.add_argument("--version", action="version", version=f"unblot {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, about: str, does: Callable[[dict[str, Any]], None], usage: str) -> argparse.ArgumentParser:
        """A command with its line in the list of commands; its function's docstring is its description."""
        added = commands.add_parser(name, help=about, description=does.__doc__, usage=f"unblot {name} {usage}")
        added.set_defaults(command=does)
        return added

    train = command("train", "learn from pictures", train_command, "[DATA] [--out RUN] [flags]")
    train.add_argument("data", nargs="?", metavar="DATA", help=_help(DataConfig, "data") + " (default: digits)")
    train.add_argument("--out", type=Path, metavar="RUN", help="run folder (default: a new one in runs/)")
    train.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with this run; only --steps or --budget may change"
    )
    train.add_argument("--overwrite", action="store_true", help="replace the run that stands in --out")
    train.add_argument("--quiet", action="store_true", help="show nothing while training")
    add_flags(train, DataConfig, skip=["data"])
    add_flags(train, TrainConfig)

    drawing = "RUN [-n N] [--label NAME] [--out FOLDER] [flags]"
    sample = command("sample", "draw new pictures", sample_command, drawing)
    _add_run(sample)
    _add_out(sample, "draw")
    add_flags(sample, SampleConfig)

    distill = command("distill", "make a model of few evaluations of a run", distill_command, "RUN [--out RUN] [flags]")
    _add_run(distill)
    distill.add_argument("--out", type=Path, metavar="RUN", help="run folder (default: a new one beside RUN)")
    distill.add_argument("--overwrite", action="store_true", help="replace the run that stands in --out")
    distill.add_argument("--quiet", action="store_true", help="show nothing while training")
    add_flags(distill, DistillConfig, skip=["teacher", "sha256"])
    add_flags(distill, TrainConfig, skip=["budget"], groups=["optimisation", "run"])

    film = command("film", "show pictures coming out of noise", film_command, drawing)
    _add_run(film)
    _add_out(film, "film")
    film.add_argument("-n", type=int, default=4, metavar="N", help="number of pictures (default: 4)")
    add_flags(film, SampleConfig, skip=["n", "batch_size"])

    edit = command("edit", "work on your own pictures", edit_command, "KIND RUN PICTURES ... [flags]")
    kinds = edit.add_subparsers(prog="unblot edit", metavar="KIND", required=True, dest="kind", parser_class=Parser)
    for kind, (about, flags) in EDITS.items():
        what = "A B" if kind == "interpolate" else "PICTURES ..."
        one = kinds.add_parser(
            kind,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            usage=f"unblot edit {kind} RUN {what} [flags]",
        )
        _add_run(one)
        one.add_argument(
            "pictures", nargs=2 if kind == "interpolate" else "+", metavar="PICTURES", help="files or folders"
        )
        for name, how in flags:
            one.add_argument(name, default=argparse.SUPPRESS, **how)
        _add_out(one, kind)
        add_flags(one, EditConfig, skip=["n"] if kind == "reconstruct" else [])

    doctor = command("doctor", "say what is in the data, and what is wrong", doctor_command, "DATA [flags]")
    doctor.add_argument("data", metavar="DATA", help=_help(DataConfig, "data"))
    doctor.add_argument("--page", type=Path, metavar="FILE", help="write a page of HTML with the pictures in question")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--flipped", action="store_true", help="look for mirrored copies too")
    doctor.add_argument("--no-near", dest="near", action="store_false", help="do not look for near copies")
    add_flags(doctor, DataConfig, skip=["data", "on_broken"])

    evaluate = command("evaluate", "measure how good, varied and original", evaluate_command, "RUN [-n N] [flags]")
    _add_run(evaluate)
    add_flags(evaluate, EvaluateConfig)

    ema = command("ema", "find the best average of the weights", ema_command, "RUN [--std S] [--by distance]")
    ema.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    add_flags(ema, EmaConfig)

    tune = command("tune", "find out how a run samples best", tune_command, "RUN [--budget 10m] [-n N] [flags]")
    tune.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    add_flags(tune, TuneConfig)

    compare = command("compare", "put evaluated runs side by side", compare_command, "RUN RUN ...")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders that were evaluated")

    _add_run(command("show", "say what a run is", show_command, "RUN"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. 0 when it did what was asked, 2 for bad input, 130 when it was interrupted."""
    parsed = vars(make_parser().parse_args(argv))
    try:
        with command_line():
            parsed.pop("command")(parsed)
    except UnblotError as e:
        return _fail(str(e))
    except BrokenPipeError:  # whoever read our output has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        return _fail(f"{e}" + ("; free some space, nothing that was saved is lost" if full else ""))
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"unblot: error: {message}", file=sys.stderr)
    return 2


def _help(config: type, name: str) -> str:
    return next(f.metadata["help"] for f in dataclasses.fields(config) if f.name == name)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a model.safetensors")


def _add_out(parser: argparse.ArgumentParser, name: str) -> None:
    default = f"a new one in RUN/samples/, {name}, {name}-2, …"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"folder to write into (default: {default})")
    parser.add_argument("--overwrite", action="store_true", help="write into --out even if it holds files")


if __name__ == "__main__":
    sys.exit(main())
