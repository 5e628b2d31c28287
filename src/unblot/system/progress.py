"""What the terminal shows of work that goes on: a bar where it can be counted, else a line."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Bar(NamedTuple):
    """A progress bar. update(done, total): the amount that is done; advance(more): more of it is done; note(line): a
    line above the bar."""

    update: Callable[[int, int], None]
    advance: Callable[[int], None]
    note: Callable[[str], None]


@contextmanager
def progress_bar(what: str, total: int | None = None, quiet: bool = False) -> Iterator[Bar]:
    """A bar on the standard error, where that is a terminal and not `quiet`; it is removed at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=quiet or not sys.stderr.isatty())
    columns = TextColumn(f"[bold]{what}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield Bar(
            lambda done, count: bar.update(task, completed=done, total=count),
            lambda more: bar.advance(task, more),
            lambda line: console.print(line, markup=False, soft_wrap=True),
        )


@contextmanager
def progress_line(what: str, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A line on the standard error, where that is a terminal and not `quiet`, and the function that replaces it."""
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True, quiet=quiet or not sys.stderr.isatty()).status(what) as status:
        yield lambda line: status.update(escape(line))
