"""How often a 95 % interval holds the true value, in simulations in which it is known.

    python benchmarks/intervals.py                         # prints the tables
    python benchmarks/intervals.py --page docs/statistics.md   # writes them into the page

Images of a patient share a part of their variance, 0.3, and every patient has three images. Scores
have variance 1 and are normal, or skewed to the low side as scores near 1 are (exponential).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bench.cli.console import out
from bench.stats import bootstrap, tiers

SHARED = 0.3  # the part of the variance that images of a patient share
IMAGES_EACH = 3
PATIENTS = (5, 6, 7, 8, 9, 11, 15, 30)
RANK_PATIENTS = (6, 11, 30)
GAPS = (0.01, 0.1, 0.5)  # between the true means of neighbours, in standard deviations of an image
MODELS = 5
RESAMPLES = 2000
Draw = Callable[..., np.ndarray]


def normal(rng: np.random.Generator, size: Sequence[int]) -> np.ndarray:
    """Draw from a normal distribution of mean 0 and variance 1."""
    return rng.normal(size=size)


def skewed(rng: np.random.Generator, size: Sequence[int]) -> np.ndarray:
    """Draw from an exponential distribution, mirrored and moved to mean 0; its variance is 1."""
    return 1 - rng.exponential(size=size)


def scores(draw: Draw, rows: int, patients: int, *, seed: int) -> np.ndarray:
    """Simulate scores of mean 0 and variance 1: (rows, patients x images)."""
    rng = np.random.default_rng(seed)
    of_patient = draw(rng, (rows, patients)).repeat(IMAGES_EACH, axis=1)
    of_image = draw(rng, (rows, patients * IMAGES_EACH))
    return SHARED**0.5 * of_patient + (1 - SHARED) ** 0.5 * of_image


def names(patients: int, images_each: int = IMAGES_EACH) -> list[str]:
    """Name the patient of each image."""
    return [f"{number // images_each:03d}" for number in range(patients * images_each)]


def coverage(values: np.ndarray, patients: Sequence[str], method: str) -> float:
    """Give the share of rows whose interval holds 0, their true mean."""
    found = bootstrap.intervals(
        values, patients, method=method, resamples=RESAMPLES, seed_text="simulated"
    )
    bounds = np.array([(each.low, each.high) for each in found], dtype=float)
    return float(((bounds[:, 0] <= 0) & (bounds[:, 1] >= 0)).mean())


def rank_coverage(patients: int, gap: float, experiments: int) -> float:
    """Give how often the interval of ranks holds the true rank, of the model where it is worst."""
    values = scores(normal, experiments * MODELS, patients, seed=patients)
    held = []
    for own in values.reshape(experiments, MODELS, -1):
        better = own - gap * np.arange(MODELS)[:, None]
        contest = tiers.ScoreMatrix(better, names(patients), "simulated")
        bounds = tiers.rank_intervals(contest, resamples=RESAMPLES)
        assert bounds is not None
        true = np.arange(1, MODELS + 1)
        held.append((bounds[:, 0] <= true) & (true <= bounds[:, 1]))
    return float(np.mean(held, axis=0).min())


def family_error(patients: int, experiments: int) -> float:
    """Give the share of experiments in which any pair of equal models is separated."""
    values = scores(normal, experiments * MODELS, patients, seed=100 + patients)
    errors = [
        (
            tiers.pairwise_p(tiers.ScoreMatrix(own, names(patients), "simulated")) <= tiers.ALPHA
        ).any()
        for own in values.reshape(experiments, MODELS, -1)
    ]
    return float(np.mean(errors))


def interval_table(experiments: int) -> Iterator[str]:
    """Compare the kinds of interval, patients by patients."""
    yield "| patients | images, percentile | percentile | bca | **expanded** | expanded, skewed |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for patients in PATIENTS:
        plain, lean = (scores(draw, experiments, patients, seed=1) for draw in (normal, skewed))
        own = names(patients)
        images = [f"{number:03d}" for number in range(len(own))]
        cells = [
            coverage(plain, images, "percentile"),
            *(coverage(plain, own, method) for method in ("percentile", "bca", "expanded")),
            coverage(lean, own, "expanded"),
        ]
        yield f"| {patients} | {' | '.join(map(percent, cells))} |"


def rank_table(experiments: int) -> Iterator[str]:
    """Tell how often ranks are held, and how often equal models are separated."""
    heads = [f"ranks, gap {gap:g}" for gap in GAPS]
    yield f"| patients | {' | '.join(heads)} | any of 10 equal pairs separated |"
    yield f"| --- |{' --- |' * (len(GAPS) + 1)}"
    for patients in RANK_PATIENTS:
        cells = [rank_coverage(patients, gap, experiments) for gap in GAPS]
        cells.append(family_error(patients, experiments))
        yield f"| {patients} | {' | '.join(map(percent, cells))} |"


def percent(share: float) -> str:
    """Write a share of 0 to 1 for a table."""
    return f"{100 * share:.1f} %"


def main(
    experiments: Annotated[int, typer.Option(min=1, help="Simulations of each cell.")] = 4000,
    rank_experiments: Annotated[int, typer.Option(min=1, help="Those of ranks and tests.")] = 1000,
    page: Annotated[Path | None, typer.Option(help="Write the tables into this page.")] = None,
) -> None:
    """Measure the coverage of intervals and ranks; the same numbers every time."""
    tables = {
        "coverage": "\n".join(interval_table(experiments)),
        "ranks": "\n".join(rank_table(rank_experiments)),
    }
    for table in tables.values():
        out.print(table, markup=False, highlight=False, soft_wrap=True)
    if page is not None:
        page.write_text(filled(page.read_text("utf-8"), tables), "utf-8")


def filled(text: str, tables: dict[str, str]) -> str:
    """Put tables between the marks `<!-- NAME -->` and `<!-- end -->` of a page."""
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, rf"\g<1>{table}\n\g<2>", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    typer.run(main)
