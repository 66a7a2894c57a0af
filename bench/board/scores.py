"""Scores of runs with their intervals, computed from raw counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from bench import registry
from bench.api import Metric, Progress, board
from bench.api.board import HEADLINE, BoardOptions, Difference, Score
from bench.api.record import Record, TrialResult
from bench.errors import BenchError
from bench.stats import bootstrap
from bench.stats.bootstrap import by_patient
from bench.stats.paired import paired_difference


def check(options: BoardOptions) -> None:
    """Check the names of scores and of the interval method.

    Raises:
        BenchError: unknown score or interval method.
    """
    for name in (options.metric, *options.also):
        metric_of(name)
    if options.ci not in board.METHODS:
        raise BenchError(f"--ci {options.ci!r} is not one of {', '.join(board.METHODS)}.")


def scores_of_images(record: Record, name: str) -> np.ndarray:
    """Return a score of each image of a run, (draws, n) float64, images sorted by id.

    There is one row per few-shot draw; trials that differ only in their fold share one row, since
    every image is scored in one fold.

    Raises:
        BenchError: unknown score, or the record has no counts for it.
    """
    return score_grids([record], metric_of(name), name)[0]


def counted(record: Record) -> list[str]:
    """Return the scores for which a record has counts; a metric may be newer than the record."""
    return [name for name in metric_names() if holds(record, name)]


def holds(record: Record, name: str) -> bool:
    """Return whether a record has the counts for a score."""
    try:
        scores_of_images(record, name)
    except BenchError:
        return False
    return True


def metric_names() -> list[str]:
    """Return the names of all scores, grouped by metric; metrics with headline scores first."""
    metrics = [registry.get("metrics", name) for name in registry.names("metrics")]
    metrics.sort(key=lambda metric: [name not in metric.scores for name in HEADLINE])
    return [name for metric in metrics for name in metric.scores]


def metric_of(name: str) -> Metric:
    """Return the metric that computes a score.

    Raises:
        BenchError: unknown score.
    """
    for metric_name in registry.names("metrics"):
        metric: Metric = registry.get("metrics", metric_name)
        if name in metric.scores:
            return metric
    raise BenchError(f"unknown metric {name!r}. Choose one of {', '.join(metric_names())}.")


def lower_is_better(name: str) -> bool:
    """Return whether a score is an error or a distance.

    Raises:
        BenchError: unknown score.
    """
    return name in metric_of(name).lower_is_better


def score(record: Record, name: str, options: BoardOptions) -> Score:
    """Compute one score of a run and its interval."""
    return score_all([record], name, options)[0]


def scores(
    record: Record,
    names: Sequence[str],
    options: BoardOptions,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Score]:
    """Compute several scores of a run."""
    by_name = {}
    for done, name in enumerate(names):
        progress("bootstrap", done, len(names))
        by_name[name] = score(record, name, options)
    progress("bootstrap", len(names), len(names))
    return by_name


def score_all(records: Sequence[Record], name: str, options: BoardOptions) -> list[Score]:
    """Compute one score of several runs; equal to `score` of each, but faster."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        scored = (record.spec.scored.sha256, tuple(record.patients.items()))
        draws = (len(record.draws), any(trial.draw for trial in record.trials))
        groups[scored + draws].append(i)
    scores_by_index: dict[int, Score] = {}
    for indices in groups.values():
        group_scores = _score_group([records[i] for i in indices], name, options)
        scores_by_index.update(zip(indices, group_scores, strict=True))
    return [scores_by_index[i] for i in range(len(records))]


def _score_group(records: Sequence[Record], name: str, options: BoardOptions) -> list[Score]:
    """Compute one score of runs with the same images, patients and number of draws."""
    metric, first = metric_of(name), records[0]
    grids = score_grids(records, metric, name)  # (R, D, n)
    undefined = (~defined_grids(records, metric, name)).any(axis=1).sum(axis=1)  # (R,)
    patients = [first.patients[image] for image in first.images]
    has_draws = any(trial.draw for trial in first.trials)
    summaries = bootstrap.summaries(
        grids if has_draws else grids[:, 0],
        first.images if options.ci == "percentile" else patients,
        method="expanded" if has_draws and options.ci == "bca" else options.ci,
        resamples=options.resamples,
        seed_text=bootstrap.shared_seed(first.spec.scored.sha256, first.images),
    )
    per_image = grids.mean(axis=1)  # (R, n)
    worst = per_image.argmax(axis=1) if lower_is_better(name) else per_image.argmin(axis=1)
    sums, sizes = by_patient(per_image, patients)  # (R, P), (P,)
    means = (sums / sizes).tolist()
    return [
        Score(
            name,
            replace(summary, n_patients=len(sizes)),
            first.images[worst[i]],
            () if summary.interval.low is not None else tuple(means[i]),
            int(undefined[i]),
        )
        for i, summary in enumerate(summaries)
    ]


def difference(a: Record, b: Record, name: str) -> Difference:
    """Compare two runs on the same images; few-shot scores are averaged over draws.

    Raises:
        BenchError: the runs were scored on different images.
    """
    if a.images != b.images or a.spec.scored.sha256 != b.spec.scored.sha256:
        raise BenchError(f"the runs {a.run_id} and {b.run_id} were not scored on the same images.")
    a_scores, b_scores = (scores_of_images(record, name).mean(axis=0) for record in (a, b))  # (n,)
    patients = [a.patients[image] for image in a.images]
    seed_text = bootstrap.shared_seed(a.spec.scored.sha256, a.images)
    return paired_difference(a_scores, b_scores, patients, seed_text=seed_text)


def dataset_name(record: Record) -> str:
    """Return the name of the training data, and of the test data and shift if they differ."""
    name, scored = str(record.facts["dataset"]), str(record.facts["scored"])
    if scored != name:
        name = f"{name} to {scored}"
    shift = record.spec.scored.shift
    return f"{name} ({shift})" if shift else name


def label(record: Record) -> str:
    """Return the name of the backbone with its non-default settings in parentheses."""
    weights, seeds = record.spec.backbone.weights, record.facts.get("weights_seeds")
    marks = []
    if isinstance(seeds, list):
        marks.append(f"random, {len(seeds)} seeds")
    elif weights.startswith("random:") and weights != "random:0":
        marks.append(weights)
    elif record.is_untrained_control:
        marks.append("random")
    if record.facts.get("own_checkpoint"):
        marks.append(weights[:14])
    options = record.facts.get("asked_options")
    if isinstance(options, Mapping):
        marks += [f"{key}={value}" for key, value in options.items()]
    ttt = record.spec.ttt
    if ttt is not None:
        settings = sorted(asdict(ttt).items())
        marks.append(" ".join(["ttt", *(f"{key}={value}" for key, value in settings)]))
    name = record.spec.backbone.name
    return f"{name} ({', '.join(marks)})" if marks else name


def names(record: Record) -> tuple[list[str], list[str]]:
    """Return the names that select a run: those of its weights and options, and of its backbone.

    An untrained control is also NAME@random:SEED, as `bench run --backbone` writes it.
    """
    backbone = record.spec.backbone
    exact = [label(record)]
    if backbone.weights.startswith("random:") and "untrained" in record.flags:
        source = f"{backbone.name}@{backbone.weights}"
        exact += [source, source.removesuffix(":0")]
    return exact, [backbone.name]


def recipe(record: Record) -> str:
    """Return the name of the recipe and the user's changes to it, as text ("paper, lr 0.01").

    "" if nothing was trained. A backbone's own settings are no changes.
    """
    if record.trials and not any(trial.train for trial in record.trials):
        return ""
    changes = record.facts.get("asked_recipe")
    changes = sorted(changes.items()) if isinstance(changes, Mapping) else []
    return ", ".join([record.spec.recipe.name, *(f"{key} {value}" for key, value in changes)])


def view(record: Record) -> str:
    """Return the kind of view, and the side of the input if the user set it ("tiles, 256 px")."""
    kind, px = record.spec.view.kind, record.facts.get("requested_px")
    return kind if px is None else f"{kind}, {px} px"


class StackedCounts(Mapping[str, np.ndarray]):
    """The counts of many trials, concatenated: float64 arrays, created at first access."""

    def __init__(self, trials: Sequence[TrialResult]) -> None:
        self._trials = trials
        self._arrays: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            values = [count for trial in self._trials for count in trial.counts[name]]
            self._arrays[name] = np.array(values, dtype=float)
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        first, *others = self._trials
        return (name for name in first.counts if all(name in trial.counts for trial in others))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def score_grids(records: Sequence[Record], metric: Metric, name: str) -> np.ndarray:
    """Return a score of every image of several runs, (R, draws, images) float64.

    See `scores_of_images`; all runs have the same numbers of draws and images.

    Raises:
        BenchError: a run has no counts for the score, or not for every image.
    """
    return _grids(records, metric.scores[name], metric)


def defined_grids(records: Sequence[Record], metric: Metric, name: str) -> np.ndarray:
    """Return where a score of several runs is defined, (R, draws, images) bool."""
    if name not in metric.defined:
        first = records[0]
        return np.ones((len(records), len(first.draws), len(first.images)), dtype=bool)
    return _grids(records, metric.defined[name], metric).astype(bool)


def _grids(
    records: Sequence[Record],
    score: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    metric: Metric,
) -> np.ndarray:
    """Apply a function of counts to every image: (R, draws, images)."""
    trials = [trial for record in records for trial in record.trials]
    grids = np.full((len(records), len(records[0].draws), len(records[0].images)), np.nan)
    try:
        flat = score(StackedCounts(trials)) if trials else np.empty(0)
    except KeyError as missing:
        without = next(
            record for record in records if missing.args[0] not in StackedCounts(record.trials)
        )
        raise BenchError(
            f"run {without.run_id} has no counts {missing} for the metric {metric.name!r}: "
            "it is older than the metric. Run it again with --force."
        ) from missing
    start = 0
    for grid, record in zip(grids, records, strict=True):
        for row, columns in record.places:
            grid[row, columns] = flat[start : start + len(columns)]
            start += len(columns)
        if np.isnan(grid).any():
            raise BenchError(
                f"run {record.run_id} has no {metric.name} counts for some of its images"
            )
    return grids
