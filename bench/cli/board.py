"""The commands on committed runs: leaderboard, compare, explain."""

from __future__ import annotations

import json
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
    from bench.board.compare import Contrast

WIDTH = 120  # columns of a board where the output is no terminal
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
Shots = Annotated[int | None, typer.Option(min=1, help="Only few-shot runs on so many images.")]
Vary = Annotated[
    str,
    typer.Option(
        help="What the compared runs may differ in, all else equal: backbone, head, protocol, or "
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
            help="Which board: `bench list leaderboards`.", autocompletion=completion.leaderboards
        ),
    ] = "ranking",
    metric: Annotated[
        str, typer.Option(help="What the rows are sorted by; more after commas are shown too.")
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
        typer.Option("--show-published", help="Print the paper's numbers below each group."),
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A line for each run and score.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Tables with booktabs.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Tables with pipes.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Also draw the board into this file.")] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Show every committed run, best first, a block for what may be compared.

    No score is ever averaged over blocks.
    """
    from bench import registry
    from bench.board.select import check_filters, read_all
    from bench.paper.printed_rows import printed_rows
    from bench.store.results import Store

    chosen = {"json": as_json, "csv": as_csv, "latex": as_latex, "markdown": as_markdown}
    form = _one_of(chosen)
    if svg is not None and svg.suffix.lower() != ".svg":
        raise BenchError(f"--svg {svg}: the picture is an SVG, so name a file that ends in .svg.")
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
        from bench.render.board_files import FORMATS

        print_file(FORMATS[form](blocks, printed))
    if svg is not None or not form:
        _show_board(blocks, printed, results, svg, quiet=bool(form))
    lines = [f"failed run: {each}" for each in failed]
    if older := _older(records, options):
        lines.append(
            f"{older} older run(s) stand behind later ones of the same request; "
            "`bench compare ID ID` and `bench export` reach them"
        )
    for line in lines + [f"left out: {each}" for each in (*damaged, *lacking)]:
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
    from bench.render.runs import as_json as told

    options = board_options(metric, (dataset, protocol, head), vary)
    found = _contrast((a, b), replace(options, shots=shots), results)
    if as_json:
        print(json.dumps(told(found, worst)))
        return
    _show_contrast(found, worst)


def explain(
    a: Run,
    b: Run,
    to: Annotated[Path, typer.Option("--out", help="The sheet of pictures: a PNG file.")],
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 6,
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
    """Draw the images on which two runs differ most, and where each run is right and wrong.

    Of runs that fit, those that kept their masks are taken: `bench run --save-masks`.
    """
    from bench.board.select import only_folder
    from bench.figures.masks import gather, sheet
    from bench.store.files import write_bytes

    options = board_options(metric, (dataset, protocol, head), vary)
    found = _contrast((a, b), replace(options, shots=shots), results, with_masks=True)
    panels = gather(found, images, results, only_folder(dataset) or data)
    write_bytes(to, sheet(found, panels))
    shown = [panel.image for panel in panels]
    if as_json:
        told = {"out": str(to), "images": shown, "a": found.a.run_id, "b": found.b.run_id}
        print(json.dumps(told))
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
    asked = [name for name, is_asked in chosen.items() if is_asked]
    if len(asked) > 1:
        raise BenchError(f"--{' and --'.join(asked)}: one board is printed in one form; take one.")
    return asked[0] if asked else ""


def _lacking(records: list[Record], blocks: list[Block], options: BoardOptions) -> list[str]:
    """Say which runs a board would show but for counts that they were made before."""
    from bench.board.select import is_shown, latest

    shown = {row.record.run_id for block in blocks for row in block.rows}
    asked = latest([each for each in records if is_shown(each, options)])
    names = ", ".join(dict.fromkeys([options.metric, *options.also]))
    return [
        f"run {each.run_id} holds no counts for one of {names}: it was made before. "
        "`bench run --force` makes it again"
        for each in asked
        if each.run_id not in shown
    ]


def _older(records: list[Record], options: BoardOptions) -> int:
    """Count the runs that others of the same request, repeated or of later code, have replaced."""
    from bench.board.select import is_shown, latest

    asked = [each for each in records if is_shown(each, options)]
    return len(asked) - len(latest(asked))


def _print_json(blocks: list[Block], printed: dict, left_out: dict[str, list[str]]) -> None:
    from bench.paper import printed_rows as paper_printed_rows
    from bench.render.boards import board_json

    told = board_json(blocks)
    for i, rows in printed.items():
        told[i]["printed"] = paper_printed_rows.as_json(rows)
    print(json.dumps({"blocks": told, **left_out}))


def _show_board(
    blocks: list[Block], printed: dict, results: Path, svg: Path | None, *, quiet: bool
) -> None:
    from bench.paper import printed_rows as paper_printed_rows
    from bench.render import boards, runs
    from bench.store.files import write_bytes

    shown = []
    for i, block in enumerate(blocks):
        shown.append(boards.board_table(block))
        if rows := printed.get(i):
            shown.append(boards.sheet_table(paper_printed_rows.sheet(rows)))
    shown += boards.board_notes(blocks)
    if svg is not None:
        write_bytes(svg, runs.drawn(shown).encode())
    empty = [f"no runs to show in {results} with these filters: `bench run` makes one."]
    if not quiet:
        show(*(shown or empty), width=WIDTH)


def _contrast(
    words: tuple[str, str], options: BoardOptions, results: Path, *, with_masks: bool = False
) -> Contrast:
    from bench.board.compare import choose, contrast
    from bench.board.select import read_all
    from bench.figures import saved_masks

    records, damaged = read_all(results)
    for each in damaged:
        err.print(f"left out: {each}", markup=False)
    own = saved_masks.with_masks(records, results) if with_masks else None
    a, b = choose(records, words, options, own)
    return contrast(a, b, options.metric, options.vary)


def _show_contrast(found: Contrast, worst: int) -> None:
    from bench.render import runs, terminal

    n_patients = len(set(found.a.patients.values()))
    title = (
        f"{_named(found.a)} minus {_named(found.b)}: {len(found.images)} images of "
        f"{n_patients} patients"
    )
    show(runs.difference_table(title, found.differences))
    rows = [
        {
            "image": each.image,
            "patient": each.patient,
            "A": runs.number(each.a),
            "B": runs.number(each.b),
            "difference": runs.number(each.difference),
        }
        for each in found.images[:worst]
    ]
    if rows:
        show(terminal.fields_table(f"where {found.metric} differs most", rows))
    show(*found.notes)


def _named(record: Record) -> str:
    from bench.board.scores import label

    return f"{label(record)} · {record.spec.head.name} head ({record.run_id})"
