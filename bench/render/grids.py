"""What several runs gave, for people and for machines: a row a run, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from bench.api import Series
from bench.api.board import BoardOptions, Summary
from bench.api.config import Grid, RunConfig
from bench.api.record import Record
from bench.api.report import Finished, Result, Sheet, Told, several
from bench.board import scores
from bench.board import scores as board_scores
from bench.board.select import read_all
from bench.errors import BenchError
from bench.render import runs as render_runs
from bench.render.tables import bracketed, decimals, p_value, rich_table
from bench.runs.grid import (
    ExpandedGrid,
    protocol_name,
    recipe_words,
    varied_recipe,
    without_duplicates,
)
from bench.stats.bootstrap import shared_seed, summarise
from bench.store.results import Store

WIDTH = 120  # columns of a page that is no terminal


def stories(
    grid: Grid,
    expansion: ExpandedGrid,
    results: Sequence[Result],
    store: Store,
    asked: BoardOptions,
) -> dict[str, Told]:
    """Let each protocol and series that can tell of its runs, by its name."""
    tellers = [each for each in expansion.stories if each.teller.tell is not None]
    stored = read_all(store.root)[0] if tellers else []
    told = {}
    recipe = varied_recipe(expansion.cells)
    for story in tellers:
        assert story.teller.tell is not None
        by_recipe: dict[str, list[Result]] = {}
        for result in results:
            if result.request in story.cells:
                name = ", ".join([story.teller.name, *recipe_words(result.request, recipe)])
                by_recipe.setdefault(name, []).append(result)
        for name, own in by_recipe.items():
            told[name] = story.teller.tell(Finished(own, stored, grid.series, asked))
    over_seeds = spread_over_seeds(results, asked)
    return told if over_seeds is None else told | {"seeds": over_seeds}


def with_twins(cells: Sequence[RunConfig]) -> list[RunConfig]:
    """Put before each cell with test-time training the same without, to be compared with."""
    pairs = [[cell.without_ttt(), cell] if cell.ttt else [cell] for cell in cells]
    return without_duplicates([cell for pair in pairs for cell in pair])


def shown(
    results: Sequence[Result], told: Mapping[str, Told], asked: BoardOptions, store: Store
) -> list[Table | str]:
    """Give the tables and lines of a page."""
    sheets = [sheet(results, asked), *_adapted(results, asked)]
    sheets += [each for own in told.values() for each in own.sheets]
    below = [line for own in told.values() for line in own.lines]
    return [*map(rich_table, sheets), *below, *lines(results, asked, store)]


def sheet(results: Sequence[Result], asked: BoardOptions) -> Sheet:
    """Give a row a run; where one failed, the title says how many there are."""
    done = sum(result.record is not None for result in results)
    runs = several(done, "run")
    title = runs if done == len(results) else f"partial: {done} of {len(results)} runs"
    columns = [
        "backbone",
        "data set",
        "protocol",
        "head",
        "state",
        f"{asked.metric} [95 % interval]",
    ]
    are_several = len({each.request.input_px for each in results}) > 1
    recipe = varied_recipe([each.request for each in results])
    rows = [_row(each, asked) for each in results]
    for row, each in zip(rows, results, strict=True):
        row[2] = protocol_name(each.request, several=are_several, recipe=recipe)
    return Sheet(title, columns, rows, words=5, grouped=False)


def lines(results: Sequence[Result], asked: BoardOptions, store: Store) -> list[str]:
    """Say below the table why runs failed, where the others lie, and what must be known of them."""
    told = [f"failed: {_named(each.request)}: {each.reason}" for each in results if each.reason]
    outcomes = [each.outcome for each in results if each.outcome is not None]
    notes = []
    for outcome in outcomes:
        score = board_scores.score(outcome.record, asked.metric, asked)
        if note := score.summary.interval.note:
            notes.append(note if note.startswith("no interval") else f"? {note}")
        notes += render_runs.run_notes(outcome, store.folder(outcome.record.run_id))[1:]
    where = [f"records in {store.root / 'runs'}"] if outcomes else []
    return [*told, *dict.fromkeys(notes), *where]


def as_json(
    results: Sequence[Result], told: Mapping[str, Told], asked: BoardOptions
) -> dict[str, object]:
    """Give several runs for machines."""
    runs, failed = [], []
    for result in results:
        if result.outcome is None:
            failed.append({**_asked(result.request), "reason": result.reason})
            continue
        record = result.outcome.record
        scores = board_scores.scores(record, board_scores.counted(record), asked)
        document = render_runs.run_json(record, scores, result.outcome.context)
        runs.append({**document, "found": result.outcome.found})
    series = {
        name: {"rows": list(each.plain), "statement": list(each.lines)}
        for name, each in told.items()
    }
    return {"runs": runs, "failed": failed, "partial": bool(failed), "told": series}


def draw(told: Mapping[str, Told], path: Path) -> list[Path]:
    """Draw what can be drawn; several pictures are told apart by their names.

    Raises:
        BenchError: there is nothing to draw, or the file cannot be written.
    """
    from bench.figures import curves

    pictures = [picture for each in told.values() for picture in each.pictures]
    if not pictures:
        raise BenchError("--plot: there is no curve to draw; it takes two runs or more of a kind.")
    paths = []
    for number, each in enumerate(pictures):
        many = f"-{number + 1}" if len(pictures) > 1 else ""
        own = path.with_stem(path.stem + many)
        words = {"x_label": each.x_label, "y_label": each.y_label, "title": each.title}
        curves.draw(each.curves, own, **words)
        paths.append(own)
    return paths


def refuse_plot(expansion: ExpandedGrid, path: Path) -> None:
    """Raise a BenchError where there can be no curve, or no such file: before anything is run."""
    from bench.figures.curves import WITHOUT_DATE

    if not any(each.teller.tell and len(each.cells) > 1 for each in expansion.stories):
        raise BenchError("--plot draws curves of several runs: give lists, `--shots 1,5,10`.")
    if path.suffix.lower() not in WITHOUT_DATE:
        raise BenchError(f"--plot {path}: a picture ends in {', '.join(WITHOUT_DATE)}.")


def _row(result: Result, asked: BoardOptions) -> list[str]:
    if result.outcome is None:
        return [*(_asked(result.request).values()), "failed", "–"]
    record = result.outcome.record
    summary = board_scores.score(record, asked.metric, asked).summary
    spread = "" if summary.spread is None else f" ± {summary.spread:.3f}"
    return [
        board_scores.label(record),
        board_scores.dataset_name(record),
        protocol_name(result.request),
        record.spec.head.name,
        "found" if result.outcome.found else "committed",
        bracketed(summary.mean, summary.interval) + spread,
    ]


def _adapted(results: Sequence[Result], asked: BoardOptions) -> list[Sheet]:
    """Compare the runs with test-time training with the same without."""
    plain = [(each.request, each.record) for each in results if each.record]
    rows = []
    for result in results:
        twins = [record for cell, record in plain if cell == result.request.without_ttt()]
        if result.request.adaptation and result.record and twins:
            found = board_scores.difference(result.record, twins[0], asked.metric)
            gained = bracketed(found.mean, found.interval)
            rows.append([*_row(result, asked)[:4], gained, p_value(found.p)])
    columns = ["backbone", "data set", "protocol", "head", asked.metric, "p"]
    title = "minus the same run without test-time training, paired by patient"
    return [Sheet(title, columns, rows, words=4, grouped=False)] if rows else []


def _asked(request: RunConfig) -> dict[str, str]:
    """Name a request that has no record by what was asked."""
    moved = (
        f"{request.dataset} to {request.target_dataset}"
        if request.target_dataset
        else request.dataset
    )
    return {
        "backbone": request.backbone,
        "dataset": moved + (f" ({request.shift})" if request.shift else ""),
        "protocol": protocol_name(request),
        "head": request.head or "its own",
    }


def _named(request: RunConfig) -> str:
    own = _asked(request)
    return f"{own['backbone']} on {own['dataset']}, {own['protocol']}"


def is_single(grid: Grid, expansion: ExpandedGrid) -> bool:
    """Tell whether one run was asked for, and no series."""
    has_series = any(isinstance(story.teller, Series) for story in expansion.stories)
    return not has_series and all(len(each) == 1 for each in grid.lists.values())


@dataclass(frozen=True)
class Spread:
    """Runs that differ in their seed alone.

    Attributes:
        means: a score of each run, in the order of `seeds`.
        summary: of the scores of each image averaged over seeds; its interval is over patients.
    """

    record: Record
    request: RunConfig
    seeds: tuple[int, ...]
    means: tuple[float, ...]
    summary: Summary

    @property
    def deviation(self) -> float:
        """The standard deviation of the runs' scores over seeds."""
        return float(np.std(self.means, ddof=1))


def spread_over_seeds(results: Sequence[Result], asked: BoardOptions) -> Told | None:
    """Tell of the runs that were asked for with several seeds; None where there are none."""
    found = [spread for own in _groups(results) if (spread := _spread(own, asked)) is not None]
    if not found:
        return None
    columns = ["backbone", "data set", "protocol", "head", "seeds"]
    columns += [f"{asked.metric} [95 % over patients]", "± over seeds", "lowest", "highest"]
    title = "over seeds: the interval is over patients, of images averaged over seeds"
    sheet = Sheet(title, columns, [_seed_row(each) for each in found], words=4, grouped=False)
    return Told(sheets=[sheet], plain=[_plain(each, asked) for each in found])


def _groups(results: Sequence[Result]) -> list[list[Result]]:
    """Put together what differs in its seed alone, in the order of the results."""
    groups: list[tuple[RunConfig, list[Result]]] = []
    for result in results:
        cell = replace(result.request, seed=0)
        own = next((members for key, members in groups if key == cell), None)
        if own is None:
            groups.append((cell, [result]))
        else:
            own.append(result)
    return [own for _, own in groups]


def _spread(results: Sequence[Result], asked: BoardOptions) -> Spread | None:
    done = [(each.request, each.record) for each in results if each.record is not None]
    if len(done) < 2:
        return None
    request, record = done[0]
    images = np.stack(
        [scores.scores_of_images(each, asked.metric).mean(axis=0) for _, each in done]
    )  # (S, n)
    by_image = asked.ci == "percentile"
    summary = summarise(
        images.mean(axis=0),
        record.images if by_image else [record.patients[image] for image in record.images],
        method=asked.ci,
        resamples=asked.resamples,
        seed_text=shared_seed(record.spec.scored.sha256, record.images),
    )
    seeds = tuple(each.seed for each, _ in done)
    means = tuple(float(each) for each in images.mean(axis=1))
    return Spread(record, request, seeds, means, summary)


def _seed_names(spread: Spread) -> dict[str, str]:
    unseeded = replace(spread.request, seed=0)
    return {
        "backbone": scores.label(spread.record),
        "dataset": scores.dataset_name(spread.record),
        "protocol": protocol_name(unseeded),
        "head": spread.record.spec.head.name,
    }


def _seed_row(spread: Spread) -> list[str]:
    return [
        *_seed_names(spread).values(),
        str(len(spread.seeds)),
        bracketed(spread.summary.mean, spread.summary.interval),
        decimals(spread.deviation),
        decimals(min(spread.means)),
        decimals(max(spread.means)),
    ]


def _plain(spread: Spread, asked: BoardOptions) -> dict[str, object]:
    bounds = spread.summary.interval
    return {
        **_seed_names(spread),
        "metric": asked.metric,
        "seeds": list(spread.seeds),
        "means": list(spread.means),
        "mean": spread.summary.mean,
        "interval_over_patients": [bounds.low, bounds.high],
        "sd_over_seeds": spread.deviation,
    }
