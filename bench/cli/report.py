"""The command report: HTML pages of a results folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import Data, Json, Results, err, out, progress


def report(
    to: Annotated[Path, typer.Option("--out", help="The folder to write.")] = Path("report"),
    metric: Annotated[
        str,
        typer.Option(
            help="Score by which rows are sorted; further scores, after commas, are shown too."
        ),
    ] = "dice",
    dataset: Annotated[
        str | None, typer.Option(help="Only these data sets: A,B,...; names or folders.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Only these protocols: A,B,...")] = None,
    head: Annotated[str | None, typer.Option(help="Only these heads: A,B,...")] = None,
    data: Data = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write HTML pages: the leaderboard with figures, and one page per run.

    The pages load nothing from the network. Saved masks (`bench run --save-masks`) are drawn over
    the worst images.
    """
    from bench.board.select import only_folder
    from bench.cli.board import board_options
    from bench.report.collect import gather
    from bench.report.pages import refuse_foreign, write

    options = board_options(metric, (dataset, protocol, head), "backbone")
    refuse_foreign(to)
    gathered = gather(results, options)
    with progress(quiet=as_json) as report_progress:
        written = write(gathered, to, only_folder(dataset) or data, report_progress)
    for line in gathered.left_out:
        err.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps({"out": str(to), "pages": written.pages, "runs": written.runs}))
        return
    line = f"{written.pages} pages of {written.runs} runs. Open {written.index}"
    out.print(line, markup=False, highlight=False, soft_wrap=True)
