"""Scores of runs with their intervals, computed from raw counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench import registry, stats
from bench.api import Metric, Progress
from bench.differences import Difference, paired_difference
from bench.errors import BenchError
from bench.record import Record, defined_grids, score_grids
from bench.resamples import by_patient
from bench.tiers import Standing
from bench.verdict import Verdict

HEADLINE = ("dice", "dice_macro", "bf1")


@dataclass(frozen=True)
class BoardOptions:
    """Options of a leaderboard.

    Attributes:
        metric: the score by which rows are sorted.
        dataset, protocol, head: show only rows with these names; empty shows all. A data set may be
            "NAME@SHA256", with the hash of a folder's contents.
        shots: show only few-shot rows with this number of images; None shows all.
        ci: "expanded" and "bca" resample patients; "percentile" resamples images, like the CMD
            paper. Few-shot draws have no bca interval: those rows report "expanded".
        reference: name or label of the backbone with which all rows are compared; None for the best
            row.
        also: further scores to show.
        vary: in what the rows of a group may differ, all else equal: see `bench.alike`.
    """

    metric: str = "dice"
    dataset: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    shots: int | None = None
    ci: str = "expanded"
    resamples: int = stats.RESAMPLES
    reference: str | None = None
    also: tuple[str, ...] = HEADLINE
    vary: tuple[str, ...] = ("backbone",)


@dataclass(frozen=True)
class Score:
    """One score of a run.

    Attributes:
        summary: its mean, interval, spread over draws, numbers of images and patients.
        worst: id of the image with the worst score (few-shot: averaged over draws).
        patient_means: the mean of each patient, if there are too few for an interval; else empty.
        undefined: number of images on which the score is undefined and follows a convention.
    """

    metric: str
    summary: stats.Summary
    worst: str
    patient_means: tuple[float, ...]
    undefined: int

    def plain(self) -> dict[str, object]:
        """Return the score as a JSON object."""
        interval = self.summary.interval
        return {
            "mean": self.summary.mean,
            "ci_low": interval.low,
            "ci_high": interval.high,
            "ci_method": interval.method,
            "note": interval.note,
            "spread_over_draws": self.summary.spread,
            "n_images": self.summary.n_images,
            "n_patients": self.summary.n_patients,
            "worst_image": self.worst,
            "patient_means": list(self.patient_means),
            "undefined_images": self.undefined,
        }


@dataclass(frozen=True)
class Row:
    """A run on a leaderboard.

    Attributes:
        standing: its significance group and rank; None before `bench.judge.judge`.
        marks: flags that follow from its scores ("at chance (dice_macro)").
        protocol: description of its protocol, if protocols vary within the group; else "".
    """

    record: Record
    backbone: str
    head: str
    scores: Mapping[str, Score]
    standing: Standing | None = None
    marks: tuple[str, ...] = ()
    protocol: str = ""

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that every display of the row must show."""
        return (*self.record.flags, *self.marks)


@dataclass(frozen=True)
class ChanceRow:
    """The mean scores of a chance baseline; None for scores that need geometry."""

    answer: str
    means: Mapping[str, float | None]


@dataclass(frozen=True)
class Block:
    """A comparison group: runs that may be compared, see `bench.alike`.

    Attributes:
        title: description of what the runs share.
        key: the shared parts of their identity, by name.
        rows: best first.
        chance: the chance baselines.
        reference: label of the row with which the others are compared; "" without one.
        reference_asked: whether the user chose the reference; else it is the best row.
        verdict: whether the group ranks its models.
        notes: caveats of its significance groups and ranks.
        missing: backbones of other groups of the leaderboard without a run in this one.
    """

    title: str
    key: Mapping[str, object]
    rows: Sequence[Row]
    chance: Sequence[ChanceRow] = ()
    reference: str = ""
    reference_asked: bool = False
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def check(options: BoardOptions) -> None:
    """Check the names of scores and of the interval method.

    Raises:
        BenchError: unknown score or interval method.
    """
    for name in (options.metric, *options.also):
        metric_of(name)
    if options.ci not in stats.METHODS:
        raise BenchError(f"--ci {options.ci!r} is not one of {', '.join(stats.METHODS)}.")


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
        scored = (part(record, "scored")["sha256"], tuple(record.patients.items()))
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
    summaries = stats.summaries(
        grids if has_draws else grids[:, 0],
        first.images if options.ci == "percentile" else patients,
        method="expanded" if has_draws and options.ci == "bca" else options.ci,
        resamples=options.resamples,
        seed_text=stats.shared_seed(str(part(first, "scored")["sha256"]), first.images),
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
    if a.images != b.images or part(a, "scored")["sha256"] != part(b, "scored")["sha256"]:
        raise BenchError(f"the runs {a.run_id} and {b.run_id} were not scored on the same images.")
    a_scores, b_scores = (scores_of_images(record, name).mean(axis=0) for record in (a, b))  # (n,)
    patients = [a.patients[image] for image in a.images]
    seed_text = stats.shared_seed(str(part(a, "scored")["sha256"]), a.images)
    return paired_difference(a_scores, b_scores, patients, seed_text=seed_text)


def dataset_name(record: Record) -> str:
    """Return the name of the training data, and of the test data and shift if they differ."""
    name, scored = str(record.facts["dataset"]), str(record.facts["scored"])
    if scored != name:
        name = f"{name} to {scored}"
    shift = part(record, "scored")["shift"]
    return f"{name} ({shift})" if shift else name


def label(record: Record) -> str:
    """Return the name of the backbone with its non-default settings in parentheses."""
    marks = ["random"] if record.facts.get("random_twin") else []
    if record.facts.get("own_checkpoint"):
        marks.append(str(part(record, "backbone")["weights"])[:14])
    options = record.facts.get("asked_options")
    if isinstance(options, Mapping):
        marks += [f"{key}={value}" for key, value in options.items()]
    ttt = record.spec["ttt"]
    if isinstance(ttt, Mapping):
        marks.append(" ".join(["ttt", *(f"{key}={value}" for key, value in ttt.items())]))
    name = str(part(record, "backbone")["name"])
    return f"{name} ({', '.join(marks)})" if marks else name


def recipe(record: Record) -> str:
    """Return how the training deviates from the backbone's default recipe; "" if it does not."""
    overrides = record.facts.get("asked_recipe")
    changes = dict(overrides) if isinstance(overrides, Mapping) else {}
    precision, seed = record.spec["precision"], part(record, "protocol")["seed"]
    if precision != "fp32":
        changes["precision"] = precision
    if seed != 0:
        changes["seed"] = seed
    return ", ".join(f"{key} {value}" for key, value in changes.items())


def part(record: Record, name: str) -> Mapping[str, object]:
    """Return one part of a run's identity: "dataset", "backbone", "head", "protocol", "view"."""
    value = record.spec[name]
    assert isinstance(value, Mapping)
    return value
