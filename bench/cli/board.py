"""The commands leaderboard, compare and explain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.board.config import CompareConfig, ExplainConfig, LeaderboardConfig
from bench.cli.console import Json, err, out, print_file, show
from bench.cli.options import options_of
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api.board import Block, BoardOptions
    from bench.api.record import Record
    from bench.api.report import Table
    from bench.paper.printed_rows import PrintedRow

    Printed = Mapping[int, Sequence[PrintedRow]]  # by the number of the group

Run = Annotated[
    str, typer.Argument(help="The id of a run, a prefix of one, or the name of a backbone.")
]


@options_of(LeaderboardConfig)
def leaderboard(config: LeaderboardConfig, as_json: Json = False) -> None:
    """Show all runs in groups of comparable runs, best first.

    Scores are never averaged over groups.
    """
    from bench import registry
    from bench.board.select import check_filters, is_shown, latest, read_all
    from bench.paper.printed_rows import printed_rows
    from bench.store.results import Store

    form = _output_format(config, as_json)
    options = config.board_options()
    records, damaged = read_all(config.results)
    check_filters(records, options)
    blocks = registry.get("leaderboards", config.board).rows(records, options)
    printed = {}
    if config.show_published:
        printed = {i: printed_rows(block) for i, block in enumerate(blocks)}
    failed = Store(config.results).failures()
    selected = [record for record in records if is_shown(record, options)]
    newest = latest(selected)
    lacking = _lacking(newest, blocks, options)
    if form == "json":
        left_out = {"failed": failed, "damaged": [*map(str, damaged)], "lacking": lacking}
        _print_json(blocks, printed, left_out)
    elif form:
        print_file(_file_text(blocks, printed, form))
    if config.svg is not None or not form:
        _show_board(blocks, printed, config, quiet=bool(form))
    lines = [f"failed run: {failure}" for failure in failed]
    if len(newest) < len(selected):
        lines.append(
            f"{len(selected) - len(newest)} run(s) were replaced by later runs of the same "
            "request; `bench compare ID ID` and `bench export` include them"
        )
    for line in lines + [f"left out: {reason}" for reason in (*damaged, *lacking)]:
        err.print(line, markup=False)
    if damaged:
        raise typer.Exit(1)


@options_of(CompareConfig)
def compare(a: Run, b: Run, config: CompareConfig, as_json: Json = False) -> None:
    """Compare two runs on the same images: paired differences, and where they differ most."""
    from bench.board.compare import contrast
    from bench.render.json import comparison_json
    from bench.render.runs import comparison_tables

    options = config.board_options()
    runs = _choose_pair((a, b), options, config.results)
    comparison = contrast(*runs, options.metric, options.vary)
    if as_json:
        print(json.dumps(comparison_json(comparison, config.worst)))
        return
    show(*comparison_tables(comparison, config.worst), *comparison.notes)


@options_of(ExplainConfig)
def explain(a: Run, b: Run, config: ExplainConfig, as_json: Json = False) -> None:
    """Draw the images on which two runs differ most, with the errors of each run.

    Both runs need saved masks: `bench run --save-masks`.
    """
    from bench.board.scores import label
    from bench.board.select import only_folder
    from bench.figures.canvas import Canvas
    from bench.figures.masks import Selection, draw, select

    canvas = Canvas(config.out, width=10.4, dpi=110)
    options = config.board_options()
    runs = _choose_pair((a, b), options, config.results, with_masks=True)
    selection = Selection(count=config.images, boxes=0, score=options.metric)
    rows = select(runs, selection, config.results, only_folder(config.dataset) or config.data)
    names = [f"{name} {run.run_id}: {label(run)}" for name, run in zip("AB", runs, strict=True)]
    draw(runs, rows, canvas, score=options.metric, names=names)
    shown = [row.image for row in rows]
    if as_json:
        run_ids = {name: run.run_id for name, run in zip("ab", runs, strict=True)}
        print(json.dumps({"out": str(config.out), "images": shown, **run_ids}))
        return
    line = f"{len(shown)} images in {config.out}: {', '.join(shown)}"
    out.print(line, markup=False, highlight=False)


def _output_format(config: LeaderboardConfig, as_json: bool) -> str:
    """Return the format of standard output: "json", "csv", "latex", "markdown", or "" for text."""
    flags = {"json": as_json, "csv": config.csv, "latex": config.latex, "markdown": config.markdown}
    names = [name for name, is_set in flags.items() if is_set]
    if len(names) > 1:
        raise BenchError(
            f"--{' and --'.join(names)}: a leaderboard has one output format. Choose one."
        )
    return names[0] if names else ""


def _lacking(records: list[Record], blocks: list[Block], options: BoardOptions) -> list[str]:
    """Return messages on the runs that a leaderboard leaves out for lack of counts."""
    shown = {run.run_id for block in blocks for row in block.rows for run in row.runs}
    names = ", ".join(dict.fromkeys([options.metric, *options.also]))
    return [
        f"run {record.run_id} is older than one of the metrics {names} and has no counts for it. "
        "Run it again with `bench run --force`"
        for record in records
        if record.run_id not in shown
    ]


def _print_json(blocks: list[Block], printed: Printed, left_out: dict[str, list[str]]) -> None:
    from bench.paper import printed_rows
    from bench.render.json import groups_json

    groups = groups_json(blocks)
    for i, rows in printed.items():
        groups[i]["printed"] = printed_rows.as_json(rows)
    print(json.dumps({"groups": groups, **left_out}))


def _file_text(blocks: list[Block], printed: Printed, form: str) -> str:
    """Format a board as CSV, LaTeX or Markdown."""
    from bench.paper.printed_rows import csv_rows, printed_table
    from bench.render.boards import file_table
    from bench.render.csv import block_rows, csv_text
    from bench.render.latex import latex
    from bench.render.markdown import markdown

    if form == "csv":
        lines = []
        for i, block in enumerate(blocks):
            lines += [*block_rows(block), *csv_rows(block, printed.get(i, ()))]
        return csv_text(lines)
    tables = []
    for i, block in enumerate(blocks):
        tables.append(file_table(block))
        if printed.get(i):
            tables.append(printed_table(printed[i]))
    return latex(tables) if form == "latex" else markdown(tables)


def _show_board(
    blocks: list[Block], printed: Printed, config: LeaderboardConfig, *, quiet: bool
) -> None:
    from bench.paper.printed_rows import printed_table
    from bench.render import terminal
    from bench.render.boards import board_notes, board_table
    from bench.store.files import write_bytes

    page: list[Table | str] = []
    for i, block in enumerate(blocks):
        page.append(board_table(block))
        if printed.get(i):
            page.append(printed_table(printed[i]))
    page += board_notes(blocks)
    if config.svg is not None:
        write_bytes(config.svg, terminal.svg(page, "bench leaderboard").encode())
    if not quiet:
        empty = f"no runs to show in {config.results} with these filters: `bench run` creates one."
        show(*(page or [empty]), width=terminal.WIDTH)


def _choose_pair(
    words: tuple[str, str], options: BoardOptions, results: Path, *, with_masks: bool = False
) -> tuple[Record, Record]:
    from bench.board.compare import choose
    from bench.board.select import read_all
    from bench.figures import saved_masks

    records, damaged = read_all(results)
    for error in damaged:
        err.print(f"left out: {error}", markup=False)
    candidates = saved_masks.with_masks(records, results) if with_masks else None
    return choose(records, words, options, candidates)
