"""Render the pages of a report: deterministic, and without external resources."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench import __version__
from bench.api import Progress
from bench.api.board import Block, Row
from bench.api.record import SCHEMA, Record
from bench.api.report import Cell
from bench.board import scores
from bench.board.blocks import rank_intervals
from bench.errors import BenchError
from bench.render.boards import board_notes, difference_cells, input_text, is_bold, size_of
from bench.render.runs import named
from bench.report import figures, privacy, run_view
from bench.report.collect import Gathered
from bench.report.cost import cost
from bench.store.files import write_bytes

MOST_DRAWN = 24  # groups with figures; the figures of one take about half a second
MOST_NAMED = 4  # listed rows that are tied with the best
OPEN = 3  # groups with unfolded figures
MANY_RUNS = 400  # with more runs, their pages show only the scores of the board, which are cached
SORTED_RUNS = 60  # with more runs, tables on their pages are static: sorting takes 0.6 MB a page
MARK = b'<meta name="generator" content="cmd-bench">'
LABELS = {"dataset": "data set", "protocol": "protocol", "head": "head", "recipe": "recipe"}


@dataclass(frozen=True)
class BlockView:
    """A comparison group on the index page."""

    block: Block
    dataset: str
    protocol: str
    head: str
    recipe: str
    figures: Sequence[figures.Shown]

    @property
    def names(self) -> list[str]:
        """The shown metrics."""
        return list(self.block.rows[0].scores)

    @property
    def images(self) -> str:
        """The number of scored images and patients."""
        return size_of(self.block)

    @property
    def top(self) -> str:
        """The best backbone and those tied with it, abbreviated; a dash if none is worse."""
        top = [row.backbone for row in self.block.rows if is_bold(row, self.block)]
        names = ", ".join(top[:MOST_NAMED]) or "–"
        more = len(top) - MOST_NAMED
        return f"{names} and {more} more" if more > 0 else names

    @property
    def notes(self) -> list[str]:
        """Remarks on the group."""
        missing = [f"not run: {', '.join(self.block.missing)}"] if self.block.missing else []
        return [*self.block.notes, *missing]


@dataclass(frozen=True)
class Written:
    """The written files of a report."""

    index: Path
    pages: int
    runs: int


def write(gathered: Gathered, to: Path, data: Path | None, progress: Progress) -> Written:
    """Write `index.html` and `runs/<id>.html`; other files in the folder are left unchanged.

    Raises:
        BenchError: `index.html` exists and is not a report, or the folder is not writable.
    """
    refuse_foreign(to)
    template = environment()
    records = gathered.records
    pages = _run_pages(template, gathered, data)
    for number, (run_id, page) in enumerate(pages):
        progress("pages", number, len(records))
        write_bytes(to / "runs" / f"{run_id}.html", page.encode())
    progress("pages", len(records), len(records))
    index = index_page(template, gathered, progress)
    write_bytes(to / "index.html", index.encode())  # last, so that its links are valid
    return Written(to / "index.html", len(records) + 1, len(records))


def refuse_foreign(to: Path) -> None:
    """Raise a BenchError if `index.html` exists and was not written by a report."""
    index = to / "index.html"
    if to.exists() and not to.is_dir():
        raise BenchError(f"{to} is a file; --out requires a folder.")
    if index.exists() and MARK not in index.read_bytes()[:20_000]:
        raise BenchError(
            f"{index} was not written by `bench report`. Choose another folder with --out."
        )


def environment() -> Environment:
    """Return the template environment, with autoescaping."""
    env = Environment(
        loader=PackageLoader("bench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=privacy.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "number": lambda value: str(Cell(value)),
        "interval": lambda score: Cell.of_score(score).interval,
        "named": named,
        "plain": privacy.plain,
        "best": lambda name: "lowest" if scores.lower_is_better(name) else "highest",
        "input": input_text,
        "differences": difference_cells,
        "px": lambda row: row.record.spec.view.px,
        "searched": lambda row: privacy.without_folders(
            " ".join([row.backbone, *row.flags]).lower()
        ),
    }
    assert env.loader is not None
    style, script, sorting = (
        env.loader.get_source(env, file)[0] for file in ("report.css", "page.js", "tables.js")
    )
    for name, source in (("style", style), ("script", script), ("sorter", sorter_module(sorting))):
        env.globals[name] = Markup(source)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        env.globals[f"{name}_hash"] = f"sha256-{digest}"
    env.globals |= {"version": __version__, "schema": SCHEMA}
    return env


def index_page(template: Environment, gathered: Gathered, progress: Progress) -> str:
    """Render the index page."""
    blocks = gathered.blocks
    views = []
    for number, block in enumerate(blocks):
        progress("figures", number, len(blocks))
        views.append(_block_view(block, drawn=number < MOST_DRAWN))
    progress("figures", len(blocks), len(blocks))
    choices = {
        name: sorted({privacy.without_folders(getattr(view, name)) for view in views})
        for name in LABELS
    }
    sections = []
    for section in gathered.sections:
        curves = [figures.curve(plot) for plot in section.report.curves]
        intervals = [figures.interval_plot(plot) for plot in section.report.intervals]
        sections.append((section, [*curves, *intervals]))
    metrics_versions = {str(record.spec.metrics_version) for record in gathered.records}
    return template.get_template("index.html").render(
        sorts=True,
        runs=len(gathered.records),
        rows=sum(len(block.rows) for block in blocks),
        bold=is_bold,
        metric=gathered.options.metric,
        blocks=views,
        choices=choices,
        labels=LABELS,
        linked=frozenset(gathered.hashes),
        open=OPEN,
        drawn=min(len(blocks), MOST_DRAWN),
        undrawn=max(0, len(blocks) - MOST_DRAWN),
        legend=board_notes(blocks),
        sections=sections,
        left_out=gathered.left_out,
        metrics_version=", ".join(sorted(metrics_versions)),
        versions=gathered.versions,
        digest=gathered.digest,
        hashes=gathered.hashes,
    )


def _run_pages(
    template: Environment, gathered: Gathered, data: Path | None
) -> Iterator[tuple[str, str]]:
    page = template.get_template("run.html")
    all_scores = len(gathered.records) <= MANY_RUNS
    for block in gathered.blocks:
        ranks = rank_intervals(block, gathered.options)
        for number, row in enumerate(block.rows):
            shared = {"block": block, "rank": ranks and ranks[number], "images": size_of(block)}
            for run in row.runs:
                contents = run_view.context(
                    _one(row, run, gathered), gathered, data, every=all_scores
                )
                yield (
                    run.run_id,
                    page.render(
                        hash=gathered.hashes[run.run_id],
                        metrics_version=run.spec.metrics_version,
                        fewer=not all_scores,
                        sorts=len(gathered.records) <= SORTED_RUNS,
                        **shared,
                        **contents,
                    ),
                )


def _one(row: Row, run: Record, gathered: Gathered) -> Row:
    """Return the row of one run, of a row that combines several seeds."""
    if run is row.record:
        return row
    own = scores.scores(run, list(row.scores), gathered.options)
    return replace(row, record=run, backbone=scores.label(run), scores=own)


def _block_view(block: Block, *, drawn: bool) -> BlockView:
    record = block.rows[0].record
    shown = (figures.forest(block), cost(block)) if drawn else ()
    return BlockView(
        block=block,
        dataset=scores.dataset_name(record),
        protocol=record.spec.protocol.name,
        head=block.rows[0].head,
        recipe=scores.recipe(record),
        figures=[figure for figure in shown if figure is not None],
    )


def sorter_module(source: str) -> str:
    """Return an inline module that embeds DataTables, from itables, and then runs `source`.

    Raises:
        RuntimeError: the installed bundle does not export DataTables.
    """
    bundle = (files("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    export = re.search(r"export\{[^}]*?([\w$]+) as default\b[^}]*\}", bundle)
    if export is None:
        raise RuntimeError(
            "the bundle of itables does not export DataTables. Install a supported version: "
            "pip install 'itables>=2.9'"
        )
    module = f"{bundle}\n{{\nconst DataTable = {export[1]};\n{source}}}\n"
    # HTML would parse these two sequences as markup; the escapes have no effect in JavaScript.
    return module.replace("<!--", r"<\!--").replace("</script", r"<\/script")
