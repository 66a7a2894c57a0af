"""Instance metrics: panoptic quality and the aggregated Jaccard index of nuclei.

Predicted nuclei are computed from the predicted mask by two methods with separate counts and
scores: a watershed on the distance map, which separates touching nuclei
(`bench.metrics._watershed`), and 8-connected components (suffix `_cc`).

`pq` = `dq` * `sq` (Kirillov et al., "Panoptic segmentation", CVPR 2019, equation 1): a predicted
and a true nucleus match if their IoU is above 0.5, so matches are unique; dq is the F1 of matches,
sq their mean IoU. `aji` (Kumar et al., IEEE Transactions on Medical Imaging 36:7, 2017, algorithm
1) pairs each true nucleus with the predicted one of largest IoU, which may be paired repeatedly;
the areas of unpaired predicted and true nuclei are added to the union. `aji_plus` (Graham et al.,
"HoVer-Net", Medical Image Analysis 58, 2019, section 4.1) uses the one-to-one pairing of largest
total IoU. Nuclei are sorted in raster order first, so ties do not depend on their labels; `aji`
prefers the larger overlap among equal IoUs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bench.api import Metric, Prediction

from ._watershed import split

InstanceCounts = Mapping[str, np.ndarray]
Score = Callable[[InstanceCounts], np.ndarray]


@dataclass(frozen=True)
class Overlaps:
    """The m overlapping pairs of P predicted and T true nuclei.

    Attributes:
        predicted, true: (m,) indices of nuclei, in raster order of their first pixels.
        shared: (m,) pixels of the intersection.
        union: (m,) pixels of the union.
        predicted_px, true_px: (P,) and (T,) areas in pixels.
    """

    predicted: np.ndarray
    true: np.ndarray
    shared: np.ndarray
    union: np.ndarray
    predicted_px: np.ndarray
    true_px: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union, (m,)."""
        return self.shared / self.union


def overlaps(predicted: np.ndarray, true: np.ndarray) -> Overlaps:
    """Return the overlapping pairs of two instance maps, (H, W) integers, 0 is background."""
    predicted, true = _in_raster_order(predicted), _in_raster_order(true)  # (H, W) from 1
    predicted_px, true_px = np.bincount(predicted.ravel())[1:], np.bincount(true.ravel())[1:]
    both = (predicted > 0) & (true > 0)
    pairs, shared = np.unique(
        (predicted[both] - 1) * len(true_px) + true[both] - 1, return_counts=True
    )
    of_predicted, of_true = np.divmod(pairs, max(len(true_px), 1))
    union = predicted_px[of_predicted] + true_px[of_true] - shared
    return Overlaps(of_predicted, of_true, shared, union, predicted_px, true_px)


def components(mask: np.ndarray) -> np.ndarray:
    """Label the 8-connected components of a mask, (H, W) bool: (H, W) int32 from 1."""
    from scipy.ndimage import label

    labels = np.zeros(mask.shape, np.int32)
    label(mask, np.ones((3, 3)), output=labels)
    return labels


SPLITTERS = {"": split, "_cc": components}
"""Functions from a mask to instances, by the suffix of their counts and scores."""


def count_instances(prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Count nuclei, matches and pixels of one image, for both methods of splitting the mask.

    Args:
        prediction: mask (H, W).
        truth: (H, W) int32 instances, 0 is background.
    """
    assert prediction.mask.shape == truth.shape
    assert prediction.mask.dtype == bool
    return {
        f"{name}{suffix}": count
        for suffix, splitter in SPLITTERS.items()
        for name, count in count_overlaps(overlaps(splitter(prediction.mask), truth)).items()
    }


def count_overlaps(pairs: Overlaps) -> dict[str, float]:
    """Return the counts that panoptic quality and both aggregated Jaccard indices need."""
    matched = 2 * pairs.shared > pairs.union
    best, assigned = _best_pairs(pairs), _one_to_one_pairs(pairs)
    counts = {
        "nuclei_predicted": len(pairs.predicted_px),
        "nuclei_true": len(pairs.true_px),
        "nuclei_matched": np.count_nonzero(matched),
        "matched_iou": pairs.iou[matched].sum(),
        "aji_shared": pairs.shared[best].sum(),
        "aji_union": _union(pairs, best),
        "aji_plus_shared": pairs.shared[assigned].sum(),
        "aji_plus_union": _union(pairs, assigned),
    }
    return {name: float(count) for name, count in counts.items()}


def _in_raster_order(instances: np.ndarray) -> np.ndarray:
    """Relabel instances, (H, W) with 0 for background, from 1 in order of their first pixels."""
    inside = instances != 0
    _, first, number = np.unique(instances[inside], return_index=True, return_inverse=True)
    new_label = np.empty(len(first), np.int64)
    new_label[np.argsort(first)] = np.arange(1, len(first) + 1)
    ordered = np.zeros(instances.shape, np.int64)
    ordered[inside] = new_label[number]
    return ordered


def _best_pairs(pairs: Overlaps) -> np.ndarray:
    """Return the index of the pair of largest IoU of each true nucleus that overlaps any."""
    order = np.lexsort((pairs.predicted, -pairs.shared, -pairs.iou, pairs.true))
    return order[np.unique(pairs.true[order], return_index=True)[1]]


def _one_to_one_pairs(pairs: Overlaps) -> np.ndarray:
    """Return the indices of the one-to-one pairs of largest total IoU.

    The assignment is solved per connected component of the graph of overlaps, which is much faster
    than one assignment for the whole image.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes = len(pairs.predicted_px) + len(pairs.true_px)
    edges = (np.ones(len(pairs.true)), (pairs.predicted, len(pairs.predicted_px) + pairs.true))
    group = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)[1]
    of_pair = group[pairs.predicted]
    order = np.argsort(of_pair, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(of_pair[order])) + 1)
    return np.concatenate([ids if len(ids) < 2 else _assign(pairs, ids) for ids in groups])


def _assign(pairs: Overlaps, ids: np.ndarray) -> np.ndarray:
    """Solve the assignment among the pairs `ids` of one component; return the chosen ids."""
    from scipy.optimize import linear_sum_assignment

    rows, row = np.unique(pairs.predicted[ids], return_inverse=True)
    columns, column = np.unique(pairs.true[ids], return_inverse=True)
    pair, iou = np.full((len(rows), len(columns)), -1), np.zeros((len(rows), len(columns)))
    pair[row, column], iou[row, column] = ids, pairs.shared[ids] / pairs.union[ids]
    assigned = pair[linear_sum_assignment(iou, maximize=True)]
    return assigned[assigned >= 0]


def _union(pairs: Overlaps, chosen: np.ndarray) -> float:
    """Sum the unions of the chosen pairs and the areas of all unpaired nuclei."""
    unpaired = np.delete(pairs.predicted_px, pairs.predicted[chosen]).sum()
    missed = np.delete(pairs.true_px, pairs.true[chosen]).sum()
    return pairs.union[chosen].sum() + unpaired + missed


# ---- from counts to scores -------------------------------------------------------------------


def aji(counts: InstanceCounts) -> np.ndarray:
    """Return the aggregated Jaccard index: true nuclei paired with the best predicted ones."""
    return _ratio(counts["aji_shared"], counts["aji_union"], empty=1.0)


def aji_plus(counts: InstanceCounts) -> np.ndarray:
    """Return the aggregated Jaccard index of the one-to-one pairing."""
    return _ratio(counts["aji_plus_shared"], counts["aji_plus_union"], empty=1.0)


def dq(counts: InstanceCounts) -> np.ndarray:
    """Return the detection quality: 2 matches / (predicted + true nuclei)."""
    nuclei = counts["nuclei_predicted"] + counts["nuclei_true"]
    return _ratio(2 * counts["nuclei_matched"], nuclei, empty=1.0)


def sq(counts: InstanceCounts) -> np.ndarray:
    """Return the segmentation quality: the mean IoU of the matches."""
    empty = np.where(_has_nuclei(counts), 0.0, 1.0)
    return _ratio(counts["matched_iou"], counts["nuclei_matched"], empty=empty)


def pq(counts: InstanceCounts) -> np.ndarray:
    """Return the panoptic quality, dq * sq."""
    return dq(counts) * sq(counts)


def _ratio(part: np.ndarray, whole: np.ndarray, *, empty: float | np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), empty)


def _has_nuclei(counts: InstanceCounts) -> np.ndarray:
    return counts["nuclei_predicted"] + counts["nuclei_true"] > 0


def _with_suffixes(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Return every score once per splitter, named by and computed from counts with its suffix."""

    def score_of_suffix(score: Score, suffix: str) -> Score:
        def compute(counts: InstanceCounts) -> np.ndarray:
            names = [name for name in counts if name.endswith(suffix)]
            return score({name.removesuffix(suffix): counts[name] for name in names})

        return compute

    return {
        f"{name}{suffix}": score_of_suffix(score, suffix)
        for suffix in SPLITTERS
        for name, score in scores.items()
    }


SCORES = {"aji": aji, "aji_plus": aji_plus, "dq": dq, "sq": sq, "pq": pq}
DEFINED = dict.fromkeys(SCORES, _has_nuclei) | {"sq": lambda counts: counts["nuclei_matched"] > 0}

METRIC = Metric(
    name="instances",
    title="Nuclei one by one: aggregated Jaccard, detection, segmentation, panoptic quality",
    count=count_instances,
    scores=_with_suffixes(SCORES),
    defined=_with_suffixes(DEFINED),
)
