"""Write the pages of a report: the same store gives the same bytes, and no byte comes from afar."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench import __version__, board, display
from bench.api import Progress
from bench.board import Block, part
from bench.display_board import board_notes, input_words, standing_words
from bench.errors import BenchError
from bench.record import SCHEMA
from bench.report import figures, run_view, tables, words
from bench.report.cost import cost
from bench.report.gathering import Gathered, Story
from bench.sheet import Sheet
from bench.store import write_bytes

MOST_DRAWN = 24  # blocks with figures: one takes about half a second
MOST_NAMED = 4  # rows of a top tier
OPEN = 3  # blocks whose figures are unfolded
MANY_RUNS = 400  # beyond, a page of a run shows the scores of the board alone: they are made
SORTED_RUNS = 60  # beyond, tables on pages of runs do not sort: each would carry 0.6 MB for it
MARK = b'<meta name="generator" content="cmd-bench">'
LABELS = {"dataset": "data set", "protocol": "protocol", "head": "head"}


@dataclass(frozen=True)
class BlockView:
    """A block as the index shows it."""

    block: Block
    dataset: str
    protocol: str
    head: str
    figures: Sequence[figures.Shown]

    @property
    def names(self) -> list[str]:
        """The scores that are shown."""
        return list(self.block.rows[0].scores)

    @property
    def images(self) -> str:
        """How many images were scored."""
        return counted(self.block)

    @property
    def top(self) -> str:
        """The rows of the top tier; their number where there are many, a dash where none is."""
        own = [row.backbone for row in self.block.rows if row.standing and row.standing.top]
        more = len(own) - MOST_NAMED
        return ", ".join(own[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "") or "–"

    @property
    def settings(self) -> bool:
        """Whether any row was trained otherwise than usual."""
        return any(board.recipe(row.record) for row in self.block.rows)

    @property
    def notes(self) -> list[str]:
        """What must be known of the block."""
        lacking = [f"not run: {', '.join(self.block.missing)}"] if self.block.missing else []
        return [*self.block.notes, *lacking]


@dataclass(frozen=True)
class StoryView:
    """What several runs say together, as the index shows it."""

    name: str
    title: str
    figures: Sequence[figures.Shown]
    lines: Sequence[str]
    sheets: Sequence[Sheet]


@dataclass(frozen=True)
class Written:
    """What a report wrote."""

    index: Path
    pages: int
    runs: int


def write(gathered: Gathered, to: Path, data: Path | None, progress: Progress) -> Written:
    """Write `index.html` and `runs/<id>.html`; other files in the folder stay as they are.

    Raises:
        BenchError: a page of another origin stands in the way, or the folder cannot be written.
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
    write_bytes(to / "index.html", index.encode())  # last: what it links to is there
    return Written(to / "index.html", len(records) + 1, len(records))


def refuse_foreign(to: Path) -> None:
    """Refuse to replace an index.html that no report wrote."""
    index = to / "index.html"
    if to.exists() and not to.is_dir():
        raise BenchError(f"{to} is a file; --out takes a folder.")
    if index.exists() and MARK not in index.read_bytes()[:20_000]:
        raise BenchError(
            f"{index} is no page of a report, so it is not replaced. Give another folder by --out."
        )


def environment() -> Environment:
    """Open the templates, everything escaped."""
    found = Environment(
        loader=PackageLoader("bench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=words.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "number": display.number,
        "interval": display.interval,
        "named": display.named,
        "plain": words.plain,
        "recipe": board.recipe,
        "best": lambda name: "lowest" if board.lower_is_better(name) else "highest",
        "input": input_words,
        "tier": lambda row: standing_words(row.standing)[0],
        "rank": lambda row: standing_words(row.standing)[1],
        "px": lambda row: part(row.record, "view")["px"],
        "searched": lambda row: words.without_folders(" ".join([row.backbone, *row.flags]).lower()),
    }
    assert found.loader is not None
    style, script, sorting = (
        found.loader.get_source(found, file)[0] for file in ("report.css", "page.js", "tables.js")
    )
    for name, source in (("style", style), ("script", script), ("sorter", tables.script(sorting))):
        found.globals[name] = Markup(source)
        found.globals[f"{name}_hash"] = _policy_hash(source)
    found.globals |= {"version": __version__, "schema": SCHEMA}
    return found


def index_page(template: Environment, gathered: Gathered, progress: Progress) -> str:
    """Render the page of all runs."""
    blocks = gathered.blocks
    views = []
    for number, block in enumerate(blocks):
        progress("figures", number, len(blocks))
        views.append(_block_view(block, drawn=number < MOST_DRAWN))
    progress("figures", len(blocks), len(blocks))
    choices = {
        name: sorted({words.without_folders(getattr(view, name)) for view in views})
        for name in LABELS
    }
    return template.get_template("index.html").render(
        sorts=True,
        runs=len(gathered.records),
        metric=gathered.options.metric,
        blocks=views,
        choices=choices,
        labels=LABELS,
        linked=frozenset(gathered.hashes),
        open=OPEN,
        drawn=min(len(blocks), MOST_DRAWN),
        undrawn=max(0, len(blocks) - MOST_DRAWN),
        legend=board_notes(blocks),
        stories=[_story_view(each) for each in gathered.stories],
        left_out=[*gathered.left_out, *gathered.untold],
        metrics_version=_metrics_versions(gathered),
        versions=gathered.versions,
        digest=gathered.digest,
        hashes=gathered.hashes,
    )


def counted(block: Block) -> str:
    """Tell on how many images and patients a block was scored."""
    first = next(iter(block.rows[0].scores.values())).summary
    return f"{first.n_images} images of {first.n_patients} patients"


def _run_pages(
    template: Environment, gathered: Gathered, data: Path | None
) -> Iterator[tuple[str, str]]:
    page = template.get_template("run.html")
    few = len(gathered.records) <= MANY_RUNS
    for block in gathered.blocks:
        for row in block.rows:
            yield (
                row.record.run_id,
                page.render(
                    block=block,
                    row=row,
                    images=counted(block),
                    hash=gathered.hashes[row.record.run_id],
                    metrics_version=row.record.spec["metrics_version"],
                    fewer=not few,
                    sorts=len(gathered.records) <= SORTED_RUNS,
                    **run_view.context(row, gathered, data, every=few),
                ),
            )


def _block_view(block: Block, *, drawn: bool) -> BlockView:
    record = block.rows[0].record
    return BlockView(
        block=block,
        dataset=board.dataset_name(record),
        protocol=str(part(record, "protocol")["name"]),
        head=block.rows[0].head,
        figures=_figures(block) if drawn else (),
    )


def _figures(block: Block) -> list[figures.Shown]:
    return [each for each in (figures.forest(block), cost(block)) if each is not None]


def _story_view(story: Story) -> StoryView:
    told = story.told
    drawn = [*map(figures.curve, told.pictures), *map(figures.dotted, told.dots)]
    return StoryView(story.name, story.title, drawn, told.lines, told.sheets)


def _metrics_versions(gathered: Gathered) -> str:
    return ", ".join(sorted({str(each.spec["metrics_version"]) for each in gathered.records}))


def _policy_hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
