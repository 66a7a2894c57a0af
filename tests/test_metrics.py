"""Scores of the foreground: scikit-learn, loops over all pairs of pixels, manual values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import binary_erosion, distance_transform_edt
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from bench import registry
from bench.api import Metric, Prediction
from bench.metrics import METRICS_VERSION, boundary, dice

FAMILIES = [dice.METRIC, boundary.METRIC]  # the others have their own files
masks = array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


def count(family: Metric, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    prediction = Prediction(predicted, predicted.astype(np.float32))
    return family.count(prediction, true.astype(np.int32))


def tabulate(family: Metric, predicted: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.array([n]) for name, n in count(family, predicted, true).items()}


def scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {
        name: score(tabulate(family, predicted, true)).item()
        for family in FAMILIES
        for name, score in family.scores.items()
    }


def defined(predicted: np.ndarray, true: np.ndarray) -> dict[str, bool]:
    return {
        name: rule(tabulate(family, predicted, true)).item()
        for family in FAMILIES
        for name, rule in family.defined.items()
    }


def square(top: int, left: int, side: int, shape: tuple[int, int] = (40, 40)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def eroded_away(mask: np.ndarray) -> np.ndarray:
    return mask & ~np.asarray(binary_erosion(mask, border_value=1), bool)


EMPTY, FULL = np.zeros((40, 40), dtype=bool), np.ones((40, 40), dtype=bool)


def test_counts_and_scores_of_a_small_mask():
    predicted = np.array([[1, 1, 0], [0, 0, 0]], dtype=bool)
    true = np.array([[1, 0, 0], [1, 1, 0]], dtype=bool)
    assert count(dice.METRIC, predicted, true) == {"tp": 1, "fp": 1, "fn": 2, "tn": 2}
    result = scores(predicted, true)
    assert result["dice"] == pytest.approx(2 / 5)
    assert result["iou"] == pytest.approx(1 / 4)
    assert result["precision"] == pytest.approx(1 / 2)
    assert result["recall"] == pytest.approx(1 / 3)
    assert result["dice_macro"] == pytest.approx((2 / 5 + 4 / 7) / 2)
    assert result["precision_macro"] == pytest.approx((1 / 2 + 2 / 4) / 2)


@given(masks)
def test_overlap_scores_agree_with_scikit_learn(pair: tuple[np.ndarray, np.ndarray]):
    predicted, true = pair
    assume(predicted.any() and true.any() and not (predicted.all() and true.all()))
    result = scores(predicted, true)
    labels = {"y_true": true.ravel(), "y_pred": predicted.ravel(), "zero_division": 0}
    assert result["dice"] == pytest.approx(f1_score(**labels))
    assert result["iou"] == pytest.approx(jaccard_score(**labels))
    assert result["precision"] == pytest.approx(precision_score(**labels))
    assert result["recall"] == pytest.approx(recall_score(**labels))
    labels |= {"average": "macro", "labels": [False, True]}
    assert result["dice_macro"] == pytest.approx(f1_score(**labels))
    assert result["precision_macro"] == pytest.approx(precision_score(**labels))


def test_two_empty_masks_score_one_by_convention():
    assert METRICS_VERSION == 1
    assert set(scores(EMPTY, EMPTY).values()) == set(scores(FULL, FULL).values()) == {1.0}
    assert set(defined(EMPTY, EMPTY).values()) == {False}


@pytest.mark.parametrize(
    ("predicted", "true"), [(EMPTY, square(9, 9, 8)), (square(9, 9, 8), EMPTY)]
)
def test_one_empty_mask_scores_zero(predicted: np.ndarray, true: np.ndarray):
    result = scores(predicted, true)
    for name in ("dice", "iou", "precision", "recall", "bf1", "bf1_rel"):
        assert result[name] == 0.0
    assert defined(predicted, true) == {
        "dice": True,
        "iou": True,
        "precision": False,
        "precision_macro": False,
        "recall": False,
        "bf1": True,
        "bf1_rel": True,
    }


def test_the_macro_scores_of_an_empty_prediction_include_the_background():
    result = scores(EMPTY, square(0, 0, 20))
    assert result["dice_macro"] == pytest.approx((0 + 2 * 1200 / 2800) / 2)
    assert result["precision_macro"] == pytest.approx((0 + 1200 / 1600) / 2)


def test_a_mask_without_contour_is_not_treated_as_empty():
    assert scores(FULL, EMPTY)["bf1"] == scores(EMPTY, FULL)["bf1"] == 0.0
    assert scores(FULL, square(9, 9, 8))["bf1"] == scores(square(9, 9, 8), FULL)["bf1"] == 0.0


@given(masks)
def test_scores_are_bounded_and_symmetric_and_perfect_on_equal_masks(
    pair: tuple[np.ndarray, np.ndarray],
):
    predicted, true = pair
    forward, backward = scores(predicted, true), scores(true, predicted)
    assert len(forward) == 8
    assert all(0.0 <= score <= 1.0 for score in forward.values())
    for name in ("dice", "dice_macro", "iou", "bf1", "bf1_rel"):
        assert forward[name] == pytest.approx(backward[name])
    assert forward["precision"] == pytest.approx(backward["recall"])
    assert set(scores(true, true).values()) == {1.0}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_scores_are_computed_per_image(family: Metric):
    rng = np.random.default_rng(0)
    pairs = [(rng.random((20, 30)) < share, rng.random((20, 30)) < 0.3) for share in (0, 0.2, 0.9)]
    rows = [count(family, *pair) for pair in pairs]
    together = {name: np.array([counts[name] for counts in rows]) for name in rows[0]}
    for name, score in family.scores.items():
        assert score(together).tolist() == [scores(*pair)[name] for pair in pairs]


def test_names_of_counts_are_unique_and_shapes_are_checked():
    families = [registry.get("metrics", name) for name in registry.names("metrics")]
    names = [name for family in families for name in count(family, EMPTY, EMPTY)]
    assert len(names) == len(set(names))
    for family in FAMILIES:
        with pytest.raises(AssertionError):
            count(family, np.zeros((1, 40), dtype=bool), EMPTY)


@given(masks)
def test_the_contour_is_the_mask_minus_its_erosion(pair: tuple[np.ndarray, np.ndarray]):
    expected = eroded_away(pair[0])
    assert np.array_equal(boundary.contour(pair[0]), expected)


def boundary_f1_of_all_pairs(predicted: np.ndarray, true: np.ndarray, tau: float) -> float:
    """Compare every contour pixel with every other; both masks have a contour."""
    ours, theirs = (np.argwhere(eroded_away(mask)) for mask in (predicted, true))
    distances = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    precision = (distances.min(axis=1) <= tau + 1e-9).mean()
    recall = (distances.min(axis=0) <= tau + 1e-9).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(masks)
def test_boundary_f1_agrees_with_all_pairs_of_pixels(pair: tuple[np.ndarray, np.ndarray]):
    assume(all(boundary.contour(mask).any() for mask in pair))
    assert scores(*pair)["bf1"] == pytest.approx(boundary_f1_of_all_pairs(*pair, tau=2))
    assert scores(*pair)["bf1_rel"] == pytest.approx(boundary_f1_of_all_pairs(*pair, tau=1))


@pytest.mark.parametrize("shape", [(400, 400), (257, 611)])
def test_boundary_counts_agree_with_a_distance_transform(shape: tuple[int, int]):
    rng = np.random.default_rng(1)
    pair = [rng.random(shape) < share for share in (0.002, 0.003)]
    counts = count(boundary.METRIC, *pair)
    tau = max(1.0, 0.0075 * np.hypot(*shape))
    for name, points, others in [("predicted", *pair), ("true", *pair[::-1])]:
        distances = np.asarray(distance_transform_edt(~others))[points]
        assert counts[f"contour_{name}"] == points.sum()
        assert counts[f"near_{name}"] == (distances <= 2).sum()
        assert counts[f"near_{name}_rel"] == (distances <= tau + 1e-9).sum()


def test_a_distance_equal_to_the_tolerance_is_within_it():
    assert boundary.squared_relative_tau(400, 400) == 3**2 + 3**2
    assert boundary.squared_relative_tau(10, 10) == 1
    one, other = square(50, 50, 1, (400, 400)), square(53, 53, 1, (400, 400))
    assert scores(one, other)["bf1_rel"] == 1.0
    assert scores(one, square(53, 54, 1, (400, 400)))["bf1_rel"] == 0.0
    assert scores(one, square(52, 50, 1, (400, 400)))["bf1"] == 1.0
    assert scores(one, square(52, 51, 1, (400, 400)))["bf1"] == 0.0


def test_boundary_f1_of_a_shifted_square():
    # Outlines of two 9x9 squares, 4 px apart sideways. Near are, of top and bottom, all but the two
    # pixels farthest from the other square; of the inner side, the two next to either corner.
    result = scores(square(10, 10, 9), square(10, 14, 9))
    assert result["bf1"] == pytest.approx(2 * (7 + 2) / 32)
