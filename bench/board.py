"""What a board says about a run: its scores with intervals, from the raw counts. Pure functions."""

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
    """How a board is made.

    Attributes:
        metric: what the rows are sorted by.
        dataset, protocol, head: keep the rows of these names; none keeps all. A data set may be
            "NAME@SHA256", of what a folder holds.
        shots: keep the few-shot rows of so many images; None keeps all.
        ci: "expanded" or "bca" resample patients; "percentile" resamples images, as the paper does.
            Over few-shot draws there is no bca: those rows are "expanded", and say so.
        reference: the backbone, by its name or label, that all rows are compared with; None: the
            best row.
        also: further scores to show.
        vary: what the rows of a block may differ in, all else equal: see `bench.alike`.
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
        patient_means: where there are too few patients for an interval, the mean of each.
        undefined: images on which the score is a convention, since there is nothing to find.
    """

    metric: str
    summary: stats.Summary
    worst: str
    patient_means: tuple[float, ...]
    undefined: int

    def plain(self) -> dict[str, object]:
        """Give the score as JSON takes it."""
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
    """A run on a board.

    Attributes:
        standing: its tier and rank among the rows of its block; None before it is judged.
        marks: flags that follow from its scores ("at chance (dice_macro)").
        protocol: its protocol in words, where that varies within the block; else "".
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
        """Everything that every display of the row must show."""
        return (*self.record.flags, *self.marks)


@dataclass(frozen=True)
class ChanceRow:
    """An answer that looks at no pixel: its mean scores; None for those that need geometry."""

    answer: str
    means: Mapping[str, float | None]


@dataclass(frozen=True)
class Block:
    """The runs that may be compared: see `bench.alike`.

    Attributes:
        title: what they share, in words.
        key: what they share, by name.
        rows: best first.
        chance: the floor of the scores.
        reference: label of the row that the others are compared with; "" where there is none.
        reference_asked: whether somebody asked for it; else it is the best row.
        verdict: whether the block ranks its models at all.
        notes: what must be known of its tiers and ranks.
        missing: what stands in other blocks of the board and was not run for this one.
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
    """Refuse a board that cannot be made.

    Raises:
        BenchError: an unknown score or kind of interval.
    """
    for name in (options.metric, *options.also):
        metric_of(name)
    if options.ci not in stats.METHODS:
        raise BenchError(f"--ci {options.ci!r} is not one of {', '.join(stats.METHODS)}.")


def scores_of_images(record: Record, name: str) -> np.ndarray:
    """Score every image of a run: (draws, images) float64, images sorted by id.

    One row for each set of tags, for example for each draw of a few-shot run; one row in all where
    trials differ by their fold alone, since each image is scored in one of them.

    Raises:
        BenchError: no metric has that score, or the run has no counts for it.
    """
    return score_grids([record], metric_of(name), name)[0]


def counted(record: Record) -> list[str]:
    """List the scores that a run holds counts for: a metric may have come after it."""
    return [name for name in metric_names() if holds(record, name)]


def holds(record: Record, name: str) -> bool:
    """Tell whether a run holds the counts for a score."""
    try:
        scores_of_images(record, name)
    except BenchError:
        return False
    return True


def metric_names() -> list[str]:
    """List every score that the metrics give, family by family, those of the headline first."""
    families = [registry.get("metrics", name) for name in registry.names("metrics")]
    families.sort(key=lambda family: [name not in family.scores for name in HEADLINE])
    return [name for family in families for name in family.scores]


def metric_of(name: str) -> Metric:
    """Find the family of a score.

    Raises:
        BenchError: no metric gives it.
    """
    for family_name in registry.names("metrics"):
        family: Metric = registry.get("metrics", family_name)
        if name in family.scores:
            return family
    raise BenchError(f"unknown metric {name!r}. Choose one of {', '.join(metric_names())}.")


def lower_is_better(name: str) -> bool:
    """Tell whether a score is an error or a distance.

    Raises:
        BenchError: no metric gives it.
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
    told = {}
    for done, name in enumerate(names):
        progress("bootstrap", done, len(names))
        told[name] = score(record, name, options)
    progress("bootstrap", len(names), len(names))
    return told


def score_all(records: Sequence[Record], name: str, options: BoardOptions) -> list[Score]:
    """Compute one score of runs on the same images: as one by one, but quicker."""
    alike: dict[tuple, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        scored = (part(record, "scored")["sha256"], tuple(record.patients.items()))
        draws = (len(record.draws), any(trial.draw for trial in record.trials))
        alike[scored + draws].append(i)
    found: dict[int, Score] = {}
    for own in alike.values():
        found |= zip(own, _score_alike([records[i] for i in own], name, options), strict=True)
    return [found[i] for i in range(len(records))]


def _score_alike(records: Sequence[Record], name: str, options: BoardOptions) -> list[Score]:
    """Score runs that have their images, patients and number of draws in common."""
    family, first = metric_of(name), records[0]
    grids = score_grids(records, family, name)  # (R, D, n)
    undefined = (~defined_grids(records, family, name)).any(axis=1).sum(axis=1)  # (R,)
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
    """Compare two runs on the same images; scores are averaged over draws, where there are any.

    Raises:
        BenchError: they were scored on different images.
    """
    if a.images != b.images or part(a, "scored")["sha256"] != part(b, "scored")["sha256"]:
        raise BenchError(f"the runs {a.run_id} and {b.run_id} were not scored on the same images.")
    own, other = (scores_of_images(each, name).mean(axis=0) for each in (a, b))  # (n,) each
    patients = [a.patients[image] for image in a.images]
    seed_text = stats.shared_seed(str(part(a, "scored")["sha256"]), a.images)
    return paired_difference(own, other, patients, seed_text=seed_text)


def dataset_name(record: Record) -> str:
    """Name the data set of a run, and the one that was scored where that is another, or shifted."""
    own, scored = str(record.facts["dataset"]), str(record.facts["scored"])
    shift = part(record, "scored")["shift"]
    return (own if scored == own else f"{own} to {scored}") + (f" ({shift})" if shift else "")


def label(record: Record) -> str:
    """Name the backbone of a run as a board shows it: with what is unusual about it."""
    asked = record.facts.get("asked_options")
    options = asked.items() if isinstance(asked, Mapping) else ()
    marks = ["random"] if record.facts.get("random_twin") else []
    if record.facts.get("own_checkpoint"):
        marks.append(str(part(record, "backbone")["weights"])[:14])
    marks += [f"{key}={value}" for key, value in options]
    if isinstance(record.spec["ttt"], Mapping):
        marks.append(" ".join(["ttt", *(f"{key}={v}" for key, v in record.spec["ttt"].items())]))
    name = str(part(record, "backbone")["name"])
    return f"{name} ({', '.join(marks)})" if marks else name


def recipe(record: Record) -> str:
    """Tell what of the training is unlike the backbone's own; empty where nothing is."""
    asked = record.facts.get("asked_recipe")
    changes = dict(asked) if isinstance(asked, Mapping) else {}
    for name, usual in (("precision", "fp32"), ("seed", 0)):
        own = record.spec[name] if name == "precision" else part(record, "protocol")[name]
        if own != usual:
            changes[name] = own
    return ", ".join(f"{key} {value}" for key, value in changes.items())


def part(record: Record, name: str) -> Mapping[str, object]:
    """Give one part of a run's identity: "dataset", "backbone", "head", "protocol" or "view"."""
    value = record.spec[name]
    assert isinstance(value, Mapping)
    return value
