"""What the commands share: where they print, show progress and stop, and their common options."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from bench.api import Progress

out = Console()
err = Console(stderr=True)

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


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Show a bar a stage on a terminal; nothing into a pipe.

    What follows ": " in a stage is news of it and does not make another bar.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = quiet or not err.is_terminal
    with Bars(*columns, TimeRemainingColumn(), console=err, transient=True, disable=hidden) as bars:
        tasks: dict = {}

        def report(stage: str, done: int, total: int) -> None:
            name = stage.partition(": ")[0]
            if name not in tasks:
                tasks[name] = bars.add_task(stage, total=total, completed=done)
            bars.update(tasks[name], description=stage, completed=done, total=total)

        yield report


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
