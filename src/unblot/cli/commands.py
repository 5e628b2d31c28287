"""What each command does: from parsed flags to calls of `unblot.api`, and what is printed.

The docstring of each is the text of its `--help`. Heavy imports stand inside, so that the help answers at once.
"""

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from unblot.errors import UnblotError, escaped, flag, typed

if TYPE_CHECKING:
    from unblot.runs.run import Run

GOING_ON = ("steps", "budget", "device", "quiet")  # flags that go with --resume


def say(text: str, file: Any = None) -> None:
    """Prints a text, in one of several processes; control characters of names in it are shown as escapes."""
    if is_main():
        print(escaped(text), file=file)


def is_main() -> bool:
    """Whether this process is the only one, or the main one of several."""
    return os.environ.get("RANK", "0") == "0"


def train_command(args: dict[str, Any]) -> None:
    """Learn from pictures: a folder, an archive, an array file, or data that is built in.

    Everything that is not given is decided by the preset and the data, and written into the run folder.
    `unblot train DATA --dry-run` prints what that would be.
    """
    from unblot import api
    from unblot.cli.dry_run import dry_run

    resumed, data, moved, dry = (args.pop(name) for name in ("resume", "data", "moved", "dry_run"))
    if resumed is None:
        data = "digits" if data is None else data
        if moved is not None:
            raise UnblotError("--data goes with --resume; give the pictures of a new run as unblot train DATA")
        if dry:
            return say("\n".join(dry_run(data, args)))
        run = api.train(data, **args)
    else:
        fixed = [flag(k) for k, v in args.items() if k not in GOING_ON and v is not None and v is not False]
        fixed = ["DATA"] * (data is not None) + ["--dry-run"] * dry + fixed
        if fixed:
            raise UnblotError(
                f"--resume takes everything from the run; leave out {fixed[0]} (only --steps, --budget, --device and "
                "--data may change)"
            )
        run = api.resume(resumed, data=moved, **{k: v for k, v in args.items() if k in GOING_ON})
    _end(run)


def distill_command(args: dict[str, Any]) -> None:
    """Make a model that takes 1 to 4 network calls for a sample from a trained run, by further training.

    The new run is used like any other: unblot sample, evaluate, show, train --resume. Everything that is not given is
    taken from the run, or decided here (half of its steps, half its learning rate).
    """
    from unblot import api

    _end(api.distill(args.pop("run"), **args))


def _end(run: "Run") -> None:
    """Says what to do after a training. Raises KeyboardInterrupt where that was stopped before its end."""
    if any((run.path / "samples").glob("*.png")):
        say(f"look at   {run.path / 'samples'}")
    say(f"next      unblot {'train --resume' if run.interrupted else 'sample'} {typed(run.path)}")
    if run.interrupted:
        raise KeyboardInterrupt


def doctor_command(args: dict[str, Any]) -> None:
    """Check a set of pictures before training: what is in it, what is broken, which pictures are copies of one
    another, whether there are enough, how long training takes here, and what to do about all that."""
    from unblot import api
    from unblot.reports.audit import page, text
    from unblot.system.files import write_text
    from unblot.system.folders import must_be_page

    path, as_json = args.pop("page"), args.pop("json")
    if path is not None:
        must_be_page(path)  # before the work rather than after it
    found, dataset = api.audit(args.pop("data"), **args)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        say(text(found))
    if path is not None:
        write_text(path, page(found, dataset))
        say(f"\nlook at   {path}", file=sys.stderr)


def evaluate_command(args: dict[str, Any]) -> None:
    """Answer four questions about a run with metrics, intervals and pictures: are the samples good, varied and new, and
    is the run still learning? Makes samples, or takes pictures that you have (--samples), compares them with the
    training and the held-out pictures, and writes report.html and report.json into RUN/report or --out."""
    from unblot import api
    from unblot.reports.evaluation import HTML
    from unblot.reports.verdicts import summary
    from unblot.runs.folder import REPORT
    from unblot.runs.hub import local_run
    from unblot.system.progress import progress_line

    path, out = local_run(args.pop("run")), args["out"]
    with progress_line("evaluating", quiet=not is_main()) as report:
        found = api.evaluate(path, report=report, **args)
    say(summary(found))
    folder = (path if path.is_dir() else path.parent) / REPORT if out is None else out
    say(f"\nlook at   {folder / HTML}")


def tune_command(args: dict[str, Any]) -> None:
    """Find out how a trained model samples best: which solver, on which noise levels, and whether with guidance, for
    each number of network calls.

    Makes samples in many ways and measures their distance to real pictures; writes RUN/tuning.json, and a chart in
    RUN/report/tuning.html. From then on `unblot sample RUN` takes the cheapest sampler within 10 % of the best
    (--quality good), or what --quality draft (within 50 %), --quality best or --nfe N ask for.
    """
    from unblot import api
    from unblot.reports.tuning import table
    from unblot.runs.folder import REPORT
    from unblot.runs.hub import local_run
    from unblot.system.progress import progress_line
    from unblot.tuning.search import PAGE

    path = local_run(args.pop("run"))
    with progress_line("tuning", quiet=not is_main()) as report:
        tuning = api.tune(path, report=report, **args)
    say(table(tuning.about, tuning.candidates))
    say(f"\nlook at   {path / REPORT / PAGE}\nnext      unblot sample {typed(path)}")


def compare_command(args: dict[str, Any]) -> None:
    """Show evaluations side by side: metrics against held-out pictures, copies, likelihood, training. Each is that of a
    run, or what unblot evaluate --out wrote."""
    from unblot.reports.comparison import compare
    from unblot.reports.evaluation import read_report

    say(compare([read_report(run) for run in args["runs"]]))


def ema_command(args: dict[str, Any]) -> None:
    """Rebuild the average of the weights with another EMA std from the snapshots of a run, and put it into
    RUN/model.safetensors. Without --std every std is tried, and the one with the lowest held-out loss (or distance of
    samples) is taken. The snapshots stay: any other average can be had afterwards."""
    from unblot import api
    from unblot.runs.folder import MODEL
    from unblot.runs.snapshots import EmaCandidate

    name = "distance" if args.get("by") == "distance" else "held-out loss"

    heading = [f"{'EMA std':<7} {name:>14} {'profile error':>14}"]

    def show(row: EmaCandidate) -> None:
        if heading:  # only now is it known that there is something to show
            print(heading.pop())
        print(f"{row.std:<7} {row.metric:>14.5f} {row.error:>14.1%}")

    run = api.choose_ema(args.pop("run"), report=show, **args)
    say(f"{run.path / MODEL} now has the average {run.config.train.ema}")


def explain_command(args: dict[str, Any]) -> None:
    """Write one page that shows how a diffusion model works: each idea with pictures and numbers that are computed for
    it, from the pictures and the model of a run, or from data, on which a small model is trained for 20 seconds first.
    The page is in English and Chinese, and needs no other file."""
    from unblot.lessons.page import explain

    out = explain(args.pop("target"), args.pop("out"), report=lambda line: print(line, file=sys.stderr), **args)
    say(f"the lessons are in {out}")


def show_command(args: dict[str, Any]) -> None:
    """Describe a run: its data, network, process, how it was trained, and its losses."""
    from unblot.runs.describe import describe
    from unblot.runs.hub import local_run

    say(describe(local_run(args["run"])))


def studio_command(args: dict[str, Any]) -> None:
    """Open a page in the browser that shows every run live, trains, draws, edits, measures and explains.

    It listens on this machine alone unless --host says otherwise (then unencrypted), and asks for the token in the
    printed address. Trainings go on when it ends.
    """
    try:
        from unblot.studio.app import serve
    except ImportError as e:
        raise UnblotError(f"the studio needs {e.name}; pip install 'unblot[studio]'") from None
    serve(args.pop("folder"), allow=tuple(args.pop("allow")), say=lambda line: print(line, flush=True), **args)
