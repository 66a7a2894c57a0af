"""The command `bench`: it parses and prints, nothing else. It imports torch only when it must."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, NoReturn

import typer

from bench.api.options import parse_pairs
from bench.cli import completion
from bench.cli.board import compare, explain, leaderboard
from bench.cli.cache import cache_app
from bench.cli.console import (
    BackboneOptions,
    Data,
    Json,
    Results,
    err,
    log,
    out,
    progress,
    show,
    tell,
)
from bench.cli.datasets import datasets_app
from bench.cli.init import init_app
from bench.cli.paper import lint_published, reproduce, study
from bench.cli.pretrain import pretrain
from bench.cli.report import report
from bench.cli.run import run
from bench.cli.share import export, merge
from bench.cli.show import show_app
from bench.cli.sweep import sweep
from bench.cli.verify import verify
from bench.errors import BenchError, RunFailed

FIRST = """\
Which pathology foundation model sees cells best? Begin with:

  bench doctor         what this machine has, and what is missing
  bench run            a first result: the bundled model on the built-in images
  bench leaderboard    every result so far, best first

`bench list backbones` tells what can be compared, `bench --help` every command."""


def begin(
    context: typer.Context,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Only the result and errors: no progress.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", help="Also each step, and where in the code an error is."),
    ] = False,
) -> None:
    """Which pathology foundation model sees cells best: frozen features, few labels, honest
    intervals.
    """
    if quiet and verbose:
        raise typer.BadParameter("-q and -v: take one of them.")
    tell(quiet=quiet, verbose=verbose)
    if context.invoked_subcommand is None:
        out.print(FIRST, markup=False, highlight=False, soft_wrap=True)


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)

app = typer.Typer(
    name="bench",
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.callback(invoke_without_command=True)(begin)
app.add_typer(datasets_app, name="datasets")
app.add_typer(init_app, name="init")
app.add_typer(show_app, name="show")
app.add_typer(cache_app, name="cache")
app.command()(run)
app.command()(sweep)
app.command()(pretrain)
app.command()(study)
app.command()(leaderboard)
app.command()(report)
app.command()(compare)
app.command()(explain)
app.command()(export)
app.command()(merge)
app.command()(verify)
app.command()(reproduce)
app.command("lint-published")(lint_published)


class _Stopped(BaseException):
    """Somebody asked the command to end. Typer would end a KeyboardInterrupt without a word."""


def _stop(number: int, _: object) -> NoReturn:
    raise _Stopped(128 + number)


def main() -> None:
    """Run the command; a curable error ends with exit code 2, a failed run or a fault with 1."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody ignores it
        signal.signal(signal.SIGINT, _stop)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a table whose lines it cannot draw is a table
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            app()
        finally:
            _deliver()
    except BenchError as error:
        _complain(str(error), 2)
    except RunFailed as error:
        _complain(f"the run failed: {error}", 1)
    except _Stopped as stop:
        told = "stopped. What was finished is kept: the same command goes on from there."
        _complain(told, stop.args[0])
    except BrokenPipeError:  # as behind `| head`: whoever read has enough
        sys.exit(1)
    except Exception as error:
        _complain(_unwritten(error) or _fault(error), 1)


def _deliver() -> None:
    """Write out what was printed; at its own end Python would complain, in two tracebacks."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is left
        raise


def _unwritten(error: Exception) -> str:
    """Tell of output that went nowhere; "" of anything else."""
    if isinstance(error, OSError) and error.filename is None and error.errno in UNWRITABLE:
        return f"the output cannot be written: {error.strerror}. Send it elsewhere, or make room."
    return ""


def _fault(error: Exception) -> str:
    """Tell of an error that nobody foresaw."""
    *_, last = extract_tb(error.__traceback__)
    return (
        f"{type(error).__name__}: {error} (in {last.name}, {last.filename}:{last.lineno}). This is "
        "a fault of bench or of a plug-in: `bench -v ...` tells how it came about."
    )


def _complain(message: str, code: int) -> None:
    log.debug("where the error is:", exc_info=True)
    if "--json" in sys.argv:
        with suppress(OSError):  # what is wrong is told below in any case
            print(json.dumps({"error": message}))
            _deliver()
    err.print("error:", style="bold red", end=" ")
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


@app.command("list")
def list_plugins(
    kind: Annotated[
        str | None,
        typer.Argument(help="backbones, heads, datasets, ...", autocompletion=completion.kinds),
    ] = None,
    data: Data = None,
    long: Annotated[bool, typer.Option("--long", help="All that is known of backbones.")] = False,
    as_json: Json = False,
) -> None:
    """List what can be named: backbones, heads, data sets, protocols, metrics, leaderboards."""
    from bench import registry
    from bench.cli import listing
    from bench.render import terminal

    if kind is not None and kind not in registry.KINDS:
        raise BenchError(f"unknown kind {kind!r}. Choose one of {', '.join(registry.KINDS)}.")
    told = {each: listing.rows(each, data) for each in ([kind] if kind else registry.KINDS)}
    broken = [vars(each) for each in registry.broken() if kind in (None, each.kind)]
    if as_json:
        print(json.dumps({**told, "broken": broken}))
        return
    for each, rows in told.items():
        is_brief = each == "backbones" and not long
        shown = [listing.brief(row) for row in rows] if is_brief else rows
        if shown:
            more = ["`--long` tells titles, patches and training images."] if is_brief else []
            show(terminal.plugins_table(each, shown, out.width), *more)
    for each in broken:
        err.print(f"broken: {each['name']} of {each['origin']}: {each['reason']}", markup=False)


@app.command()
def describe(
    backbones: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names of backbones.", show_default=False, autocompletion=completion.backbones
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="Default: the backbone's own; the linear probe takes `linear` always."),
    ] = None,
    cond_dim: Annotated[int | None, typer.Option(help="CMD: width of the condition.")] = None,
    timestep: Annotated[
        int | None, typer.Option(help="CMD: the time step of the features.")
    ] = None,
    blocks: Annotated[str | None, typer.Option(help="CMD: decoder blocks to take.")] = None,
    option: BackboneOptions = None,
    table: Annotated[
        int | None, typer.Option(help="Every model of this table of the paper, beside its sizes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count backbones and their heads, and tell what is known of them; nothing is downloaded."""
    from bench.models import describe as counted
    from bench.paper import model_sizes
    from bench.render import terminal

    if (table is None) == (not backbones):
        raise BenchError("name backbones (see `bench list backbones`), or --table 4: one of both.")
    if table is not None:
        with progress(quiet=as_json) as report:
            rows = model_sizes.beside_paper(table, report)
    else:
        named = {"cond_dim": cond_dim, "timestep": timestep, "blocks": blocks}
        options = {key: str(value) for key, value in named.items() if value is not None}
        options |= parse_pairs("--option", option or [])
        rows = [counted.describe(each, head, options) for each in backbones or []]
    if as_json:
        print(json.dumps(rows[0] if len(rows) == 1 else rows))
        return
    show(*terminal.described(rows, out.width))


@app.command()
def check(
    backbone: Annotated[
        str, typer.Argument(help="A registered backbone.", autocompletion=completion.backbones)
    ],
    as_json: Json = False,
) -> None:
    """Check that a backbone, with random weights, keeps what the interface promises."""
    from bench.testing import check_backbone

    problems = check_backbone(backbone)
    if as_json:
        print(json.dumps({"backbone": backbone, "problems": problems}))
    else:
        for line in problems or [f"{backbone}: ok"]:
            out.print(line, markup=False, highlight=False)
    if problems:
        raise typer.Exit(1)


@app.command()
def doctor(data: Data = None, results: Results = Path("results"), as_json: Json = False) -> None:
    """Check this machine: Python, torch, GPU, disk, data sets, plug-ins, hub token."""
    from bench.cli.doctor import examine
    from bench.render import terminal

    findings = examine(data, results)
    if as_json:
        print(json.dumps([vars(each) for each in findings]))
    else:
        show(terminal.fields_table("doctor", [vars(each) for each in findings]))
    if any(each.ok is False for each in findings):
        raise typer.Exit(1)
