"""Output, progress bars, stop signals and common options of the commands."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

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
from bench.render import printable


class Output(Console):
    """A console that escapes control characters in text, such as the names in a record."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects; see `Console.print`."""
        super().print(*(printable(x) if isinstance(x, str) else x for x in objects), **options)


out = Output()
err = Output(stderr=True)
log = logging.getLogger("bench")

NARROW = 60  # columns; narrower terminals show neither a bar nor a unit
UNITS = {"bootstrap": "scores", "features": "images", "scoring": "images", "training": "steps"}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", envvar="BENCH_DATA", help="The folder of the data sets."),
]
Results = Annotated[
    Path, typer.Option("--results", envvar="BENCH_RESULTS", help="The folder of the results.")
]


class Details(logging.Handler):
    """A handler that prints log records above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record with its traceback."""
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
    console = Output(width=width) if is_free else out
    for item in page:
        if isinstance(item, str):
            is_line = width is None and not console.is_terminal
            console.print(item, markup=False, highlight=False, soft_wrap=is_line)
        else:
            console.print(rich_table(item, console.width))


def print_file(text: str) -> None:
    """Print text that is meant for a file in UTF-8, whatever the encoding of the terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    print(text, end="")


def note(text: str) -> None:
    """Print a note on standard error, unless `--quiet` is set."""
    if log.isEnabledFor(logging.INFO):
        err.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)


class Rate(ProgressColumn):
    """The number of steps per second of a stage."""

    def render(self, task: Task) -> Text:
        """Return the rate with its unit; empty for stages without a unit."""
        unit = UNITS.get(_name(task.description))
        speed = task.finished_speed or task.speed
        if unit is None or speed is None:
            return Text()
        digits = 0 if speed >= 100 else 1 if speed >= 1 else 3
        return Text(f"{speed:.{digits}f}{'' if err.width < NARROW else f' {unit}'}/s")


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Show one bar per stage on a terminal, and nothing otherwise.

    The text after ": " in a stage is shown, but does not start another bar.
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
            elif done < bars.tasks[tasks[name]].completed:  # it starts again
                bars.reset(tasks[name], completed=done, total=total)
            bars.update(tasks[name], description=stage, completed=done, total=total)

        yield report


def _name(stage: str) -> str:
    return stage.partition(": ")[0]


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Record Ctrl-C and SIGTERM instead of stopping; a second signal is handled as before.

    Yields:
        A function that returns the exit code of the first signal, or 0 without one.
    """
    exit_codes: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def record_signal(number: int, _: object) -> None:
        exit_codes.append(128 + number)
        signal.signal(number, handlers[signal.Signals(number)])

    for number in handlers:
        signal.signal(number, record_signal)
    try:
        yield lambda: exit_codes[0] if exit_codes else 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
