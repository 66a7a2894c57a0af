"""Watershed split of a mask into nuclei: manual values, and peaks of grey reconstruction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.measure import label
from skimage.morphology import local_maxima, reconstruction

from bench.metrics import _watershed
from bench.metrics.instances import components, count_overlaps, overlaps


def disc(row: float, column: float, radius: float, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


@pytest.mark.parametrize("apart", [12, 15, 18])
def test_touching_discs_are_split_at_the_neck(apart: int) -> None:
    discs = disc(30, 30, 9), disc(30, 30 + apart, 9)
    mask = discs[0] | discs[1]
    assert components(mask).max() == 1
    split = _watershed.split(mask)
    assert np.array_equal(split > 0, mask)
    assert split.max() == 2
    left = split == split[30, 30]
    middle = 30 + apart / 2
    columns = np.nonzero(mask)[1]
    assert left[mask][columns < middle - 1].all()
    assert not left[mask][columns > middle + 1].any()


def test_a_disc_an_ellipse_and_a_rod_are_one_nucleus_each() -> None:
    rows, columns = np.ogrid[:60, :80]
    ellipse = ((rows - 30) / 6) ** 2 + ((columns - 40) / 25) ** 2 <= 1
    rod = (abs(rows - 30) <= 3) & (abs(columns - 40) <= 30)
    for whole in (disc(30, 40, 20), disc(0, 0, 20), disc(30, 40, 0), ellipse, rod):
        assert _watershed.split(whole).max() == 1


@pytest.mark.parametrize(("apart", "nuclei"), [(6, 1), (8, 1), (12, 2)])
def test_a_neck_must_be_narrower_than_its_discs_by_the_prominence(apart: int, nuclei: int) -> None:
    mask = disc(30, 30, 9) | disc(30, 30 + apart, 9)
    heights = np.asarray(distance_transform_edt(mask))
    neck = heights[:, 30 + apart // 2].max()
    assert (heights.max() - neck >= _watershed.PROMINENCE_PX) == (nuclei == 2)
    assert _watershed.split(mask).max() == nuclei


def test_a_mask_without_background_or_without_nuclei_is_handled() -> None:
    assert np.array_equal(_watershed.split(np.ones((5, 7), bool)), np.ones((5, 7)))
    assert not _watershed.split(np.zeros((5, 7), bool)).any()
    assert _watershed.split(np.ones((1, 1), bool)).tolist() == [[1]]


def blobs(seed: int, width: float) -> np.ndarray:
    """Return smooth shapes that touch in many ways: (48, 48) bool."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(48, 48)), width)
    return field > np.quantile(field, 0.4)


def prominent_peaks(mask: np.ndarray) -> int:
    """Count, by grey reconstruction, the peaks that stand out by the prominence."""
    heights = np.where(mask, np.asarray(distance_transform_edt(mask)), -9.0)
    lowered = heights - _watershed.PROMINENCE_PX
    flat = reconstruction(lowered, heights, footprint=np.ones((3, 3)))
    return int(np.asarray(label(local_maxima(flat, connectivity=2) & mask, connectivity=2)).max())


@pytest.mark.parametrize("width", [1.0, 2.0, 4.0])
def test_every_prominent_peak_is_one_connected_nucleus(width: float) -> None:
    for seed in range(10):
        mask = blobs(seed, width)
        split = _watershed.split(mask)
        assert np.array_equal(split > 0, mask)
        assert np.array_equal(np.unique(split), np.arange(split.max() + 1))
        assert split.max() == prominent_peaks(mask)
        for number in range(1, split.max() + 1):
            assert np.asarray(label(split == number, connectivity=2)).max() == 1


def test_nuclei_hardly_depend_on_the_orientation_of_the_image() -> None:
    for seed in range(5):
        mask = blobs(seed, 3.0)
        straight, turned = _watershed.split(mask), _watershed.split(mask[::-1, ::-1])[::-1, ::-1]
        assert straight.max() == turned.max()
        counts = count_overlaps(overlaps(turned, straight))
        assert counts["nuclei_matched"] == counts["nuclei_true"]
        assert counts["aji_shared"] > 0.9 * counts["aji_union"]
