"""How often 95 % intervals contain the true value, in simulations.

    python benchmarks/intervals.py                         # prints the tables
    python benchmarks/intervals.py --page docs/statistics.md   # writes them into the page

A patient has three images, which share 0.3 of their variance. Scores have variance 1 and are
normal, or skewed to the low side as scores near 1 are (exponential).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bench.cli.console import out
from bench.stats import bootstrap, decisions

SHARED = 0.3  # share of the variance between patients
IMAGES = 3  # per patient
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
    of_patient = draw(rng, (rows, patients)).repeat(IMAGES, axis=1)
    of_image = draw(rng, (rows, patients * IMAGES))
    return SHARED**0.5 * of_patient + (1 - SHARED) ** 0.5 * of_image


def patients_of(patients: int) -> list[str]:
    """Return the patient of each image."""
    return [f"{number // IMAGES:03d}" for number in range(patients * IMAGES)]


def coverage(values: np.ndarray, patients: Sequence[str], method: str) -> float:
    """Return the share of rows whose interval contains 0, their true mean."""
    intervals = bootstrap.intervals(
        values, patients, method=method, resamples=RESAMPLES, seed_text="simulated"
    )
    bounds = np.array([(interval.low, interval.high) for interval in intervals], dtype=float)
    return float(((bounds[:, 0] <= 0) & (bounds[:, 1] >= 0)).mean())


def rank_coverage(patients: int, gap: float, experiments: int) -> float:
    """Return how often the interval of the rank contains the true rank, for the worst model."""
    values = scores(normal, experiments * MODELS, patients, seed=patients)
    contained = []
    for models in values.reshape(experiments, MODELS, -1):
        shifted = models - gap * np.arange(MODELS)[:, None]
        matrix = decisions.ScoreMatrix(shifted, patients_of(patients), "simulated")
        bounds = decisions.rank_intervals(matrix, resamples=RESAMPLES)
        assert bounds is not None
        true = np.arange(1, MODELS + 1)
        contained.append((bounds[:, 0] <= true) & (true <= bounds[:, 1]))
    return float(np.mean(contained, axis=0).min())


def family_error(patients: int, experiments: int) -> float:
    """Return the share of experiments in which any two equal models differ significantly."""
    values = scores(normal, experiments * MODELS, patients, seed=100 + patients)
    errors = []
    for models in values.reshape(experiments, MODELS, -1):
        matrix = decisions.ScoreMatrix(models, patients_of(patients), "simulated")
        errors.append((decisions.pairwise_p(matrix) <= decisions.ALPHA).any())
    return float(np.mean(errors))


def interval_table(experiments: int) -> Iterator[str]:
    """Compare the kinds of interval by the number of patients."""
    yield "| patients | images, percentile | percentile | bca | **expanded** | expanded, skewed |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for patients in PATIENTS:
        plain, skew = (scores(draw, experiments, patients, seed=1) for draw in (normal, skewed))
        names = patients_of(patients)
        images = [f"{number:03d}" for number in range(len(names))]
        cells = [
            coverage(plain, images, "percentile"),
            *(coverage(plain, names, method) for method in ("percentile", "bca", "expanded")),
            coverage(skew, names, "expanded"),
        ]
        yield f"| {patients} | {' | '.join(map(percent, cells))} |"


def rank_table(experiments: int) -> Iterator[str]:
    """Show how often ranks are covered, and how often equal models differ significantly."""
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
    experiments: Annotated[int, typer.Option(min=1, help="Simulations per cell.")] = 4000,
    rank_experiments: Annotated[int, typer.Option(min=1, help="For ranks and tests.")] = 1000,
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
    """Write tables between the marks `<!-- NAME -->` and `<!-- end -->` of a page."""
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, rf"\g<1>{table}\n\g<2>", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    typer.run(main)
