"""What stands before a command: how much is told; and what to do first, where there is none."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.console import out, tell

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
