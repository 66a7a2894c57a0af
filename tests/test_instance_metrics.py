"""Scores of nuclei: manual values, loops over all pairs, scikit-image, and symmetry."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import label

from bench.api import Prediction
from bench.metrics import _watershed, instances
from bench.metrics.instances import SCORES, components, count_overlaps, overlaps

NAMES = [f"{name}{suffix}" for suffix in ("", "_cc") for name in SCORES]
masks = array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(lambda s: arrays(bool, s))
numbers = st.integers(0, 4)
pairs_of_maps = array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: st.tuples(*[arrays(np.int32, shape, elements=numbers)] * 2)
)


def of_maps(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Score one map of instances against another."""
    counts = count_overlaps(overlaps(predicted, true))
    columns = {name: np.array([count]) for name, count in counts.items()}
    return {name: score(columns).item() for name, score in SCORES.items()}


def of_mask(mask: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Score a predicted mask, split into nuclei by both methods."""
    counts = instances.METRIC.count(Prediction(mask, mask.astype(np.float32)), true)
    columns = {name: np.array([count]) for name, count in counts.items()}
    return {name: score(columns).item() for name, score in instances.METRIC.scores.items()}


def disc(row: float, column: float, radius: float, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def numbered(*nuclei: np.ndarray) -> np.ndarray:
    result = np.zeros(nuclei[0].shape, np.int32)
    for number, nucleus in enumerate(nuclei, 1):
        result[nucleus] = number
    return result


# ---- manual values ---------------------------------------------------------------------------


def test_scores_of_a_row_of_nuclei() -> None:
    true = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3, 3]])
    predicted = np.array([[7, 7, 7, 0, 0, 0, 8, 8, 0, 0]])
    # 1 and 7: 3 of 4 pixels; 2 and 8: 1 of 3; 3 meets none and adds its 2 pixels.
    result = of_maps(predicted, true)
    assert result["dq"] == pytest.approx(2 * 1 / (2 + 3))
    assert result["sq"] == pytest.approx(3 / 4)
    assert result["pq"] == pytest.approx(2 / 5 * 3 / 4)
    assert result["aji"] == result["aji_plus"] == pytest.approx((3 + 1) / (4 + 3 + 2))


def test_aji_counts_a_merged_nucleus_twice_and_aji_plus_once() -> None:
    true = np.array([[1, 1, 1, 2, 2]])
    merged = np.array([[5, 5, 5, 5, 5]])
    result = of_maps(merged, true)
    assert result["aji"] == pytest.approx((3 + 2) / (5 + 5))
    assert result["aji_plus"] == pytest.approx(3 / (5 + 2))
    assert result["dq"] == pytest.approx(2 * 1 / 3)


def test_an_overlap_of_exactly_one_half_is_no_match() -> None:
    true, predicted = np.array([[1, 1, 0]]), np.array([[1, 0, 0]])
    assert of_maps(predicted, true) == {"aji": 0.5, "aji_plus": 0.5, "dq": 0, "sq": 0, "pq": 0}
    more = np.array([[1, 1, 1, 0]]), np.array([[1, 1, 0, 0]])
    assert of_maps(*more)["pq"] == pytest.approx(2 / 3)


def test_aji_plus_maximises_the_sum_of_the_matched_iou() -> None:
    # Predicted 1 shares 3 of 5 pixels with true 1 and 2 of 5 with true 2; predicted 2 the last of
    # true 1. Greedy: 3/5 alone. Together: 2/5 for one and 1/4 for the other is more.
    true = np.array([[1, 1, 1, 1, 2, 2, 0, 0]])
    predicted = np.array([[2, 1, 1, 1, 1, 1, 0, 0]])
    iou = {(1, 1): 3 / 6, (1, 2): 2 / 5, (2, 1): 1 / 4}
    assert iou[1, 2] + iou[2, 1] > iou[1, 1]
    assert of_maps(predicted, true)["aji_plus"] == pytest.approx((2 + 1) / (5 + 4))


def test_empty_maps_score_one_against_each_other_and_zero_otherwise() -> None:
    empty = np.zeros((30, 40), np.int32)
    some = numbered(disc(15, 20, 6, (30, 40)))
    assert of_mask(empty != 0, empty) == dict.fromkeys(NAMES, 1.0)
    assert of_mask(empty != 0, some) == dict.fromkeys(NAMES, 0.0)
    assert of_mask(some != 0, empty) == dict.fromkeys(NAMES, 0.0)
    nothing = {n: np.array([c]) for n, c in count_overlaps(overlaps(empty, empty)).items()}
    columns = nothing | {f"{name}_cc": count for name, count in nothing.items()}
    assert not any(rule(columns).item() for rule in instances.METRIC.defined.values())


def test_scores_are_computed_per_image() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.random((20, 30)) < p, label(rng.random((20, 30)) < 0.3)) for p in (0, 0.3, 0.9)]
    expected = [of_mask(mask, np.asarray(true)) for mask, true in pairs]
    rows = [
        instances.METRIC.count(Prediction(mask, mask), np.asarray(true)) for mask, true in pairs
    ]
    together = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    assert list(instances.METRIC.scores) == list(instances.METRIC.defined) == NAMES
    for name, score in instances.METRIC.scores.items():
        assert score(together).tolist() == [row[name] for row in expected]


# ---- against loops over all pairs ------------------------------------------------------------


def regions(result: np.ndarray) -> list[set[int]]:
    """Return the nuclei as sets of pixels, in raster order of their first."""
    flat = result.ravel().tolist()
    order = dict.fromkeys(number for number in flat if number)
    return [{place for place, n in enumerate(flat) if n == number} for number in order]


def iou_of(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other)


def slow_pq(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    ours, theirs = regions(predicted), regions(true)
    if not ours and not theirs:
        return 1.0, 1.0, 1.0
    matched = [iou_of(a, b) for a in ours for b in theirs if iou_of(a, b) > 0.5]
    tp, fp, fn = len(matched), len(ours) - len(matched), len(theirs) - len(matched)
    dq, sq = tp / (tp + fp / 2 + fn / 2), sum(matched) / tp if tp else 0.0
    return dq, sq, dq * sq


def slow_aji(predicted: np.ndarray, true: np.ndarray) -> float:
    ours, theirs = regions(predicted), regions(true)
    shared = union = 0
    used = set()
    for nucleus in theirs:
        key = [(iou_of(nucleus, other), len(nucleus & other), -k) for k, other in enumerate(ours)]
        best, _, number = max(key, default=(0, 0, 0))
        if best == 0:
            union += len(nucleus)
            continue
        shared += len(nucleus & ours[-number])
        union += len(nucleus | ours[-number])
        used.add(-number)
    union += sum(len(other) for k, other in enumerate(ours) if k not in used)
    return shared / union if union else 1.0


def slow_aji_plus(predicted: np.ndarray, true: np.ndarray) -> set[float]:
    """Return the scores of all assignments with the largest sum of IoU; there may be several."""
    ours, theirs = sorted([regions(predicted), regions(true)], key=len)
    result: list[tuple[float, float]] = []
    for chosen in permutations(range(len(theirs)), len(ours)):
        together = [(a, theirs[k]) for a, k in zip(ours, chosen, strict=True) if a & theirs[k]]
        union = sum(len(a | b) for a, b in together)
        lone = sum(map(len, ours + theirs)) - sum(len(a) + len(b) for a, b in together)
        shared = sum(len(a & b) for a, b in together)
        total = union + lone
        result.append((sum(iou_of(*pair) for pair in together), shared / total if total else 1.0))
    most = max(total for total, _ in result)
    return {score for total, score in result if total > most - 1e-9}


@given(pairs_of_maps)
def test_scores_agree_with_loops_over_all_pairs(pair: tuple[np.ndarray, np.ndarray]) -> None:
    result = of_maps(*pair)
    assert (result["dq"], result["sq"], result["pq"]) == pytest.approx(slow_pq(*pair))
    assert result["aji"] == pytest.approx(slow_aji(*pair))
    assert any(result["aji_plus"] == pytest.approx(score) for score in slow_aji_plus(*pair))


def test_scores_of_many_small_nuclei_agree_with_loops() -> None:
    rng = np.random.default_rng(1)
    predicted, true = (np.asarray(label(rng.random((24, 24)) < 0.35)) for _ in range(2))
    result = of_maps(predicted, true)
    assert len(regions(predicted)) > 10
    assert (result["dq"], result["sq"], result["pq"]) == pytest.approx(slow_pq(predicted, true))
    assert result["aji"] == pytest.approx(slow_aji(predicted, true))


@given(pairs_of_maps)
def test_scores_are_numbers_from_zero_to_one_and_pq_is_a_product(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    result = of_mask(pair[0] > 2, pair[1])
    assert list(result) == NAMES
    assert all(0.0 <= score <= 1.0 for score in result.values())
    for suffix in ("", "_cc"):
        assert result[f"pq{suffix}"] == pytest.approx(result[f"dq{suffix}"] * result[f"sq{suffix}"])


@given(pairs_of_maps, st.permutations([3, 70, 9, 65535]), st.permutations([8, 2, 100, 1]))
def test_scores_are_symmetric_and_invariant_to_the_instance_numbers(
    pair: tuple[np.ndarray, np.ndarray], ours: list[int], theirs: list[int]
) -> None:
    forward, backward = of_maps(*pair), of_maps(*pair[::-1])
    for name in ("dq", "sq", "pq"):
        assert forward[name] == pytest.approx(backward[name])
    assert set(of_maps(pair[0], pair[0]).values()) == {1.0}
    renamed = [np.array([0, *new])[old] for new, old in zip((ours, theirs), pair, strict=True)]
    assert of_maps(*renamed) == forward


@given(masks)
def test_instances_derived_from_the_mask_are_perfect(mask: np.ndarray) -> None:
    whole, parted = of_mask(mask, components(mask)), of_mask(mask, _watershed.split(mask))
    assert all(whole[f"{name}_cc"] == 1.0 for name in SCORES)
    assert all(parted[name] == 1.0 for name in SCORES)


def test_the_watershed_separates_touching_nuclei_and_components_do_not() -> None:
    discs = disc(30, 30, 9), disc(30, 45, 9)
    result = of_mask(discs[0] | discs[1], numbered(discs[0], discs[1] & ~discs[0]))
    assert result["dq"] == 1.0
    assert result["pq"] > 0.95
    assert result["dq_cc"] < 1.0


@given(masks)
def test_components_equal_those_of_scikit_image(mask: np.ndarray) -> None:
    assert np.array_equal(components(mask), np.asarray(label(mask, connectivity=2)))
