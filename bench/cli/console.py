"""What the commands share: where they print, show progress and stop, and their common options."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from bench.api import Progress, Table

out = Console()
err = Console(stderr=True)
log = logging.getLogger("bench")

NARROW = 60  # columns; below, a stage has no room for a bar and a unit
UNITS = {"bootstrap": "scores", "features": "images", "scoring": "images", "training": "steps"}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", envvar="BENCH_DATA", help="The folder that holds the data sets."),
]
Results = Annotated[
    Path, typer.Option("--results", envvar="BENCH_RESULTS", help="Where results are kept.")
]
Ci = Annotated[
    str,
    typer.Option(
        "--ci",
        help="expanded or bca: patients are resampled; percentile: images are, as in the paper.",
    ),
]
Resamples = Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")]
BackboneOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Any other backbone option."),
]


class Details(logging.Handler):
    """Print what is logged, above any bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line, and the traceback that belongs to it."""
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        err.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Set the level of the log, which decides what is printed besides results and errors.

    Raises:
        BadParameter: both are set.
    """
    if quiet and verbose:
        raise typer.BadParameter("-q and -v exclude each other.")
    log.handlers = [Details()]
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def show(*page: Table | str, width: int | None = None) -> None:
    """Print tables and lines.

    Args:
        width: of the page in characters if the output is not a terminal and COLUMNS is not set.
    """
    from bench.render.terminal import rich_table

    is_free = width is not None and not out.is_terminal and "COLUMNS" not in os.environ
    console = Console(width=width) if is_free else out
    for item in page:
        if isinstance(item, str):
            is_line = width is None and not console.is_terminal
            console.print(item, markup=False, highlight=False, soft_wrap=is_line)
        else:
            console.print(rich_table(item, console.width))


def print_file(text: str) -> None:
    """Print what is meant for a file: in UTF-8, whatever the terminal speaks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    print(text, end="")


def note(text: str) -> None:
    """Say what should be known before a result, unless only the result is wanted."""
    if log.isEnabledFor(logging.INFO):
        err.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)


class Rate(ProgressColumn):
    """How much of a stage is done in a second."""

    def render(self, task: Task) -> Text:
        """Write it with its unit; nothing where the stage has none, or tells of it itself."""
        unit = UNITS.get(_name(task.description))
        speed = task.finished_speed or task.speed
        if unit is None or speed is None:
            return Text()
        digits = 0 if speed >= 100 else 1 if speed >= 1 else 3
        return Text(f"{speed:.{digits}f}{'' if err.width < NARROW else f' {unit}'}/s")


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Show a bar a stage on a terminal; nothing into a pipe.

    What follows ": " in a stage is news of it and does not make another bar.
    """
    words = TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1))
    bar = [] if err.width < NARROW else [BarColumn(bar_width=20)]
    columns = (words, *bar, MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    hidden = quiet or not err.is_terminal or not log.isEnabledFor(logging.INFO)
    with Bars(*columns, console=err, transient=True, disable=hidden, expand=True) as bars:
        tasks: dict = {}

        def report(stage: str, done: int, total: int) -> None:
            name = _name(stage)
            if name not in tasks:
                tasks[name] = bars.add_task(stage, total=total, completed=done)
            elif done < bars.tasks[tasks[name]].completed:  # it begins again: so does its time
                bars.reset(tasks[name], completed=done, total=total)
            bars.update(tasks[name], description=stage, completed=done, total=total)

        yield report


def _name(stage: str) -> str:
    return stage.partition(": ")[0]


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], int]]:
    """Note Ctrl-C and SIGTERM, and give the exit code that they ask for; a second one acts."""
    asked: list[int] = []
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: object) -> None:
        asked.append(128 + number)
        signal.signal(number, before[signal.Signals(number)])

    for each in before:
        signal.signal(each, note)
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
