"""Intervals of mean scores, by resampling patients.

Images of one patient resemble each other, so whole patients are drawn, with all their images; the
statistic is the mean over images. The default is the expanded percentile interval (Hesterberg,
"What Teachers Should Know About the Bootstrap", The American Statistician 69:4, 2015): the plain
percentile interval is too narrow for few patients. All models and metrics of a set of images share
one matrix of resamples, so they are resampled in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.errors import BenchError
from bench.levels import TAILS, bca_levels, effective_size, expanded_levels
from bench.resamples import by_patient, drawn, drawn_patients
from bench.resamples import seeded as seeded  # also asked for here

METHODS = ("expanded", "percentile", "bca")
RESAMPLES = 10_000
FEWEST = 5  # patients; below: no interval
FEW = 10  # patients; below: an unreliable one


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; `low` and `high` are None where there are too few patients for one.

    Attributes:
        method: "expanded", "percentile" or "bca".
        note: why there is none, or why to distrust it; "" where there is nothing to say.
    """

    low: float | None
    high: float | None
    method: str
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """What one row of a board says about one score.

    Attributes:
        mean: None without images.
        spread: standard deviation of the mean over few-shot draws; None below two draws.
    """

    mean: float | None
    interval: Interval
    spread: float | None
    n_images: int
    n_patients: int


def shared_seed(dataset: str, image_ids: Sequence[str]) -> str:
    """Name the resamples of a set of images, whatever their order, for every model scored on it."""
    return "\n".join([dataset, *sorted(image_ids)])


def interval(
    values: np.ndarray,
    patients: Sequence[str],
    *,
    method: str = "expanded",
    resamples: int = RESAMPLES,
    seed_text: str,
) -> Interval:
    """Bound the mean of one row of scores (n,); see `intervals`."""
    rows = np.asarray(values, dtype=float)[None]
    return intervals(rows, patients, method=method, resamples=resamples, seed_text=seed_text)[0]


def intervals(
    values: np.ndarray,
    patients: Sequence[str],
    *,
    method: str = "expanded",
    resamples: int = RESAMPLES,
    seed_text: str,
) -> list[Interval]:
    """Bound the mean over images of each row of scores, resampling patients.

    The paper's is `method="percentile", resamples=1000` with the ids of the images as patients.

    Args:
        values: (R, n) scores, a row for each model and metric.
        patients: of each of the n images.
        seed_text: see `shared_seed`.

    Raises:
        BenchError: an unknown method.
    """
    _check_method(method, METHODS)
    sums, sizes = by_patient(values, patients)  # (R, P), (P,)
    n_patients = len(sizes)
    if n_patients < FEWEST:
        return [_no_interval(method, n_patients)] * len(sums)
    bounds = _bounds(sums, sizes, method, resamples, seed_text)  # (R, 2)
    note = _reliability(n_patients)
    return [Interval(low, high, method, note) for low, high in bounds.tolist()]


def _bounds(
    sums: np.ndarray, sizes: np.ndarray, method: str, resamples: int, seed_text: str
) -> np.ndarray:
    """Bound the means of the rows of sums (R, P), a row at a time: none depends on the others."""
    weights = drawn_patients(len(sizes), resamples, seed_text)  # (B, P)
    totals = weights @ sizes  # (B,)
    shared = expanded_levels(len(sizes)) if method == "expanded" else TAILS
    bounds = np.empty((len(sums), 2))
    for row, own in enumerate(sums):
        means = weights @ own / totals  # (B,)
        levels = bca_levels(means, own, sizes) if method == "bca" else shared
        bounds[row] = np.quantile(means, levels)
    return bounds


def crossed_interval(
    values: np.ndarray,
    patients: Sequence[str],
    *,
    method: str = "expanded",
    resamples: int = RESAMPLES,
    seed_text: str,
) -> Interval:
    """Bound the mean of one set of few-shot scores (D, n); see `crossed_intervals`."""
    each = np.asarray(values, dtype=float)[None]
    found = crossed_intervals(
        each, patients, method=method, resamples=resamples, seed_text=seed_text
    )
    return found[0]


def crossed_intervals(
    values: np.ndarray,
    patients: Sequence[str],
    *,
    method: str = "expanded",
    resamples: int = RESAMPLES,
    seed_text: str,
) -> list[Interval]:
    """Bound the means of few-shot scores, resampling patients and support sets independently.

    Both are samples: other patients or other support sets would change the mean (Owen, "The
    pigeonhole bootstrap", Annals of Applied Statistics 1:2, 2007). With one draw the interval holds
    for that support set alone, and says so.

    Args:
        values: (R, D, n) scores: models and metrics, draws of the support set, images.
        patients: of each of the n images.

    Raises:
        BenchError: a method other than "expanded" and "percentile".
    """
    _check_method(method, METHODS[:2])
    if values.shape[1] == 1:
        rows = intervals(
            values[:, 0], patients, method=method, resamples=resamples, seed_text=seed_text
        )
        alone = "conditional on one support set"
        return [replace(own, note="; ".join(filter(None, [own.note, alone]))) for own in rows]
    sums, sizes = by_patient(values, patients)  # (R, D, P), (P,)
    if len(sizes) < FEWEST:
        return [_no_interval(method, len(sizes))] * len(sums)
    bounds = _crossed_bounds(sums, sizes, method, resamples, seed_text)  # (R, 2)
    note = _reliability(len(sizes), values.shape[1])
    return [Interval(low, high, method, note) for low, high in bounds.tolist()]


def _crossed_bounds(
    sums: np.ndarray, sizes: np.ndarray, method: str, resamples: int, seed_text: str
) -> np.ndarray:
    """Bound the means of few-shot sums (R, D, P): (R, 2)."""
    bounds = np.empty((len(sums), 2))
    for row, own in enumerate(sums):
        means = _resampled(own, sizes, resamples, seed_text)  # (B,)
        levels = _levels(own, sizes) if method == "expanded" else TAILS
        bounds[row] = np.quantile(means, levels)
    return bounds


def resampled_means(
    values: np.ndarray, patients: Sequence[str], *, resamples: int, seed_text: str
) -> np.ndarray:
    """Give the mean (B,) of scores (D, n) in each resample; fewer are the first of more."""
    return _resampled(*by_patient(values, patients), resamples, seed_text)


def _resampled(sums: np.ndarray, sizes: np.ndarray, resamples: int, seed_text: str) -> np.ndarray:
    """Give the mean (B,) of sums (D, P) in each resample."""
    weights = drawn_patients(len(sizes), resamples, seed_text)  # (B, P)
    draw_weights = drawn(len(sums), resamples, f"draws\n{seed_text}")  # (B, D)
    totals = weights @ np.vstack([sums, sizes]).T  # (B, D + 1)
    return (totals[:, :-1] * draw_weights).sum(axis=1) / (len(sums) * totals[:, -1])


def crossed_levels(values: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Give the two quantile levels of the expanded interval of scores (D, n); D may be 1."""
    return _levels(*by_patient(values, patients))


def _levels(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return expanded_levels(effective_size(sums, sizes) if len(sums) > 1 else len(sizes))


def draw_spread(values: np.ndarray) -> float | None:
    """Give the standard deviation over draws of the mean of scores (D, n); None below two draws."""
    return draw_spreads(values[None])[0]


def draw_spreads(values: np.ndarray) -> list[float | None]:
    """Do what `draw_spread` does for scores (R, D, n)."""
    rows, draws, images = values.shape
    if draws < 2 or not images:
        return [None] * rows
    return values.mean(axis=2).std(axis=1, ddof=1).tolist()


def summarise(
    values: np.ndarray,
    patients: Sequence[str],
    *,
    method: str = "expanded",
    resamples: int = RESAMPLES,
    seed_text: str,
) -> Summary:
    """Sum up one score: of each image, (n,), or of each few-shot draw and image, (D, n)."""
    each = np.asarray(values, dtype=float)[None]
    found = summaries(each, patients, method=method, resamples=resamples, seed_text=seed_text)
    return found[0]


def summaries(
    values: np.ndarray,
    patients: Sequence[str],
    *,
    method: str = "expanded",
    resamples: int = RESAMPLES,
    seed_text: str,
) -> list[Summary]:
    """Sum up many scores of the same images: (R, n), or few-shot (R, D, n)."""
    bound = intervals if values.ndim == 2 else crossed_intervals
    bounds = bound(values, patients, method=method, resamples=resamples, seed_text=seed_text)
    per_image = values.mean(axis=1) if values.ndim == 3 else values  # (R, n)
    n_images, n_patients = len(patients), len(set(patients))
    means = per_image.mean(axis=1).tolist() if n_images else [None] * len(values)
    spreads = draw_spreads(values) if values.ndim == 3 else [None] * len(values)
    return [
        Summary(mean, own, spread, n_images, n_patients)
        for mean, own, spread in zip(means, bounds, spreads, strict=True)
    ]


def _no_interval(method: str, n: int) -> Interval:
    return Interval(None, None, method, f"no interval: n = {n}, fewer than {FEWEST}")


def _reliability(n: int, draws: int = FEWEST) -> str:
    if n < FEW:
        return f"unreliable: n = {n}, fewer than {FEW}"
    return f"unreliable: {draws} draws, fewer than {FEWEST}" if draws < FEWEST else ""


def _check_method(method: str, known: Sequence[str]) -> None:
    if method not in known:
        raise BenchError(
            f"no interval by the method {method!r} here. Choose one of `--ci {'|'.join(known)}`."
        )
