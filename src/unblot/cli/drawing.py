"""The commands that draw: new pictures, changed ones, and how they come out of noise."""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from unblot.cli.commands import say
from unblot.errors import UnblotError


def sample_command(args: dict[str, Any]) -> None:
    """Draw new pictures from a trained model: a grid to look at, and one file a sample with the values of the data.

    From 10,000 samples on they are kept in arrays of 4,096 instead. Sampling that was stopped goes on with the same
    command and --out; torchrun shares it among processes.
    """
    from unblot.config.sampling import SampleConfig
    from unblot.reports.film import watcher
    from unblot.runs import bulk
    from unblot.system.distributed import join_group
    from unblot.system.folders import GRID
    from unblot.system.progress import progress_bar

    asked = _with_prompts(args)
    args = {**dataclasses.asdict(SampleConfig()), **_with_count(asked, SampleConfig.n)}
    n, group, run = args.pop("n"), join_group(), _loaded(args)
    out, path = args.pop("out"), args.pop("watch", None)
    on_step = watcher(run, path) if path and group.is_main_process else None
    with progress_bar("sampling", n, quiet=not group.is_main_process) as bar:
        out = bulk.sample_to_folder(
            out, run, n, group=group, progress=bar.advance, note=bar.note, on_step=on_step, **args
        )
    if group.is_main_process:
        say(f"{n} {run.config.data.kind} in {out}, the first of them in {out / GRID}")


def edit_command(args: dict[str, Any]) -> None:
    """Work on your own pictures with a trained model. Pictures are files, folders or arrays, of the size and colours
    of the run's data; known pixels are kept to the last bit. Writes one file a result, and a grid of all."""
    from unblot.config.sampling import EditConfig
    from unblot.editing.files import edit_files
    from unblot.system.folders import GRID, refuse_foreign

    kind, pictures = args.pop("kind"), args.pop("pictures")
    args = _with_prompts(args)
    args = args if kind == "reconstruct" else _with_count(args, EditConfig.n)
    with _output(kind, args) as (run, folder, overwrite):

        def begin(names: list[str]) -> None:
            refuse_foreign(folder, names, overwrite)

        edited = edit_files(run, kind, pictures, begin=begin, **args)
        edited.save(folder, overwrite)
    if edited.errors is not None:
        for name, error in zip(edited.names, edited.errors.tolist(), strict=True):
            say(f"{name}: root mean square error {error:.3g}")
    count = edited.array.shape[0] * edited.array.shape[1]
    say(f"{count} pictures in {folder}, side by side in {folder / GRID}")


def film_command(args: dict[str, Any]) -> None:
    """Show how samples come out of noise: a strip and an animation of x_t and of the estimate x0_hat, with a chart of
    what changes at each step, coarse and fine. With --compare-steps: the same samples in several numbers of steps."""
    from unblot.config.sampling import FilmConfig
    from unblot.reports import film
    from unblot.runs.film import frame_changes, in_steps, shoot, step_counts

    compared, path = args.pop("compare_steps"), args.pop("watch", None)
    if compared is not None and path is not None:
        raise UnblotError("--watch shows one sampling, and --compare-steps draws several; leave one of them out")
    counts = [] if compared is None else step_counts(compared)  # before the work rather than after it
    args = _with_count(_with_prompts(args), FilmConfig.n)
    with _output("film", args, film.STEPS_FILES if counts else film.FILES) as (run, folder, overwrite):
        if counts:
            drawn = in_steps(run, counts=counts, **args)
            say(f"{film.save_steps(run, drawn, counts, folder, overwrite)}\n{film.steps_sentence(drawn, counts, run)}")
        else:
            frames, samples = shoot(run, on_step=film.watcher(run, path) if path else None, **args)
            paths = film.save_film(run, frames, samples, folder, overwrite)
            say("\n".join([*map(str, paths), film.changes_sentence(frame_changes(frames))]))


def _with_prompts(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the prompts of the file that --prompts names after those of --prompt; empty lines are none."""
    path = args.pop("prompts", None)
    if path is None:
        return args
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UnblotError(f"{str(path)!r} is no text in UTF-8; save it as such") from None
    return {**args, "prompt": [*args.get("prompt", ()), *filter(str.strip, lines)]}


def _with_count(args: dict[str, Any], usual: int) -> dict[str, Any]:
    """The arguments with a number of pictures where none is given: the usual one, or one for each prompt."""
    return {"n": max(usual, len(args.get("prompt") or ())), **args}


def _loaded(args: dict[str, Any]) -> Any:
    """The run that the arguments name, with its adapters, on its device; all these are taken out of the arguments."""
    from unblot import api
    from unblot.runs.adapter import adapted

    return adapted(api.load(args.pop("run"), args.pop("device", "auto")), args.pop("adapters"))


@contextmanager
def _output(name: str, args: dict[str, Any], names: Iterable[str] = ()) -> Iterator[tuple[Any, Any, bool]]:
    """The run, the claimed folder for results, and whether earlier results in it are replaced.

    names: of the files that will be written, as far as they are known.
    """
    from unblot.system.folders import claimed, refuse_foreign

    out, overwrite = args.pop("out"), args.pop("overwrite")
    run = _loaded(args)
    if out is not None:
        refuse_foreign(out, names, overwrite)  # before the work rather than after it
    with claimed(out, run.path / "samples" / name) as folder:
        yield run, folder, overwrite
