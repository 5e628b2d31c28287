"""The command line: thin commands over `unblot.api`, with flags made from the fields of the configuration.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

import argparse
import dataclasses
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from unblot import UnblotError, __version__
from unblot.config import DataConfig, EvaluateConfig, SampleConfig, TrainConfig, field_type, flag

DESCRIPTION = """Train a diffusion model from scratch on your own pictures, and draw new ones from it.

  unblot train PICTURES/        learn from a folder of pictures (or: unblot train digits)
  unblot sample runs/PICTURES   draw new ones

The model, and everything about how it came to be, is in the run folder."""


METAVARS = {int: "N", float: "X", str: "NAME"}


class Parser(argparse.ArgumentParser):
    """Tells of a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def add_flags(parser: argparse.ArgumentParser, config: type, skip: Sequence[str] = ()) -> None:
    """One flag for each field of a configuration class; those that are not given stay out of the parsed arguments."""
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        if field.name in skip:
            continue
        group = field.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        shown = field.default not in (None, "", dataclasses.MISSING)
        default = f" (default: {field.default})" if shown else ""
        kind = field_type(field)
        how = {"action": "store_true"} if kind is bool else {"type": kind, "metavar": METAVARS[kind]}
        told = field.metadata["help"] + ("" if kind is bool else default)
        groups[group].add_argument(flag(field.name), default=argparse.SUPPRESS, help=told, **how)


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
    train.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run; only --steps may change")
    train.add_argument("--overwrite", action="store_true", help="replace the run that stands in --out")
    train.add_argument("--quiet", action="store_true", help="show nothing while training")
    add_flags(train, DataConfig, skip=["data"])
    add_flags(train, TrainConfig)

    drawing = "RUN [-n N] [--label NAME] [--out FOLDER] [flags]"
    sample = command("sample", "draw new pictures", sample_command, drawing)
    _add_run(sample)
    _add_out(sample, "draw")
    add_flags(sample, SampleConfig)

    film = command("film", "show pictures coming out of noise", film_command, drawing)
    _add_run(film)
    _add_out(film, "film")
    film.add_argument("-n", type=int, default=4, metavar="N", help="number of pictures (default: 4)")
    add_flags(film, SampleConfig, skip=["n", "batch_size"])

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

    compare = command("compare", "put evaluated runs side by side", compare_command, "RUN RUN ...")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders that were evaluated")

    _add_run(command("show", "say what a run is", show_command, "RUN"))
    return parser


def train_command(args: dict[str, Any]) -> None:
    """Learn from pictures: a folder, an archive or array file, or built-in data (digits, moons, rings, gaussians).

    Whatever is not given is decided by the preset and the data, and written into the run folder.
    """
    from unblot import api

    resumed, data = args.pop("resume"), args.pop("data")
    if resumed is None:
        run = api.train(data or "digits", **args)
    else:
        fixed = [k for k, v in args.items() if k not in ("steps", "device", "quiet") and v not in (None, False)]
        if data is not None or fixed:
            given = "DATA" if data is not None else flag(fixed[0])
            raise UnblotError(f"--resume takes everything from the run; leave out {given} (only --steps may change)")
        run = api.resume(resumed, **{k: v for k, v in args.items() if k in ("steps", "device", "quiet")})
    print(f"look at   {run.path / 'samples'}\nnext      unblot sample {run.path}")


def sample_command(args: dict[str, Any]) -> None:
    """Draw new pictures from a trained model: a grid to look at, and one file a picture with the values of the data.

    From 10,000 pictures on, they are kept in shards of 4,096 instead. A draw that was stopped goes on when it is
    asked for again with the same --out; torchrun shares it out among processes.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from unblot import api, bulk
    from unblot.run import new_folder
    from unblot.training.parallel import join_group

    args = {**dataclasses.asdict(SampleConfig()), **args}
    n, device, group = args.pop("n"), args.pop("device"), join_group()
    run = api.load(args.pop("run"), device)
    out = args.pop("out") or new_folder(run.path / "samples" / "draw")
    columns = TextColumn("[bold]drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True, quiet=not (group.leads and sys.stderr.isatty()))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=n)
        bulk.draw_into(out, run, n, group=group, progress=lambda done: bar.advance(task, done), **args)
    if group.leads:
        print(f"{n} {run.config.data.kind} in {out}, the first of them in {out / bulk.GRID}")


def film_command(args: dict[str, Any]) -> None:
    """Show how pictures come out of noise: a strip and a moving picture of x_t and of the estimate x0_hat."""
    from unblot import api
    from unblot.film import save_film, shoot
    from unblot.run import new_folder, refuse_full

    out, overwrite = args.pop("out"), args.pop("overwrite")
    run = api.load(args.pop("run"), args.pop("device", "auto"))
    out = out or new_folder(run.path / "samples" / "film")
    refuse_full(out, overwrite)  # before the work rather than after it
    for path in save_film(run, shoot(run, **args), out, overwrite):
        print(path)


def doctor_command(args: dict[str, Any]) -> None:
    """Say what is in a set of pictures, what is broken, which are copies of one another, and what to do about it,
    before a night is lost: size, whether there are enough pictures, and how long training takes here.
    """
    from unblot import api
    from unblot.data.doctor_page import page, text

    path, as_json = args.pop("page"), args.pop("json")
    found, dataset = api.examine(args.pop("data"), **args)
    print(json.dumps(found.to_dict(), indent=2) if as_json else text(found))
    if path is not None:
        path.write_text(page(found, dataset))
        print(f"\nlook at   {path}", file=sys.stderr)


def evaluate_command(args: dict[str, Any]) -> None:
    """Answer four questions about a run with figures, intervals and pictures: is it good, is it varied, is it new, is
    it still learning? Draws pictures, compares them with the training and the held-out ones, and writes
    RUN/report/report.html and report.json.
    """
    from unblot import api
    from unblot.evaluate.report import HTML
    from unblot.evaluate.verdicts import summary
    from unblot.run import REPORT

    path = args.pop("run")
    print(summary(api.evaluate(path, **args)))
    print(f"\nlook at   {path / REPORT / HTML}")


def compare_command(args: dict[str, Any]) -> None:
    """Put evaluated runs side by side: figures against held-out pictures, copies, likelihood, training."""
    from unblot.evaluate.report import read_report
    from unblot.evaluate.verdicts import compare

    print(compare([read_report(run) for run in args["runs"]]))


def show_command(args: dict[str, Any]) -> None:
    """Say what a run is: its data, network, process, how it was trained, and how the loss went."""
    from unblot.describe import describe

    print(describe(args["run"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. 0 when it did what was asked, 2 for bad input, 130 when it was interrupted."""
    parsed = vars(make_parser().parse_args(argv))
    try:
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
