"""Detect images of different patients that show the same tissue: re-encoded or shifted copies.

Each image becomes a small thumbnail with equal local contrast. Patches around its darkest points
are compared with those of all other images; thumbnails with similar patches are then compared at
all shifts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE_PX = 64  # approximate side of a thumbnail
WINDOW_PX = 9  # for the local mean and standard deviation
NOISE = 4.0  # grey levels; weaker structures are suppressed
N_PATCHES = 12  # per thumbnail
RADIUS_PX = 8  # of a patch
MIN_CORRELATION = 0.85  # of two patches; lower in 99.96 % of pairs of unrelated images
MIN_PIXELS = 400  # in which two shifted thumbnails overlap
MIN_SHIFTED = 0.6  # correlation of two thumbnails at the best shift
MIN_SCORE = 14  # correlation x sqrt(pixels with contrast): copies in JPEG 21, unrelated images 9
BLOCK = 2048  # patches compared at once
MAX_COMPARED = 5000  # pairs of thumbnails


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail with equal local contrast, (h, w) float32, and its patches, (n, d) float32."""

    pixels: np.ndarray
    patches: np.ndarray


def thumbnail(image: np.ndarray) -> Thumbnail:
    """Return the thumbnail of an image, (H, W, 3) uint8."""
    from scipy import ndimage  # slow to import

    factor = 2 ** max(0, round(np.log2(np.sqrt(image.shape[0] * image.shape[1]) / SIDE_PX)))
    grey = np.asarray(Image.fromarray(image).convert("L").reduce(int(factor)), np.float32)
    local = grey - ndimage.uniform_filter(grey, WINDOW_PX)
    deviation = np.sqrt(ndimage.uniform_filter(local * local, WINDOW_PX))
    pixels = np.clip(local / (deviation + NOISE), -2.5, 2.5)
    return Thumbnail(pixels, _patches(ndimage.gaussian_filter(pixels, 1.0)))


def _patches(pixels: np.ndarray) -> np.ndarray:
    """Return the normalised patches around the darkest local minima: (n, d)."""
    from scipy import ndimage

    inner = np.zeros(pixels.shape, bool)
    inner[RADIUS_PX:-RADIUS_PX, RADIUS_PX:-RADIUS_PX] = True
    row, column = np.nonzero(inner & (pixels == ndimage.minimum_filter(pixels, 5)))
    darkest = np.argsort(pixels[row, column], kind="stable")[:N_PATCHES]
    offsets = np.arange(-RADIUS_PX, RADIUS_PX + 1, 2)
    rows = row[darkest, None, None] + offsets[:, None]  # (n, side, 1)
    columns = column[darkest, None, None] + offsets  # (n, 1, side)
    patches = pixels[rows, columns].reshape(len(darkest), len(offsets) ** 2)
    patches = patches - patches.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(patches, axis=1, keepdims=True)
    has_contrast = norms[:, 0] > 0.2 * len(offsets)
    return (patches[has_contrast] / norms[has_contrast]).astype(np.float32)


def near_copies(thumbnails: Sequence[Thumbnail], patients: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of images, by position, of different patients that show the same tissue."""
    return [
        (a, b)
        for a, b in _candidates(thumbnails, patients)
        if _are_copies(thumbnails[a].pixels, thumbnails[b].pixels)
    ]


def _candidates(
    thumbnails: Sequence[Thumbnail], patients: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """Yield pairs of images of different patients with a similar patch, at most MAX_COMPARED."""
    counts = [len(thumbnail.patches) for thumbnail in thumbnails]
    if not sum(counts):
        return
    patches = np.concatenate([thumbnail.patches for thumbnail in thumbnails])  # (m, d)
    image = np.repeat(np.arange(len(thumbnails)), counts)  # (m,)
    patient = np.unique(patients, return_inverse=True)[1][image]  # (m,)
    seen: set[tuple[int, int]] = set()
    for top in range(0, len(patches), BLOCK):
        for left in range(0, top + BLOCK, BLOCK):
            a, b = slice(top, top + BLOCK), slice(left, left + BLOCK)
            rows, columns = np.nonzero(patches[a] @ patches[b].T > MIN_CORRELATION)
            rows, columns = rows + top, columns + left
            is_pair = patient[rows] != patient[columns]
            pairs = np.sort(np.stack([image[rows[is_pair]], image[columns[is_pair]]], axis=1))
            for first, second in np.unique(pairs, axis=0).tolist():
                if (first, second) not in seen and len(seen) < MAX_COMPARED:
                    seen.add((first, second))
                    yield first, second


def _are_copies(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two thumbnails correlate at some shift, in enough common pixels."""
    size = [1 << (a.shape[axis] + b.shape[axis] - 2).bit_length() for axis in (0, 1)]

    def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        spectra = [np.fft.rfft2(pixels, size) for pixels in (first, second)]
        return np.fft.irfft2(spectra[0] * np.conj(spectra[1]), size)

    common = np.rint(correlate(np.ones_like(a), np.ones_like(b)))
    energies = correlate(a * a, np.ones_like(b)), correlate(np.ones_like(a), b * b)
    norm = np.sqrt(np.maximum(energies[0], 1) * np.maximum(energies[1], 1))
    correlation = correlate(a, b) / norm
    is_copy = (correlation > MIN_SHIFTED) & (correlation * np.sqrt(norm) > MIN_SCORE)
    return bool((is_copy & (common >= MIN_PIXELS)).any())
