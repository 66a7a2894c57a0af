"""Agreement of nuclei, one by one: panoptic quality and the aggregated Jaccard index.

Predicted nuclei are made from the predicted mask in two ways, each with its own counts and scores:
by a watershed on the distance map, which tells touching nuclei apart (`bench.metrics._watershed`),
and as the 8-connected components of the mask (the suffix `_cc`).

`pq` = `dq` * `sq` (Kirillov et al., "Panoptic segmentation", CVPR 2019, equation 1): nuclei match
where their IoU is above 0.5, so a match is the only one of either; dq is the F1 of matches, sq
their mean IoU. `aji` (Kumar et al., IEEE Transactions on Medical Imaging 36:7, 2017, algorithm 1)
takes for each true nucleus the predicted one of largest IoU, which several may take; predicted
nuclei that none takes, and true ones that meet none, add their area to the union. `aji_plus`
(Graham et al., "HoVer-Net", Medical Image Analysis 58, 2019, section 4.1) pairs one to one, so that
the sum of IoU is largest. Nuclei are put into raster order first, so their numbers do not matter
where two choices are equally good; of two that are so for `aji`, the larger overlap is taken.
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
    """Which predicted and true nuclei share pixels: m pairs of P predicted and T true nuclei.

    Attributes:
        predicted, true: (m,) their numbers, from 0 in raster order of their first pixels.
        shared: (m,) pixels of both.
        union: (m,) pixels of either.
        predicted_px, true_px: (P,) and (T,) pixels of each nucleus.
    """

    predicted: np.ndarray
    true: np.ndarray
    shared: np.ndarray
    union: np.ndarray
    predicted_px: np.ndarray
    true_px: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """Shared pixels over pixels of either: (m,)."""
        return self.shared / self.union


def overlaps(predicted: np.ndarray, true: np.ndarray) -> Overlaps:
    """Lay two maps of instances over each other; both (H, W) integers, 0 = background."""
    found, truth = _in_raster_order(predicted), _in_raster_order(true)  # (H, W) from 1
    predicted_px, true_px = np.bincount(found.ravel())[1:], np.bincount(truth.ravel())[1:]
    both = (found > 0) & (truth > 0)
    pairs, shared = np.unique(
        (found[both] - 1) * len(true_px) + truth[both] - 1, return_counts=True
    )
    ours, theirs = np.divmod(pairs, max(len(true_px), 1))
    union = predicted_px[ours] + true_px[theirs] - shared
    return Overlaps(ours, theirs, shared, union, predicted_px, true_px)


def components(mask: np.ndarray) -> np.ndarray:
    """Number the 8-connected components of a mask, (H, W) bool: (H, W) from 1."""
    from scipy.ndimage import label

    numbered = np.zeros(mask.shape, np.int32)
    label(mask, np.ones((3, 3)), output=numbered)
    return numbered


WAYS = {"": split, "_cc": components}
"""How nuclei are made of a mask, by the suffix of the counts and scores."""


def count_instances(prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
    """Count nuclei, matches and pixels of both aggregated indices, for nuclei made in each way."""
    assert prediction.mask.shape == truth.shape
    assert prediction.mask.dtype == bool
    return {
        f"{name}{suffix}": count
        for suffix, made in WAYS.items()
        for name, count in count_overlaps(overlaps(made(prediction.mask), truth)).items()
    }


def count_overlaps(pairs: Overlaps) -> dict[str, float]:
    """Count what panoptic quality and both aggregated Jaccard indices are made of."""
    matched = 2 * pairs.shared > pairs.union
    best, assigned = _best(pairs), _assigned(pairs)
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
    """Number instances, (H, W) with 0 for background, from 1 in the order of their first pixels."""
    inside = instances != 0
    _, first, number = np.unique(instances[inside], return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(1, len(first) + 1)
    ordered = np.zeros(instances.shape, np.int64)
    ordered[inside] = place[number]
    return ordered


def _best(pairs: Overlaps) -> np.ndarray:
    """Choose for each true nucleus that meets any the pair of largest IoU: indices of pairs."""
    order = np.lexsort((pairs.predicted, -pairs.shared, -pairs.iou, pairs.true))
    return order[np.unique(pairs.true[order], return_index=True)[1]]


def _assigned(pairs: Overlaps) -> np.ndarray:
    """Choose pairs, one to one, of the largest sum of IoU: indices of pairs.

    Nuclei that do not meet, not even by way of others, are none of each other's business: a small
    assignment for each group that does takes no time, where one for the whole image would.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes = len(pairs.predicted_px) + len(pairs.true_px)
    edges = (np.ones(len(pairs.true)), (pairs.predicted, len(pairs.predicted_px) + pairs.true))
    group = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)[1]
    of_pair = group[pairs.predicted]
    order = np.argsort(of_pair, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(of_pair[order])) + 1)
    return np.concatenate([own if len(own) < 2 else _paired(pairs, own) for own in groups])


def _paired(pairs: Overlaps, own: np.ndarray) -> np.ndarray:
    """Choose among the pairs of one group, given and returned as indices of pairs."""
    from scipy.optimize import linear_sum_assignment

    rows, row = np.unique(pairs.predicted[own], return_inverse=True)
    columns, column = np.unique(pairs.true[own], return_inverse=True)
    pair, iou = np.full((len(rows), len(columns)), -1), np.zeros((len(rows), len(columns)))
    pair[row, column], iou[row, column] = own, pairs.shared[own] / pairs.union[own]
    together = pair[linear_sum_assignment(iou, maximize=True)]
    return together[together >= 0]


def _union(pairs: Overlaps, chosen: np.ndarray) -> float:
    """Add the unions of the chosen pairs and the areas of the nuclei that are in none."""
    lone = np.delete(pairs.predicted_px, pairs.predicted[chosen]).sum()
    missed = np.delete(pairs.true_px, pairs.true[chosen]).sum()
    return pairs.union[chosen].sum() + lone + missed


# ---- from counts to scores -------------------------------------------------------------------


def aji(counts: InstanceCounts) -> np.ndarray:
    """Shared pixels over pixels of either, each true nucleus with its best predicted one."""
    return _ratio(counts["aji_shared"], counts["aji_union"], empty=1.0)


def aji_plus(counts: InstanceCounts) -> np.ndarray:
    """Shared pixels over pixels of either, paired one to one."""
    return _ratio(counts["aji_plus_shared"], counts["aji_plus_union"], empty=1.0)


def dq(counts: InstanceCounts) -> np.ndarray:
    """Detection quality: 2 matches / (predicted + true nuclei)."""
    nuclei = counts["nuclei_predicted"] + counts["nuclei_true"]
    return _ratio(2 * counts["nuclei_matched"], nuclei, empty=1.0)


def sq(counts: InstanceCounts) -> np.ndarray:
    """Segmentation quality: mean IoU of the matches."""
    nothing_to_match = np.where(_has_nuclei(counts), 0.0, 1.0)
    return _ratio(counts["matched_iou"], counts["nuclei_matched"], empty=nothing_to_match)


def pq(counts: InstanceCounts) -> np.ndarray:
    """Panoptic quality."""
    return dq(counts) * sq(counts)


def _ratio(part: np.ndarray, whole: np.ndarray, *, empty: float | np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), empty)


def _has_nuclei(counts: InstanceCounts) -> np.ndarray:
    return counts["nuclei_predicted"] + counts["nuclei_true"] > 0


def _has_matches(counts: InstanceCounts) -> np.ndarray:
    return counts["nuclei_matched"] > 0


def _each_way(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Let scores read the counts of each way, under names with its suffix."""

    def of(score: Score, suffix: str) -> Score:
        def read(counts: InstanceCounts) -> np.ndarray:
            own = [name for name in counts if name.endswith(suffix)]
            return score({name.removesuffix(suffix): counts[name] for name in own})

        return read

    return {f"{name}{suffix}": of(scores[name], suffix) for suffix in WAYS for name in scores}


SCORES = {"aji": aji, "aji_plus": aji_plus, "dq": dq, "sq": sq, "pq": pq}
DEFINED = dict.fromkeys(SCORES, _has_nuclei) | {"sq": _has_matches}

METRIC = Metric(
    name="instances",
    title="Nuclei one by one: aggregated Jaccard, detection, segmentation, panoptic quality",
    count=count_instances,
    scores=_each_way(SCORES),
    defined=_each_way(DEFINED),
)
