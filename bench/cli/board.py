"""The commands leaderboard, compare and explain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import completion
from bench.cli.console import Ci, Data, Json, Resamples, Results, err, out, print_file, show
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api.board import Block, BoardOptions
    from bench.api.record import Record
    from bench.api.report import Table
    from bench.board.compare import Contrast
    from bench.paper.printed_rows import PrintedRow

    Printed = Mapping[int, Sequence[PrintedRow]]  # by the number of the group

Dataset = Annotated[
    str | None,
    typer.Option(
        help="Only these data sets: A,B,...; names or folders.",
        autocompletion=completion.datasets,
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(help="Only these protocols: A,B,...", autocompletion=completion.protocols),
]
Head = Annotated[
    str | None, typer.Option(help="Only these heads: A,B,...", autocompletion=completion.heads)
]
Shots = Annotated[
    int | None, typer.Option(min=1, help="Only few-shot runs with this number of images.")
]
Vary = Annotated[
    str,
    typer.Option(
        help="In what the compared runs may differ, all else equal: backbone, head, protocol, or "
        "several of them."
    ),
]
Run = Annotated[str, typer.Argument(help="A run's id, the start of one, or a backbone.")]
Worst = Annotated[int, typer.Option(min=0, help="Show the N images that differ most.")]
Metric = Annotated[str, typer.Option(help="The score by which images differ most.")]


def leaderboard(
    board: Annotated[
        str,
        typer.Option(
            help="Name of the board; see `bench list leaderboards`.",
            autocompletion=completion.leaderboards,
        ),
    ] = "ranking",
    metric: Annotated[
        str,
        typer.Option(
            help="Score by which rows are sorted; further scores, after commas, are shown too."
        ),
    ] = "dice",
    dataset: Dataset = None,
    protocol: Protocol = None,
    head: Head = None,
    vary: Vary = "backbone",
    reference: Annotated[
        str | None,
        typer.Option(help="Show each row's paired difference to this backbone's, by patient."),
    ] = None,
    ci: Ci = "expanded",
    resamples: Resamples = 10_000,
    show_published: Annotated[
        bool,
        typer.Option(
            "--show-published", help="Show the scores printed in the paper below each group."
        ),
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV: one row per run and score.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="LaTeX tables with booktabs.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Markdown tables.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Also write the board to this SVG file.")] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Show all runs in groups of comparable runs, best first.

    Scores are never averaged over groups.
    """
    from bench import registry
    from bench.board.select import check_filters, read_all
    from bench.paper.printed_rows import printed_rows
    from bench.store.results import Store

    form = _one_of({"json": as_json, "csv": as_csv, "latex": as_latex, "markdown": as_markdown})
    if svg is not None and svg.suffix.lower() != ".svg":
        raise BenchError(f"--svg {svg} is not an SVG file. Use a name that ends in .svg.")
    options = board_options(metric, (dataset, protocol, head), vary, ci, resamples)
    options = replace(options, reference=reference)
    records, damaged = read_all(results)
    check_filters(records, options)
    blocks = registry.get("leaderboards", board).rows(records, options)
    printed = {i: printed_rows(block) for i, block in enumerate(blocks)} if show_published else {}
    failed = Store(results).failures()
    lacking = _lacking(records, blocks, options)
    if form == "json":
        left_out = {"failed": failed, "damaged": [*map(str, damaged)], "lacking": lacking}
        _print_json(blocks, printed, left_out)
    elif form:
        print_file(_file_text(blocks, printed, form))
    if svg is not None or not form:
        _show_board(blocks, printed, results, svg, quiet=bool(form))
    lines = [f"failed run: {failure}" for failure in failed]
    if older := _older(records, options):
        lines.append(
            f"{older} run(s) were replaced by later runs of the same request; "
            "`bench compare ID ID` and `bench export` include them"
        )
    for line in lines + [f"left out: {reason}" for reason in (*damaged, *lacking)]:
        err.print(line, markup=False)
    if damaged:
        raise typer.Exit(1)


def compare(
    a: Run,
    b: Run,
    metric: Metric = "dice",
    worst: Worst = 10,
    dataset: Dataset = None,
    protocol: Protocol = None,
    head: Head = None,
    shots: Shots = None,
    vary: Vary = "backbone",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Compare two runs on the same images: paired differences, and where they differ most."""
    from bench.render.json import comparison_json
    from bench.render.runs import comparison_tables

    options = board_options(metric, (dataset, protocol, head), vary)
    comparison = _contrast((a, b), replace(options, shots=shots), results)
    if as_json:
        print(json.dumps(comparison_json(comparison, worst)))
        return
    show(*comparison_tables(comparison, worst), *comparison.notes)


def explain(
    a: Run,
    b: Run,
    to: Annotated[Path, typer.Option("--out", help="The PNG file to write.")],
    images: Annotated[int, typer.Option(min=1, help="Number of images.")] = 6,
    metric: Metric = "dice",
    dataset: Dataset = None,
    protocol: Protocol = None,
    head: Head = None,
    shots: Shots = None,
    vary: Vary = "backbone",
    data: Data = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Draw the images on which two runs differ most, with the errors of each run.

    Both runs need saved masks: `bench run --save-masks`.
    """
    from bench.board.select import only_folder
    from bench.figures.masks import gather, sheet
    from bench.store.files import write_bytes

    options = board_options(metric, (dataset, protocol, head), vary)
    comparison = _contrast((a, b), replace(options, shots=shots), results, with_masks=True)
    panels = gather(comparison, images, results, only_folder(dataset) or data)
    write_bytes(to, sheet(comparison, panels))
    shown = [panel.image for panel in panels]
    if as_json:
        run_ids = {"a": comparison.a.run_id, "b": comparison.b.run_id}
        print(json.dumps({"out": str(to), "images": shown, **run_ids}))
        return
    out.print(f"{len(shown)} images in {to}: {', '.join(shown)}", markup=False, highlight=False)


def board_options(
    metric: str,
    names: tuple[str | None, str | None, str | None],
    vary: str,
    ci: str = "expanded",
    resamples: int = 10_000,
) -> BoardOptions:
    from bench.api.board import HEADLINE, BoardOptions
    from bench.board.comparable import check_vary
    from bench.board.scores import check
    from bench.board.select import data_sets, listed

    first, *others = listed(metric) or ("",)
    dataset, protocol, head = names
    options = BoardOptions(
        metric=first,
        dataset=data_sets(dataset),
        protocol=listed(protocol),
        head=listed(head),
        ci=ci,
        resamples=resamples,
        also=tuple(others) or HEADLINE,
        vary=listed(vary),
    )
    check(options)
    check_vary(options.vary)
    return options


def _one_of(chosen: dict[str, bool]) -> str:
    names = [name for name, is_chosen in chosen.items() if is_chosen]
    if len(names) > 1:
        raise BenchError(f"--{' and --'.join(names)}: a board has one output format. Choose one.")
    return names[0] if names else ""


def _lacking(records: list[Record], blocks: list[Block], options: BoardOptions) -> list[str]:
    """Return messages on the runs that a board leaves out for lack of counts."""
    from bench.board.select import is_shown, latest

    shown = {row.record.run_id for block in blocks for row in block.rows}
    names = ", ".join(dict.fromkeys([options.metric, *options.also]))
    return [
        f"run {record.run_id} is older than one of the metrics {names} and has no counts for it. "
        "Run it again with `bench run --force`"
        for record in latest([record for record in records if is_shown(record, options)])
        if record.run_id not in shown
    ]


def _older(records: list[Record], options: BoardOptions) -> int:
    """Count the runs that were replaced by a repetition or by a run of newer code."""
    from bench.board.select import is_shown, latest

    selected = [record for record in records if is_shown(record, options)]
    return len(selected) - len(latest(selected))


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
    blocks: list[Block], printed: Printed, results: Path, svg: Path | None, *, quiet: bool
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
    if svg is not None:
        write_bytes(svg, terminal.svg(page, "bench leaderboard").encode())
    if not quiet:
        empty = f"no runs to show in {results} with these filters: `bench run` creates one."
        show(*(page or [empty]), width=terminal.WIDTH)


def _contrast(
    words: tuple[str, str], options: BoardOptions, results: Path, *, with_masks: bool = False
) -> Contrast:
    from bench.board.compare import choose, contrast
    from bench.board.select import read_all
    from bench.figures import saved_masks

    records, damaged = read_all(results)
    for error in damaged:
        err.print(f"left out: {error}", markup=False)
    candidates = saved_masks.with_masks(records, results) if with_masks else None
    a, b = choose(records, words, options, candidates)
    return contrast(a, b, options.metric, options.vary)
