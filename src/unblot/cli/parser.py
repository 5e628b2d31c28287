"""The commands of the command line with their arguments, and one line for every error."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from unblot._version import __version__
from unblot.cli import commands as does
from unblot.cli import drawing, handing_on, packing
from unblot.cli.flags import (
    DATA,
    OVERWRITE,
    Command,
    Help,
    Parser,
    PrintCompletion,
    add_adapters,
    add_flags,
    add_out,
    add_path,
    add_prompts,
    add_run,
)
from unblot.cli.scaling import plan_command
from unblot.config.commands import ExplainConfig, PlanConfig, StudioConfig
from unblot.config.distill import DistillConfig
from unblot.config.edits import EDITS
from unblot.config.latent import LatentConfig
from unblot.config.measuring import EmaConfig, EvaluateConfig, TuneConfig
from unblot.config.sampling import EditConfig, FilmConfig, SampleConfig
from unblot.config.schema import DataConfig, TrainConfig
from unblot.config.transfer import TransferConfig
from unblot.errors import UnblotError, UnblotNote, command_line, escaped, is_out_of_memory, sentence

DESCRIPTION = """Train a diffusion model from scratch on your own pictures, and draw new ones from it.

  unblot train PICTURES/ --budget 30m   learn from a folder (or: digits)
  unblot sample runs/PICTURES           draw new ones

The model, and everything about how it was made, is in the run folder."""

WATCH = "a new file that shows the pictures while they come out of noise: x_t beside x0_hat"
DEVICES = "how many of what, such as 4xH100 or 2xcpu; H200, H100, A100, L40S, L4, RTX4090, cpu"

SHARED = ("train", "distill", "sample", "evaluate", "tune")  # commands that several processes share


def make_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = Parser(prog="unblot", description=DESCRIPTION, formatter_class=Help)
    parser.add_argument("--version", action="version", version=f"unblot {__version__}")
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this Python module, of the working directory or installed: its networks may be used, and the"
        " solvers and schedules that it adds to their tables",
    )
    parser.add_argument(
        "--print-completion",
        default=argparse.SUPPRESS,
        action=PrintCompletion,
        choices=["bash", "zsh", "tcsh"],
        help="print the completion script of a shell",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, about: str, run: Callable[[dict[str, Any]], None], usage: str) -> argparse.ArgumentParser:
        """A command with its line in the list of commands; the docstring of its function is its description."""
        text = "\n".join(line.strip() for line in (run.__doc__ or "").strip().splitlines())
        usage = f"unblot {name} {usage}"
        added = commands.add_parser(name, help=about, description=text, usage=usage, formatter_class=Help)
        added.set_defaults(command=run, name_of_command=name)
        return added

    _training(command)
    packing.add_commands(command)
    _sampling(command)
    _editing(command("edit", "work on your own pictures", drawing.edit_command, "KIND RUN PICTURES ... [flags]"))
    _measuring(command)
    handing_on.add_commands(command)
    return parser


def _training(command: Command) -> None:
    train = command("train", "learn from pictures", does.train_command, "[DATA] [--out RUN] [flags]")
    add_path(train, "data", type=str, nargs="?", metavar="DATA", help=f"{DATA} (default: digits)")
    add_path(train, "--out", metavar="RUN", help="run folder (default: a new one in runs/)")
    add_path(
        train, "--resume", metavar="RUN", help="go on with this run; --steps, --budget, --device and --data may change"
    )
    add_path(
        train,
        "--data",
        dest="moved",
        type=str,
        metavar="PATH",
        help="with --resume: where the data is now, if it was moved",
    )
    train.add_argument("--dry-run", action="store_true", help="print every choice and what decides it; train nothing")
    train.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    train.add_argument("--quiet", action="store_true", help="show nothing while training")
    add_flags(train, DataConfig, skip=["data"])
    add_flags(train, TransferConfig)
    add_flags(train, LatentConfig)
    add_flags(train, TrainConfig)

    usage = "DATA --devices 4xH100 [--hours H] [flags]"
    plan = command("plan", "say what a training would take on other machines", plan_command, usage)
    add_path(plan, "data", type=str, nargs="?", default="digits", metavar="DATA", help=f"{DATA} (default: digits)")
    plan.add_argument("--devices", required=True, metavar="NxNAME", help=DEVICES)
    reached = "share of a GPU's rate that training reaches (default: 0.25, assumed)"
    plan.add_argument("--reached", type=float, default=argparse.SUPPRESS, metavar="X", help=reached)
    add_flags(plan, PlanConfig)
    add_flags(plan, DataConfig, skip=["data"])
    add_flags(plan, LatentConfig, skip=["pixels"])
    add_flags(plan, TrainConfig, skip=["budget", "device", "log_to"])

    distill = command("distill", "make a few-step model from a run", does.distill_command, "RUN [--out RUN] [flags]")
    add_run(distill)
    add_path(distill, "--data", type=str, metavar="PATH", help="where the training data is now, if it was moved")
    add_path(distill, "--out", metavar="RUN", help="run folder (default: a new one beside RUN)")
    distill.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    distill.add_argument("--quiet", action="store_true", help="show nothing while training")
    add_flags(distill, DistillConfig, skip=["teacher", "sha256"])
    add_flags(distill, TrainConfig, skip=["budget"], groups=["optimisation", "run"])


def _sampling(command: Command) -> None:
    usage = "RUN [-n N] [--label NAME] [--prompt TEXT] [--out FOLDER] [flags]"
    sample = command("sample", "draw new pictures", drawing.sample_command, usage)
    add_run(sample)
    add_adapters(sample)
    add_out(sample, "sample")
    add_prompts(sample)
    add_path(sample, "--watch", metavar="PNG", help=WATCH)
    add_flags(sample, SampleConfig)

    film = command("film", "show how samples come out of noise", drawing.film_command, usage)
    add_run(film)
    add_adapters(film)
    add_out(film, "film")
    add_prompts(film)
    count = f"number of samples (default: {FilmConfig.n}, or one for each prompt)"
    film.add_argument("-n", type=int, default=argparse.SUPPRESS, metavar="N", help=count)
    film.add_argument("--compare-steps", metavar="N,N,...", help="draw the same samples in these numbers of steps")
    add_path(film, "--watch", metavar="PNG", help=WATCH)
    add_flags(film, FilmConfig, skip=["n", "batch_size"])


def _editing(edit: argparse.ArgumentParser) -> None:
    kinds = edit.add_subparsers(prog="unblot edit", metavar="KIND", required=True, dest="kind", parser_class=Parser)
    for kind, (about, choices) in EDITS.items():
        what = "A B" if kind == "interpolate" else "PICTURES ..."
        one = kinds.add_parser(
            kind,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            usage=f"unblot edit {kind} RUN {what} [flags]",
            formatter_class=Help,
        )
        add_run(one)
        count = 2 if kind == "interpolate" else "+"
        add_path(one, "pictures", type=str, nargs=count, metavar="PICTURES", help="files or folders")
        add_flags(one, choices)
        add_adapters(one)
        add_out(one, kind)
        add_prompts(one)
        add_flags(one, EditConfig, skip=["n"] if kind == "reconstruct" else [])


def _measuring(command: Command) -> None:
    doctor = command("doctor", "check the data", does.doctor_command, "DATA [flags]")
    add_path(doctor, "data", type=str, metavar="DATA", help=DATA)
    add_path(doctor, "--page", metavar="FILE", help="write an HTML page with the pictures in question")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--flipped", action="store_true", help="look for mirrored copies too")
    doctor.add_argument("--no-near", dest="near", action="store_false", help="do not look for near copies")
    add_flags(doctor, DataConfig, skip=["data", "on_broken"])

    usage = "RUN [-n N] [flags]"
    evaluate = command("evaluate", "measure how good, varied and original samples are", does.evaluate_command, usage)
    add_run(evaluate)
    add_path(evaluate, "--out", metavar="FOLDER", help="folder to write the report into (default: RUN/report)")
    add_flags(evaluate, EvaluateConfig)

    ema = command("ema", "choose the average of the weights", does.ema_command, "RUN [--std X] [--by distance]")
    add_path(ema, "run", metavar="RUN", help="a run folder")
    add_flags(ema, EmaConfig)

    usage = "RUN [--budget 10m] [-n N] [flags]"
    tune = command("tune", "find out how a run samples best", does.tune_command, usage)
    add_path(tune, "run", metavar="RUN", help="a run folder")
    add_flags(tune, TuneConfig)

    compare = command("compare", "show evaluated runs side by side", does.compare_command, "RUN RUN ...")
    add_path(compare, "runs", nargs="+", metavar="RUN", help="run folders that were evaluated, or folders of reports")

    explain = command("explain", "show how a diffusion model works", does.explain_command, "[DATA|RUN] [--out FILE]")
    add_path(explain, "target", type=str, nargs="?", default="digits", metavar="DATA|RUN", help="(default: digits)")
    add_path(explain, "--out", default="lessons.html", metavar="FILE", help="the page (default: lessons.html)")
    add_flags(explain, ExplainConfig)

    studio = command("studio", "open everything in a browser", does.studio_command, "[FOLDER] [flags]")
    add_path(studio, "folder", nargs="?", default="runs", metavar="FOLDER", help="where runs are (default: runs)")
    add_path(studio, "--allow", action="append", default=[], metavar="PATH", help="data may be read from here, too")
    studio.add_argument("--no-browser", dest="browser", action="store_false", help="only print the address")
    add_flags(studio, StudioConfig)

    add_run(command("show", "describe a run", does.show_command, "RUN"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns 0 where it succeeded, 2 for bad input, 130 where it was interrupted. Raises SystemExit as
    the parser does, and where SIGTERM has ended a training."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that is not UTF-8 shows escapes instead of an error
            stream.reconfigure(errors="backslashreplace")
    try:
        parsed = vars(make_parser().parse_args(argv))
        with command_line(), _notes():
            for module in parsed.pop("modules"):
                _import_networks(module)
            _refuse_processes(parsed.pop("name_of_command"))
            parsed.pop("command")(parsed)
            sys.stdout.flush()
    except UnblotError as e:
        return _fail(str(e))
    except BrokenPipeError:  # the reader of our output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as e:
        return _fail(sentence(e))
    except (RuntimeError, MemoryError) as e:
        if is_out_of_memory(e):
            return _fail("out of memory; use a smaller --batch-size or -n")
        if not _several() or not _lost_process(e):
            raise
        return _fail("another process of this run has ended, and says why")
    except KeyboardInterrupt:
        return 130
    return 0


def _several() -> bool:
    """Whether torchrun has started this process among several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _lost_process(error: Exception) -> bool:
    from unblot.system.distributed import lost_process

    return lost_process(error)


def _refuse_processes(command: str) -> None:
    """Raises UnblotError for a command of one process that torchrun has started in several."""
    if command not in SHARED and _several():
        raise UnblotError(
            f"unblot {command} is for one process; start it without torchrun, which is for {', '.join(SHARED)}"
        )


def _import_networks(module: str) -> None:
    from unblot.nn.own import import_networks

    import_networks(module)


@contextmanager
def _notes() -> Iterator[None]:
    """Within it notes are lines on the standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UnblotNote)
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, UnblotNote):
                print(f"note: {escaped(str(message))}", file=sys.stderr)
            else:
                shown(message, category, *where)

        warnings.showwarning = show  # type: ignore[assignment]  # where a note comes from is not shown
        yield


def _fail(message: str) -> int:
    print(f"unblot: error: {escaped(message)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
