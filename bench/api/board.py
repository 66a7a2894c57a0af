"""Leaderboards: options, scores with intervals, rows and comparison groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.api.record import Record

HEADLINE = ("dice", "dice_macro", "ap", "bf1")

METHODS = ("expanded", "percentile", "bca")
RESAMPLES = 10_000

BEST, TIED, WORSE = "best", "tied with the best", "worse"  # values of `Standing.decision`


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
        vary: in what the rows of a group may differ, all else equal: see `bench.board.comparable`.
    """

    metric: str = "dice"
    dataset: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    shots: int | None = None
    ci: str = "expanded"
    resamples: int = RESAMPLES
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
    summary: Summary
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
    """A run on a leaderboard, or the runs of an untrained control with different seeds.

    Attributes:
        record: the run; with several seeds, a record with the trials of all.
        runs: the committed runs: `record`, or one per seed.
        standing: its rank and the decision about it; None before `bench.board.blocks.rank_block`.
        marks: flags that follow from its scores ("at chance (dice_macro)").
        settings: descriptions of its settings that vary within the group, besides backbone, head
            and view: "protocol" and "recipe".
    """

    record: Record
    runs: Sequence[Record]
    backbone: str
    head: str
    scores: Mapping[str, Score]
    standing: Standing | None = None
    marks: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that every display of the row must show."""
        return (*self.record.flags, *self.marks)


@dataclass(frozen=True)
class ChanceRow:
    """The mean scores of a chance baseline; None for scores that need geometry."""

    baseline: str
    means: Mapping[str, float | None]


@dataclass(frozen=True)
class Block:
    """A comparison group: runs that may be compared, see `bench.board.comparable`.

    Attributes:
        title: description of what the runs share.
        key: the shared parts of their identity, by name.
        rows: best first.
        chance: the chance baselines.
        reference: label of the row with which the others are compared; "" for the best row.
        verdict: whether the group ranks its models.
        notes: caveats of its differences and decisions.
        missing: backbones of other groups of the leaderboard without a run in this one.
    """

    title: str
    key: Mapping[str, object]
    rows: Sequence[Row]
    chance: Sequence[ChanceRow] = ()
    reference: str = ""
    verdict: Separability | None = None
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """The mean difference of two models over the same images.

    Attributes:
        mean: None without images.
        p: two-sided p value of the sign-flip test; None without images.
        note: why the p value cannot be small; else "".
    """

    mean: float | None
    interval: Interval
    p: float | None
    n_patients: int
    note: str = ""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval; `low` and `high` are None with too few patients.

    Attributes:
        method: "expanded", "percentile" or "bca".
        note: why the interval is missing or unreliable; else "".
    """

    low: float | None
    high: float | None
    method: str
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """The mean of one score of one run, and its uncertainty.

    Attributes:
        mean: None without images.
        spread: standard deviation of the mean over few-shot draws, and over the seeds of an
            untrained control; None with fewer than two.
    """

    mean: float | None
    interval: Interval
    spread: float | None
    n_images: int
    n_patients: int


@dataclass(frozen=True)
class Standing:
    """The result of a model in its comparison group.

    Attributes:
        rank: 1 is the best mean; models with the same mean have the same rank.
        decision: BEST, TIED (the adjusted p value of its difference to the best is 0.05 or more) or
            WORSE; "" if no difference can be significant.
        difference: its score minus that of the reference; None for the reference itself.
        holm_p: p value of that difference, adjusted for all pairs.
    """

    rank: int
    decision: str
    difference: Difference | None
    holm_p: float | None


@dataclass(frozen=True)
class Separability:
    """How many pairs of models of a comparison group differ significantly.

    Attributes:
        models: number of models, without untrained controls.
        pairs, separated: number of pairs of these models, and of those that differ significantly.
        controls: number of untrained controls.
        controls_below: whether every control has a worse mean than every other model; None without
            controls.
        control_pairs, controls_separated: number of pairs of a control and another model, and of
            those in which the control is significantly worse.
        sentence: the result as one sentence.
    """

    patients: int
    models: int
    pairs: int
    separated: int
    controls: int
    controls_below: bool | None
    control_pairs: int
    controls_separated: int
    sentence: str = ""

    @property
    def share(self) -> float | None:
        """The share of pairs that differ significantly, from 0 to 1; None without pairs."""
        return self.separated / self.pairs if self.pairs else None
