"""What each command of the command line does: from parsed flags to calls of `unblot.api`, and what is printed.

The docstring of each is the text of its `--help`. Heavy imports stand inside, so that the help answers at once.
"""

import dataclasses
import json
import sys
from typing import Any

from unblot.config.schema import SampleConfig
from unblot.errors import UnblotError, flag

GOING_ON = ("steps", "budget", "device", "quiet")  # what may be given with --resume


def train_command(args: dict[str, Any]) -> None:
    """Learn from pictures: a folder, an archive or array file, or built-in data (digits, moons, rings, gaussians).

    Whatever is not given is decided by the preset and the data, and written into the run folder.
    """
    from unblot import api

    resumed, data = args.pop("resume"), args.pop("data")
    if resumed is None:
        run = api.train(data or "digits", **args)
    else:
        fixed = [k for k, v in args.items() if k not in GOING_ON and v not in (None, False)]
        if data is not None or fixed:
            given = "DATA" if data is not None else flag(fixed[0])
            raise UnblotError(
                f"--resume takes everything from the run; leave out {given} (only --steps or --budget may change)"
            )
        run = api.resume(resumed, **{k: v for k, v in args.items() if k in GOING_ON})
    print(f"look at   {run.path / 'samples'}\nnext      unblot sample {run.path}")


def sample_command(args: dict[str, Any]) -> None:
    """Draw new pictures from a trained model: a grid to look at, and one file a picture with the values of the data.

    From 10,000 pictures on, they are kept in shards of 4,096 instead. A draw that was stopped goes on when it is
    asked for again with the same --out; torchrun shares it out among processes.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from unblot import api
    from unblot.runs import bulk
    from unblot.system.distributed import join_group
    from unblot.system.files import new_folder

    args = {**dataclasses.asdict(SampleConfig()), **args}
    n, device, group = args.pop("n"), args.pop("device"), join_group()
    run = api.load(args.pop("run"), device)
    out = args.pop("out") or new_folder(run.path / "samples" / "sample")
    columns = TextColumn("[bold]drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True, quiet=not (group.is_main_process and sys.stderr.isatty()))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=n)
        bulk.sample_to_folder(
            out, run, n, group=group, progress=lambda done: bar.advance(task, done), note=console.print, **args
        )
    if group.is_main_process:
        print(f"{n} {run.config.data.kind} in {out}, the first of them in {out / bulk.GRID}")


def edit_command(args: dict[str, Any]) -> None:
    """Work on your own pictures with a trained model. Pictures are files, folders or arrays, of the size and colours
    that the model draws; what is known of them is kept to the last bit. Writes one file a result, and a sheet.
    """
    from unblot import api
    from unblot.editing.files import edit_files
    from unblot.system.files import new_folder, refuse_full

    kind, out, overwrite = args.pop("kind"), args.pop("out"), args.pop("overwrite")
    run = api.load(args.pop("run"), args.pop("device", "auto"))
    out = out or new_folder(run.path / "samples" / kind)
    refuse_full(out, overwrite)  # before the work rather than after it
    edited = edit_files(run, kind, args.pop("pictures"), **args)
    edited.save(out, overwrite)
    if edited.errors is not None:
        for name, error in zip(edited.names, edited.errors.tolist(), strict=True):
            print(f"{name}: root mean square error {error:.3g}")
    print(f"{edited.array.shape[0] * edited.array.shape[1]} pictures in {out}, side by side in {out / 'grid.png'}")


def distill_command(args: dict[str, Any]) -> None:
    """Make a model that takes 1 to 4 evaluations for a picture out of a trained run, by training on from it.

    The new run is used as any other, with nothing more to choose: unblot sample, evaluate, show, train --resume. What
    is not given is taken from the run, or decided here (half of its steps, half its learning rate).
    """
    from unblot import api

    run = api.distill(args.pop("run"), **args)
    print(f"look at   {run.path / 'samples'}\nnext      unblot sample {run.path}")


def film_command(args: dict[str, Any]) -> None:
    """Show how pictures come out of noise: a strip and a moving picture of x_t and of the estimate x0_hat."""
    from unblot import api
    from unblot.runs.film import save_film, shoot
    from unblot.system.files import new_folder, refuse_full

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
    from unblot.reports.audit import page, text
    from unblot.system.files import must_be_writable, write_text

    path, as_json = args.pop("page"), args.pop("json")
    if path is not None:
        must_be_writable(path.parent)  # before the work rather than after it
    found, dataset = api.audit(args.pop("data"), **args)
    print(json.dumps(found.to_dict(), indent=2) if as_json else text(found))
    if path is not None:
        write_text(path, page(found, dataset))
        print(f"\nlook at   {path}", file=sys.stderr)


def evaluate_command(args: dict[str, Any]) -> None:
    """Answer four questions about a run with figures, intervals and pictures: is it good, is it varied, is it new, is
    it still learning? Draws pictures, compares them with the training and the held-out ones, and writes
    RUN/report/report.html and report.json.
    """
    from unblot import api
    from unblot.reports.evaluation import HTML
    from unblot.reports.verdicts import summary
    from unblot.runs.folder import REPORT

    path = args.pop("run")
    print(summary(api.evaluate(path, **args)))
    print(f"\nlook at   {path / REPORT / HTML}")


def tune_command(args: dict[str, Any]) -> None:
    """Find out how a trained model samples best: which solver, on which levels, and whether guided by an earlier state
    of itself or towards its labels, for each number of network calls.

    Draws pictures in many ways and measures their distance to real ones; keeps what it found in RUN/tuning.json, and a
    chart in RUN/report/tuning.html. From then on `unblot sample RUN` takes the cheapest setting within 10 % of the
    best (--quality good), or what --quality draft (within 50 %), --quality best or --nfe N ask for.
    """
    from rich.console import Console

    from unblot import api
    from unblot.reports.tuning import table
    from unblot.runs.folder import REPORT
    from unblot.tuning.search import PAGE

    path = args.pop("run")
    with Console(stderr=True, quiet=not sys.stderr.isatty()).status("tuning") as status:
        tuning = api.tune(path, report=status.update, **args)
    print(table(tuning.about, tuning.candidates))
    print(f"\nlook at   {path / REPORT / PAGE}\nnext      unblot sample {path}")


def compare_command(args: dict[str, Any]) -> None:
    """Put evaluated runs side by side: figures against held-out pictures, copies, likelihood, training."""
    from unblot.reports.evaluation import read_report
    from unblot.reports.verdicts import compare

    print(compare([read_report(run) for run in args["runs"]]))


def ema_command(args: dict[str, Any]) -> None:
    """Rebuild the average of the weights with another length from the snapshots that a run kept, and put it into
    RUN/model.safetensors. Without --std every length is tried, and the one with the lowest held-out loss (or distance
    of drawn pictures) is taken. The snapshots remain: any other length can be had afterwards.
    """
    from unblot import api
    from unblot.runs.folder import MODEL
    from unblot.runs.snapshots import EmaCandidate

    name = "distance" if args.get("by") == "distance" else "held-out loss"

    def show(row: EmaCandidate) -> None:
        print(f"{row.std:<6} {row.figure:>14.5f} {row.error:>14.1%}")

    if args.get("std") is None:
        print(f"{'length':<6} {name:>14} {'profile off by':>14}")
    run = api.choose_ema(args.pop("run"), report=show, **args)
    print(f"{run.path / MODEL} has the average {run.config.train.ema} now")


def show_command(args: dict[str, Any]) -> None:
    """Say what a run is: its data, network, process, how it was trained, and how the loss went."""
    from unblot.runs.describe import describe

    print(describe(args["run"]))
