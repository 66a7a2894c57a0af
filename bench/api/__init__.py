"""The vocabulary: values that flow between packages, and the records of plug-ins.

Images go in, one extractor turns them into feature maps, one head turns those into predictions;
everything after that is counting, statistics and display. Importing this package loads no torch:
`FeatureExtractor`, `Head` and the other torch classes of `bench.api.nn` are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from bench.api.board import (
    HEADLINE,
    METHODS,
    RESAMPLES,
    Block,
    BoardOptions,
    ChanceRow,
    Difference,
    Interval,
    Row,
    Score,
    Separability,
    Standing,
    Summary,
)
from bench.api.data import (
    Counts,
    Labelled,
    Prediction,
    Progress,
    Sample,
)
from bench.api.experiment import (
    Adaptation,
    LinearRecipe,
    PlanOptions,
    Recipe,
    SeriesOptions,
    Trial,
)
from bench.api.plugins import (
    Backbone,
    BackboneFamily,
    Dataset,
    Download,
    HeadPlugin,
    Leaderboard,
    Metric,
    Protocol,
    Series,
    Weights,
)
from bench.api.record import (
    SCHEMA,
    Draw,
    Record,
    TrialResult,
    canonical,
    draw_of,
    from_bytes,
    identify,
    to_bytes,
    trial_from,
)
from bench.api.report import (
    Band,
    Cell,
    Column,
    Curve,
    CurvePlot,
    Fit,
    IntervalPlot,
    Outcome,
    Point,
    ReportOptions,
    Result,
    SeriesReport,
    Table,
    p_cell,
    several,
)
from bench.api.run_config import Grid, Output, RunConfig

if TYPE_CHECKING:
    from bench.api.nn import (
        FeatureExtractor,
        Head,
        LinearClassifier,
        Objective,
        SelfSupervised,
        cross_entropy_and_dice,
        full_precision,
        loss_of_margin,
    )

__all__ = [
    "HEADLINE",
    "METHODS",
    "RESAMPLES",
    "SCHEMA",
    "Adaptation",
    "Backbone",
    "BackboneFamily",
    "Band",
    "Block",
    "BoardOptions",
    "Cell",
    "ChanceRow",
    "Column",
    "Counts",
    "Curve",
    "CurvePlot",
    "Dataset",
    "Difference",
    "Download",
    "Draw",
    "FeatureExtractor",
    "Fit",
    "Grid",
    "Head",
    "HeadPlugin",
    "Interval",
    "IntervalPlot",
    "Labelled",
    "Leaderboard",
    "LinearClassifier",
    "LinearRecipe",
    "Metric",
    "Objective",
    "Outcome",
    "Output",
    "PlanOptions",
    "Point",
    "Prediction",
    "Progress",
    "Protocol",
    "Recipe",
    "Record",
    "ReportOptions",
    "Result",
    "Row",
    "RunConfig",
    "Sample",
    "Score",
    "SelfSupervised",
    "Separability",
    "Series",
    "SeriesOptions",
    "SeriesReport",
    "Standing",
    "Summary",
    "Table",
    "Trial",
    "TrialResult",
    "Weights",
    "canonical",
    "cross_entropy_and_dice",
    "draw_of",
    "from_bytes",
    "full_precision",
    "identify",
    "loss_of_margin",
    "p_cell",
    "several",
    "to_bytes",
    "trial_from",
]


def __getattr__(name: str) -> object:
    """Import the torch classes on first use."""
    if name in __all__:
        return getattr(import_module("bench.api.nn"), name)
    raise AttributeError(f"module 'bench.api' has no attribute {name!r}")
