"""The command `bench`. Importing this module loads no torch."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, Any, NoReturn, get_type_hints

import typer

from bench import __version__
from bench.cli import completion
from bench.cli.board import compare, explain, leaderboard
from bench.cli.cache import cache_app
from bench.cli.console import (
    Data,
    Json,
    Results,
    err,
    log,
    out,
    progress,
    set_verbosity,
    show,
)
from bench.cli.datasets import datasets_app
from bench.cli.init import init_app
from bench.cli.options import options_of
from bench.cli.paper import lint_published, reproduce, study
from bench.cli.pretrain import pretrain
from bench.cli.report import report
from bench.cli.run import run
from bench.cli.runs import runs_app
from bench.cli.share import export, merge
from bench.cli.show import show_app
from bench.cli.sweep import sweep
from bench.cli.verify import verify
from bench.errors import BenchError, RunFailed
from bench.models.config import DescribeConfig

FIRST = """\
Which pathology foundation model sees cells best? Start with:

  bench doctor         check this machine
  bench run            a first result: the bundled model on the built-in images
  bench leaderboard    all results so far, best first

`bench list backbones` lists what can be compared, `bench --help` all commands."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)

Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print only the result and errors, no progress.")
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print every step, and the traceback of an error.")
]


def _print_version(value: bool) -> None:
    if value:
        out.print(f"bench {__version__}", highlight=False)
        raise typer.Exit


def begin(
    context: typer.Context,
    quiet: Quiet = False,
    verbose: Verbose = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Which pathology foundation model sees cells best: frozen features, few labels, honest
    intervals.
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    if context.invoked_subcommand is None:
        out.print(FIRST, markup=False, highlight=False, soft_wrap=True)


app = typer.Typer(
    name="bench",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback(invoke_without_command=True)(begin)


class _Stopped(BaseException):
    """A signal ended the command; Typer would end a KeyboardInterrupt without a message."""


class _ReaderLeft(BaseException):
    """The reader of the output has closed it; Typer and rich would end a BrokenPipeError with 1."""


class _Output(io.FileIO):
    """Standard output or standard error, which `| head` may close."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            raise _ReaderLeft from None


def _watch(stream: io.TextIOWrapper, errors: str) -> io.TextIOWrapper:
    """Return a stream to the same file that raises `_ReaderLeft`.

    Args:
        errors: how characters are written that the encoding lacks, such as the lines of tables.
    """
    file = _Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(file), stream.encoding, errors, line_buffering=stream.line_buffering
    )


def _stop(number: int, _: object) -> NoReturn:
    raise _Stopped(128 + number)


def main() -> None:
    """Run the command line; exit with code 2 after a user's error, and with 1 after any other."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored by a parent
        signal.signal(signal.SIGINT, _stop)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = _watch(sys.stdout, "replace")
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = _watch(sys.stderr, "backslashreplace")
    try:
        _run()
    except _ReaderLeft:  # `| head` has read enough
        for handle in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), handle)  # discards the rest
        sys.exit(0)


def _run() -> None:
    """Run a command, and print its error."""
    try:
        try:
            app()
        finally:
            _flush()
    except BenchError as error:
        _exit_with(str(error), 2)
    except RunFailed as error:
        _exit_with(f"the run failed: {error}", 1)
    except _Stopped as stop:
        message = "stopped. Finished work is stored: the same command resumes."
        _exit_with(message, stop.args[0])
    except Exception as error:
        _exit_with(_unwritable(error) or _unexpected(error), 1)


def _flush() -> None:
    """Write buffered output now, since Python reports a failure at exit with tracebacks."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discards the rest
        raise


def _unwritable(error: Exception) -> str:
    """Return the message for standard output that cannot be written; "" for other errors."""
    if isinstance(error, OSError) and error.filename is None and error.errno in UNWRITABLE:
        return f"the output cannot be written: {error.strerror}. Redirect it, or free some space."
    return ""


def _unexpected(error: Exception) -> str:
    """Return the message for an error of the program."""
    *_, last = extract_tb(error.__traceback__)
    return (
        f"{type(error).__name__}: {error} (in {last.name}, {last.filename}:{last.lineno}). This is "
        "a bug of bench or of a plug-in; `bench -v ...` prints the traceback."
    )


def _exit_with(message: str, code: int) -> NoReturn:
    log.debug("traceback of the error:", exc_info=True)
    if "--json" in sys.argv:
        with suppress(OSError, _ReaderLeft):  # standard error has the message in any case
            print(json.dumps({"error": message}))
            _flush()
    err.print("error:", style="bold red", end=" ")
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


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

    if kind is not None and kind not in registry.KINDS:
        raise BenchError(f"unknown kind {kind!r}. Choose one of {', '.join(registry.KINDS)}.")
    kinds = [kind] if kind else registry.KINDS
    plugins = {name: listing.rows(name, data) for name in kinds}
    broken = [vars(each) for each in registry.broken() if kind in (None, each.kind)]
    if as_json:
        print(json.dumps({**plugins, "broken": broken}))
        return
    for name, rows in plugins.items():
        is_brief = name == "backbones" and not long
        shown = [listing.brief(row) for row in rows] if is_brief else rows
        if shown:
            more = ["`--long` also shows titles, patches and training images."] if is_brief else []
            show(listing.table(name, shown), *more)
    for each in broken:
        err.print(f"broken: {each['name']} of {each['origin']}: {each['reason']}", markup=False)


@options_of(DescribeConfig)
def describe(
    config: DescribeConfig,
    backbones: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names of backbones.", show_default=False, autocompletion=completion.backbones
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Describe backbones and count their parameters and those of their heads.

    Nothing is downloaded.
    """
    from bench.models import describe as counted
    from bench.paper import model_sizes
    from bench.render import terminal

    if (config.table is None) == (not backbones):
        raise BenchError(
            "name backbones (see `bench list backbones`) or set --table 4, but not both."
        )
    if config.table is not None:
        with progress(quiet=as_json) as report:
            rows = model_sizes.beside_paper(config.table, report)
    else:
        rows = [
            counted.describe(name, config.head, config.backbone_options) for name in backbones or []
        ]
    if as_json:
        print(json.dumps(rows[0] if len(rows) == 1 else rows))
        return
    show(terminal.description(rows))


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


PANELS: dict[str, tuple[Callable[..., object] | typer.Typer, ...]] = {
    "Evaluate": (run, sweep),
    "Analyse": (leaderboard, compare, explain, report, show_app),
    "Data and models": (list_plugins, describe, check, datasets_app, init_app),
    "Pretraining": (pretrain,),
    "Maintenance": (doctor, runs_app, cache_app, verify, export, merge),
    "Paper": (reproduce, study, lint_published),
}
NAMES = {
    list_plugins: "list",
    lint_published: "lint-published",
    datasets_app: "datasets",
    init_app: "init",
    show_app: "show",
    runs_app: "runs",
    cache_app: "cache",
}


def _with_verbosity(command: Callable[..., object]) -> Callable[..., object]:
    """Add -q and -v to a command, so that they are valid after its name too."""
    hints = get_type_hints(command, include_extras=True)
    parameters = [
        each.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[each.name])
        for each in signature(command).parameters.values()
    ]
    for name, hint in (("quiet", Quiet), ("verbose", Verbose)):
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=hint))

    @wraps(command)
    def wrapper(*, quiet: bool, verbose: bool, **values: object) -> object:
        if quiet or verbose:
            set_verbosity(quiet=quiet, verbose=verbose)
        return command(**values)

    vars(wrapper)["__signature__"] = Signature(parameters)
    wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapper


for panel, commands in PANELS.items():
    for each in commands:
        if isinstance(each, typer.Typer):
            for registered in each.registered_commands:
                assert registered.callback is not None
                registered.callback = _with_verbosity(registered.callback)
            app.add_typer(each, name=NAMES[each], rich_help_panel=panel)
        else:
            app.command(NAMES.get(each), rich_help_panel=panel)(_with_verbosity(each))
