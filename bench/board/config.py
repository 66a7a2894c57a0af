"""Options of `bench leaderboard`, `compare`, `explain` and `report`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, replace
from pathlib import Path

from bench.api.board import HEADLINE, METHODS, RESAMPLES, BoardOptions
from bench.api.options import check_choices, option
from bench.errors import BenchError

RUNS, SCORES, IMAGES, OUTPUT = "Runs", "Scores", "Images", "Output"


@dataclass(frozen=True, kw_only=True)
class RunFilters:
    """The options that select runs of a results folder."""

    dataset: tuple[str, ...] = option(
        (),
        "Only runs on these data sets: names or folders.",
        panel=RUNS,
        choices="datasets",
        many=True,
    )
    protocol: tuple[str, ...] = option(
        (), "Only runs of these protocols.", panel=RUNS, choices="protocols", many=True
    )
    head: tuple[str, ...] = option(
        (), "Only runs with these heads.", panel=RUNS, choices="heads", many=True
    )
    results: Path = option(Path("results"), "The folder of the results.", panel=RUNS)

    def board_options(self) -> BoardOptions:
        """Return the options of a leaderboard of these runs.

        Raises:
            BenchError: an option is invalid, or a folder is not a data set.
        """
        from bench.board.select import data_sets

        return BoardOptions(dataset=data_sets(self.dataset), protocol=self.protocol, head=self.head)


@dataclass(frozen=True, kw_only=True)
class RankingFilters(RunFilters):
    """The options that select runs and the scores of a leaderboard."""

    metric: tuple[str, ...] = option(
        ("dice",),
        "The score by which rows are sorted, and further scores to show.",
        panel=SCORES,
        many=True,
    )

    def board_options(self) -> BoardOptions:
        """Return the options of a leaderboard; raise a BenchError if one is invalid."""
        from bench.board.scores import check

        metric, *others = self.metric
        options = replace(super().board_options(), metric=metric, also=tuple(others) or HEADLINE)
        check(options)
        return options


@dataclass(frozen=True, kw_only=True)
class LeaderboardConfig(RankingFilters):
    """The options of `bench leaderboard`."""

    board: str = option(
        "ranking",
        "The leaderboard; `bench list leaderboards` describes them.",
        panel=RUNS,
        choices="leaderboards",
    )
    vary: tuple[str, ...] = option(
        ("backbone",),
        "What the runs of a group may differ in: backbone, head, recipe, view or protocol.",
        panel=RUNS,
        many=True,
    )
    reference: str | None = option(
        None,
        "Show the difference of each row to the row of this backbone, paired by patient.",
        panel=SCORES,
    )
    ci: str = option(
        "expanded",
        "The interval: expanded or bca resample patients; percentile resamples images, as the "
        "paper does.",
        panel=SCORES,
        choices=METHODS,
    )
    resamples: int = option(RESAMPLES, "The number of bootstrap resamples.", panel=SCORES)
    show_published: bool = option(
        False, "Show the scores printed in the paper below each group.", panel=OUTPUT
    )
    csv: bool = option(False, "Print CSV with one row per run and score.", panel=OUTPUT)
    latex: bool = option(False, "Print LaTeX tables with booktabs.", panel=OUTPUT)
    markdown: bool = option(False, "Print Markdown tables.", panel=OUTPUT)
    svg: Path | None = option(None, "Also write the tables to this SVG file.", panel=OUTPUT)

    def board_options(self) -> BoardOptions:
        """Return the options of the leaderboard; raise a BenchError if one is invalid."""
        from bench.board.comparable import check_vary

        check_choices(self)
        check_vary(self.vary)
        if self.resamples < 100:
            raise BenchError(f"--resamples {self.resamples}: use 100 or more.")
        if self.svg is not None and self.svg.suffix.lower() != ".svg":
            raise BenchError(f"--svg {self.svg} is not an SVG file. Use a name that ends in .svg.")
        return replace(
            super().board_options(),
            ci=self.ci,
            resamples=self.resamples,
            reference=self.reference,
            vary=self.vary,
        )


@dataclass(frozen=True, kw_only=True)
class ReportConfig(RankingFilters):
    """The options of `bench report`."""

    data: Path | None = option(None, "The folder of the data sets.", panel=IMAGES)
    out: Path = option(Path("report"), "The folder to write.", panel=OUTPUT)


@dataclass(frozen=True, kw_only=True)
class PairFilters(RunFilters):
    """The options that select two runs and the score in which they are compared."""

    shots: int | None = option(None, "Only few-shot runs with this number of images.", panel=RUNS)
    vary: tuple[str, ...] = option(
        ("backbone",),
        "What the two runs may differ in: backbone, head, recipe, view or protocol.",
        panel=RUNS,
        many=True,
    )
    metric: str = option("dice", "The score by which images differ most.", panel=SCORES)

    def board_options(self) -> BoardOptions:
        """Return the options that select the two runs; raise a BenchError if one is invalid."""
        from bench.board.comparable import check_vary
        from bench.board.scores import check

        check_vary(self.vary)
        if self.shots is not None and self.shots < 1:
            raise BenchError(f"--shots {self.shots}: use 1 or more.")
        options = replace(
            super().board_options(), metric=self.metric, shots=self.shots, vary=self.vary
        )
        check(options)
        return options


@dataclass(frozen=True, kw_only=True)
class CompareConfig(PairFilters):
    """The options of `bench compare`."""

    worst: int = option(10, "The number of images to list: those that differ most.", panel=IMAGES)

    def board_options(self) -> BoardOptions:
        """Return the options that select the two runs; raise a BenchError if one is invalid."""
        if self.worst < 0:
            raise BenchError(f"--worst {self.worst}: use 0 or more.")
        return super().board_options()


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(PairFilters):
    """The options of `bench explain`."""

    images: int = option(6, "The number of images to draw: those that differ most.", panel=IMAGES)
    data: Path | None = option(None, "The folder of the data sets.", panel=IMAGES)
    out: Path = option(MISSING, "The file to write: .png, .svg or .pdf.", panel=OUTPUT)

    def board_options(self) -> BoardOptions:
        """Return the options that select the two runs; raise a BenchError if one is invalid."""
        if self.images < 1:
            raise BenchError(f"--images {self.images}: use 1 or more.")
        return super().board_options()
