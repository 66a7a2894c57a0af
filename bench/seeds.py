"""What the seed does to a score, kept apart from what the choice of patients does to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench import board
from bench.board import BoardOptions, part
from bench.grid import Result, protocol_name
from bench.job import Request
from bench.record import Record
from bench.sheet import Sheet, Told, bracketed, decimals
from bench.stats import Summary, shared_seed, summarise


@dataclass(frozen=True)
class Spread:
    """Runs that differ in their seed alone.

    Attributes:
        means: a score of each run, in the order of `seeds`.
        summary: of the scores of each image averaged over seeds; its interval is over patients.
    """

    record: Record
    request: Request
    seeds: tuple[int, ...]
    means: tuple[float, ...]
    summary: Summary

    @property
    def deviation(self) -> float:
        """The standard deviation of the runs' scores over seeds."""
        return float(np.std(self.means, ddof=1))


def told(results: Sequence[Result], asked: BoardOptions) -> Told | None:
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
    groups: list[tuple[Request, list[Result]]] = []
    for result in results:
        cell = replace(result.request, plan=replace(result.request.plan, seed=0))
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
        [board.scores_of_images(each, asked.metric).mean(axis=0) for _, each in done]
    )  # (S, n)
    by_image = asked.ci == "percentile"
    summary = summarise(
        images.mean(axis=0),
        record.images if by_image else [record.patients[image] for image in record.images],
        method=asked.ci,
        resamples=asked.resamples,
        seed_text=shared_seed(str(part(record, "scored")["sha256"]), record.images),
    )
    seeds = tuple(each.plan.seed for each, _ in done)
    means = tuple(float(each) for each in images.mean(axis=1))
    return Spread(record, request, seeds, means, summary)


def _seed_names(spread: Spread) -> dict[str, str]:
    unseeded = replace(spread.request, plan=replace(spread.request.plan, seed=0))
    return {
        "backbone": board.label(spread.record),
        "dataset": board.dataset_name(spread.record),
        "protocol": protocol_name(unseeded),
        "head": str(part(spread.record, "head")["name"]),
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
