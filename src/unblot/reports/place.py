"""Where a report is written, so that nothing is lost there."""

from pathlib import Path
from typing import Any

from unblot.errors import UnblotError, arg
from unblot.reports.evaluation import HTML, JSON, read_report
from unblot.reports.samplers import given
from unblot.runs.folder import REPORT
from unblot.system.folders import must_be_page, must_be_writable
from unblot.system.stored import read_stored


def place_of_report(run: Path, out: Path | None, judges_given: bool) -> Path:
    """The folder for the report of a run: `out`, or that of the run.

    judges_given: whether it is of pictures from elsewhere, which must not take the place of the run's own evaluation.
    Raises UnblotError where something would be lost, or cannot be written.
    """
    if out is not None:
        must_be_report(out)
        return out
    folder = run / REPORT
    must_be_writable(folder)
    if judges_given and (folder / JSON).exists() and given(read_report(run)) is None:
        raise UnblotError(
            f"{str(folder)!r} holds the evaluation of samples of the run itself; give {arg('out', 'FOLDER')} for that "
            "of other pictures"
        )
    return folder


def must_be_report(folder: Path) -> None:
    """Raises UnblotError where a report cannot be written into a folder without loss: it may replace a report alone."""
    must_be_page(folder / HTML)
    path = folder / JSON
    if path.exists() and not _is_report(path):
        raise UnblotError(f"{str(path)!r} is no report of unblot; choose another {arg('out')}, or remove it")


def _is_report(path: Path) -> bool:
    try:
        found = read_stored(path, dict[str, Any])
    except UnblotError:
        return False
    return {"unblot", "verdicts"} <= found.keys()
