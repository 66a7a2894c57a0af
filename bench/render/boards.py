"""Turn the blocks of a board into rich tables and plain JSON; nothing here prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD, Box
from rich.markup import escape
from rich.table import Table

from bench.api.board import Block, Row, Score, Standing
from bench.api.record import Record
from bench.board.scores import recipe
from bench.render.markup import Cell, Sheet
from bench.render.runs import differences_json, interval, named, number
from bench.render.terminal import Sparing

HEAD_AND_SECTIONS = Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")


def board_table(block: Block) -> Table:
    """Show one block of a board: the top tier bold, chance below a rule, the verdict at the end."""
    names = list(block.rows[0].scores)
    table = _board_frame(block, names)
    for row in block.rows:
        table.add_row(
            *standing_words(row.standing),
            escape(row.backbone),
            *([escape(row.protocol)] if block.rows[0].protocol else []),
            head_words(row),
            input_words(row.record),
            escape(with_spread(row.scores[names[0]])),
            *([escape(_minus_reference(row))] if block.reference_asked else []),
            *(escape(with_interval(row.scores[name])) for name in names[1:]),
            escape(", ".join(row.flags)),
            style="bold" if row.standing and row.standing.top else None,
            end_section=row is block.rows[-1],
        )
    for chance in block.chance:
        first, *others = (number(chance.means[name]) for name in names)
        own = [first, *([""] if block.reference_asked else []), *others]
        gap = ["", ""] if block.rows[0].protocol else [""]
        table.add_row("", "", escape(chance.answer), *gap, "", *own, "", style="dim")
    return table


def _board_frame(block: Block, names: Sequence[str]) -> Table:
    first = block.rows[0].scores[names[0]].summary
    images = f"{first.n_images} images of {first.n_patients} patients"
    said = [*([block.verdict.sentence] if block.verdict else []), *block.notes]
    said += [f"not run: {', '.join(block.missing)}"] if block.missing else []
    table = Sparing(
        title=escape(f"{block.title}: {images}"),
        caption=escape("\n".join(said)),
        box=HEAD_AND_SECTIONS,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("tier", overflow="fold")
    table.add_column("rank", no_wrap=True)
    table.add_column("backbone", overflow="fold")
    if block.rows[0].protocol:
        table.add_column("protocol", overflow="fold")
    table.add_column("head (weights)")
    table.add_column("input", justify="right")
    shown = [named(name) for name in names]
    if block.reference_asked:
        shown.insert(1, f"minus {block.reference}")
    for column in (*shown, "flags"):
        table.add_column(escape(column), overflow="fold")
    table.spare = ["input", *(named(name) for name in names[:0:-1]), "head (weights)"]
    return table


def board_notes(blocks: Sequence[Block]) -> list[str]:
    """Say once what the marks on the boards mean."""
    scores = [score for block in blocks for row in block.rows for score in row.scores.values()]
    notes = {score.summary.interval.note for score in scores} - {""}
    marks = [note if note.startswith("no interval") else f"? {note}" for note in sorted(notes)]
    marks += [f"intervals: {kind}" for kind in sorted({s.summary.interval.method for s in scores})]
    if any(score.summary.spread is not None for score in scores):
        marks.append("± standard deviation of the mean over draws of the support set")
    standings = [row.standing for block in blocks for row in block.rows if row.standing]
    if any(each.tier for each in standings):
        marks.append(
            "tier: rows of a block that share a letter are not separable (sign flips of the paired "
            "differences of patients, Holm over all pairs, 5 %); bold: the best row and those not "
            "separable from it"
        )
    if not all(each.tier for each in standings):
        marks.append("tier –: no pair of the block is separable; no letters, and nothing is bold")
    if standings:
        marks.append("rank: by the mean, and its 95 % interval over resamples of patients")
    return marks


def board_json(blocks: Sequence[Block]) -> list[dict]:
    """Give a board for machines."""
    return [
        {
            "title": block.title,
            "key": block.key,
            "rows": [
                {
                    "run_id": row.record.run_id,
                    "backbone": row.backbone,
                    "head": row.head,
                    "protocol": row.record.spec.subset("protocol")["protocol"],
                    "head_parameters": row.record.facts["head_parameters"],
                    "recipe": asdict(row.record.spec.recipe),
                    "precision": row.record.spec.precision,
                    "view": asdict(row.record.spec.view),
                    "flags": list(row.flags),
                    "scores": {name: score.plain() for name, score in row.scores.items()},
                    **_standing_json(row.standing),
                }
                for row in block.rows
            ],
            "chance": [{"answer": each.answer, "scores": each.means} for each in block.chance],
            "reference": block.reference,
            "verdict": block.verdict and asdict(block.verdict),
            "notes": list(block.notes),
            "not_run": list(block.missing),
        }
        for block in blocks
    ]


def with_interval(score: Score) -> str:
    """Write a mean and below it its interval in one cell."""
    return f"{number(score.summary.mean)}\n{interval(score)}"


def with_spread(score: Score) -> str:
    """Write a mean with, for few-shot, its spread over draws, and below it its interval."""
    spread = score.summary.spread
    own = "" if spread is None else f" ± {number(spread)}"
    return f"{number(score.summary.mean)}{own}\n{interval(score)}"


def standing_words(standing: Standing | None) -> tuple[str, str]:
    """Write the tier, a dash where nothing is separable, and the rank with its interval."""
    if standing is None:
        return "", ""
    rank = f"{'=' if standing.tied else ''}{standing.rank}"
    low, high = standing.rank_low, standing.rank_high
    return standing.tier or "–", rank if low is None else f"{rank} ({low}–{high})"


def _minus_reference(row: Row) -> str:
    """Write the difference to the reference and below it its interval."""
    minus = row.standing and row.standing.difference
    if not minus:
        return "–"
    bounds = minus.interval
    shown = "" if bounds.low is None else f"\n[{number(bounds.low)}, {number(bounds.high)}]"
    return number(minus.mean) + shown


def _standing_json(standing: Standing | None) -> dict[str, object]:
    if standing is None:
        return {}
    told = {name: value for name, value in vars(standing).items() if name != "difference"}
    minus = standing.difference
    return told | {"minus_reference": minus and differences_json({"": minus})[""]}


def head_words(row: Row) -> str:
    """Name the head with its size, and what of the training is unusual."""
    unusual = recipe(row.record)
    return f"{row.head} ({row.record.facts['head_parameters']:,})" + (unusual and f", {unusual}")


def input_words(record: Record) -> str:
    """Tell the side of the input, and the view where images are not resized whole."""
    view = record.spec.view
    return str(view.px) if view.kind == "whole" else f"{view.kind} {view.px}"


def sheet_table(sheet: Sheet) -> Table:
    """Show a sheet, such as printed numbers, on the terminal."""
    table = Table(
        title=escape(sheet.title),
        caption=escape("\n".join(sheet.notes)),
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for column in sheet.columns:
        table.add_column(escape(column), overflow="fold")
    for row in sheet.rows:
        table.add_row(*(escape(_cell_words(cell)) for cell in row))
    return table


def _cell_words(cell: Cell) -> str:
    if cell.value is None:
        return cell.words
    bounds = "" if cell.low is None else f" [{number(cell.low)}, {number(cell.high)}]"
    parts = f" {{{', '.join(map(number, cell.parts))}}}" if cell.parts else ""
    return f"{number(cell.value)}{bounds or parts}" + (cell.mark and f" {cell.mark}")
