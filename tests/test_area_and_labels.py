"""Area under a curve and labels needed, against manual values; and plots of curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.api.report import Curve, CurvePlot, Point
from bench.errors import BenchError
from bench.figures.curves import draw
from bench.stats import bootstrap
from bench.stats.curves import area, curve, labels_needed

SEED = "toy\nimages"
PATIENTS = [f"{i:02d}" for i in range(12)]


def points_of(means: dict[int, float], *, noise: float = 0, seed: int = 0) -> list[Point]:
    rng = np.random.default_rng(seed)
    expected = rng.normal(scale=noise, size=12)
    return [
        Point(x, f"{x:g} labels", mean + expected + rng.normal(scale=noise / 2, size=12), PATIENTS)
        for x, mean in means.items()
    ]


def curve_of(means: dict[int, float], *, noise: float = 0) -> Curve:
    return curve(points_of(means, noise=noise), seed_text=SEED)


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ({1: 0.2, 2: 0.3, 8: 0.5, 16: 0.6}, 0.4),  # straight in log2(x)
        ({1: 0.2, 4: 0.6, 8: 0.8}, (2 * 0.4 + 1 * 0.7) / 3),
    ],
)
def test_the_area_is_a_sum_of_trapezoids_over_the_logarithm(
    means: dict[int, float], expected: float
):
    for points in (points_of(means), points_of(means)[::-1]):
        assert area(points, seed_text=SEED).mean == pytest.approx(expected)


def test_the_area_under_a_flat_curve_equals_its_score_and_interval():
    scores = np.random.default_rng(0).random((5, 12))
    points = [Point(x, f"{x}", scores, PATIENTS) for x in (1, 3, 10)]
    summary, expected = (
        area(points, seed_text=SEED),
        bootstrap.summarise(scores, PATIENTS, seed_text=SEED),
    )
    assert summary.mean == pytest.approx(expected.mean)
    assert summary.interval.low == pytest.approx(expected.interval.low)
    assert summary.interval.high == pytest.approx(expected.interval.high)
    assert summary.spread == pytest.approx(expected.spread)


def test_an_area_needs_two_different_x():
    with pytest.raises(BenchError, match="two x or more"):
        area(points_of({1: 0.3}), seed_text=SEED)
    with pytest.raises(BenchError, match="both have x = 1"):
        area(points_of({1: 0.3}) * 2, seed_text=SEED)


@pytest.mark.parametrize(
    ("means", "full", "share", "x", "text"),
    [
        ({1: 0.2, 4: 0.6, 16: 0.8}, 0.8, 0.5, 2, "2 (2)"),  # half way from 1 to 4
        ({2: 0.7, 4: 0.8}, 0.7, 0.95, 2, "<= 2 (<= 2)"),
        ({1: 0.2, 4: 0.6, 4000: 0.7}, 0.8, 0.95, None, "> 4,000 (> 4,000)"),
        ({1: 0.2, 2: 0.8, 4: 0.3, 8: 0.8}, 0.8, 1, 2, "2 (2)"),  # the first crossing
    ],
)
def test_labels_needed_are_interpolated_in_the_logarithm_and_never_extrapolated(
    means: dict[int, float], full: float, share: float, x: float | None, text: str
):
    needed = labels_needed(curve_of(means), np.full(12, full), share=share)
    expected = x if x is None else pytest.approx(x)
    assert (needed.x, needed.low, needed.high) == (expected, expected, expected)
    assert needed.target == pytest.approx(share * full)
    assert needed.text == text


def test_the_interval_of_labels_needed_may_exceed_the_largest_x():
    means = {1: 0.2, 2: 0.4, 4: 0.6, 8: 0.72}
    full = points_of({1: 0.75}, noise=0.08, seed=5)[0].scores
    needed = labels_needed(curve_of(means, noise=0.08), full)
    assert needed.low is not None
    assert 2 < needed.low < 8
    assert needed.high is None
    assert needed.text.endswith("to > 8)")


def test_the_full_run_and_the_curve_are_resampled_together():
    expected = np.random.default_rng(0).uniform(0.5, 1, size=12)
    points = [Point(x, f"{x}", share * expected, PATIENTS) for x, share in ((1, 0.5), (4, 1.0))]
    needed = labels_needed(curve(points, seed_text=SEED), expected, share=0.75)
    assert (needed.x, needed.low, needed.high) == pytest.approx((2, 2, 2))


def test_fewer_than_five_patients_have_labels_needed_without_an_interval():
    points = [Point(x, f"{x}", np.full(3, x / 8), ["a", "b", "c"]) for x in (2, 4)]
    needed = labels_needed(curve(points, seed_text=SEED), np.full(3, 0.5), share=0.75)
    assert (needed.x, needed.low, needed.text) == (pytest.approx(8**0.5), None, "2.83")
    assert needed.note == "no interval: n = 3, fewer than 5"


def test_other_images_or_an_invalid_share_are_refused():
    needed = curve_of({1: 0.2, 4: 0.6})
    with pytest.raises(BenchError, match="full score has 3 images, the curve 12"):
        labels_needed(needed, np.ones(3))
    with pytest.raises(BenchError, match="above 0, at most 1"):
        labels_needed(needed, np.ones(12), share=95)


# ---- plots -----------------------------------------------------------------------------------

PLOT = CurvePlot(
    "Few labels",
    {
        "a law": curve_of({1: 0.2, 2: 0.4, 4: 0.52, 8: 0.6, 16: 0.64}, noise=0.05),
        "a $line_": curve_of({1: 0.3, 4: 0.5}, noise=0.05),
    },
    "labelled images",
    "Dice",
)


@pytest.mark.parametrize(
    ("kind", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_a_plot_has_the_requested_format_and_is_reproducible(
    kind: str, start: bytes, tmp_path: Path
):
    paths = [draw([PLOT], tmp_path / name / f"curve.{kind}")[0] for name in "ab"]
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(start)
    assert len(first) > 5000
    assert first == second
    assert b"dc:date" not in first


def test_plots_of_many_large_x_are_numbered_and_differ(tmp_path: Path):
    sizes = {int(86e6 * 1.5**i): 0.5 + 0.02 * i for i in range(12)}
    large = CurvePlot("t", {"sizes": curve_of(sizes)}, "x", "y")
    one, other = draw([PLOT, large], tmp_path / "curve.SVG")
    assert (one.name, other.name) == ("curve-1.SVG", "curve-2.SVG")
    assert other.stat().st_size > 5000
    assert one.read_bytes() != other.read_bytes()


def test_an_unknown_format_or_no_curves_are_refused(tmp_path: Path):
    with pytest.raises(BenchError, match=r"\.svg, \.png, \.pdf"):
        draw([PLOT], tmp_path / "curve.gif")
    with pytest.raises(BenchError, match="no curves"):
        draw([], tmp_path / "curve.svg")
    assert not list(tmp_path.iterdir())
