"""The built-in tissue: the same on every call, exact, varied, and not solved by colour alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from bench.api import Sample
from bench.data.find import find
from bench.data.leakage import leaks
from bench.datasets.synthetic import VERSION, samples, synthetic

# Mean red, green and blue and the number of nuclei of the first field of each patient. Where these
# move, VERSION must be raised: it names the pixels in every record.
EXPECTED = {
    1: [
        (190.5, 148.7, 200.5, 32),
        (167.6, 137.6, 202.4, 58),
        (175.2, 135.3, 190.0, 48),
        (185.2, 152.1, 195.1, 44),
        (179.4, 141.0, 202.5, 68),
        (187.8, 152.3, 197.5, 54),
        (178.9, 123.7, 173.0, 77),
        (187.8, 170.4, 207.0, 68),
        (197.2, 165.8, 205.9, 69),
        (156.2, 136.6, 186.0, 52),
        (192.6, 171.0, 204.4, 75),
        (179.1, 150.4, 203.6, 76),
    ],
}


@pytest.fixture(scope="module")
def fields() -> list[tuple[Sample, np.ndarray, np.ndarray]]:
    """Every sample with its image and its instances."""
    return [(sample, *sample.read()) for sample in samples()]


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    return 2 * (predicted & true).sum() / (predicted.sum() + true.sum())


def components(mask: np.ndarray) -> int:
    return int(ndimage.label(mask, np.ones((3, 3)))[1])  # pyright: ignore


def test_there_are_six_patients_for_training_and_six_for_test(fields):
    drawn = [sample for sample, _, _ in fields]
    assert len(drawn) == 24
    assert drawn[4].id == "p03_1"
    for split in ("train", "test"):
        assert len({sample.patient for sample in drawn if sample.split == split}) == 6
    assert len({sample.fingerprint for sample in drawn}) == 24
    handle = find("synthetic")
    assert leaks(handle.member(sample, sample.split) for sample in drawn) == []
    assert synthetic.generate is samples


def test_images_and_labels_have_the_documented_form(fields):
    for _, image, instances in fields:
        assert image.shape == (256, 256, 3)
        assert image.dtype == np.uint8
        assert instances.shape == (256, 256)
        assert instances.dtype == np.int32
        assert np.unique(instances).tolist() == list(range(instances.max() + 1))
        assert 25 <= instances.max() <= 130
        assert 0.1 < (instances > 0).mean() < 0.45


def test_reading_is_repeatable_in_any_order(fields):
    for place in (7, 0):
        sample, image, instances = fields[place]
        again, labels = sample.read()
        assert again.tobytes() == image.tobytes()
        assert labels.tobytes() == instances.tobytes()


def test_pixels_change_only_with_the_version(fields):
    means = [
        (*image.mean(axis=(0, 1)), int(instances.max()))
        for sample, image, instances in fields
        if sample.id.endswith("_1")
    ]
    for (*colour, nuclei), (*expected, count) in zip(means, EXPECTED[VERSION], strict=True):
        assert colour == pytest.approx(expected, abs=0.3)
        assert nuclei == count


def test_nuclei_are_connected_and_some_touch(fields):
    touching = 0
    for _, _, instances in fields:
        pieces = sum(components(instances == n) for n in range(1, 12))
        assert pieces <= 13  # an overlap may cut one in two, hardly ever
        touching += instances.max() - components(instances > 0)
    assert touching > 100


def test_colour_alone_is_informative_but_not_sufficient(fields):
    train = [(image, labels > 0) for sample, image, labels in fields if sample.split == "train"]
    test = [(image, labels > 0) for sample, image, labels in fields if sample.split == "test"]
    colours = np.concatenate([image[::4, ::4].reshape(-1, 3) for image, _ in train]) / 255
    expected = np.concatenate([nuclei[::4, ::4].ravel() for _, nuclei in train])
    model = LogisticRegression(max_iter=500).fit(colours, expected)
    scores = [
        dice(model.predict(image.reshape(-1, 3) / 255).reshape(nuclei.shape), nuclei)
        for image, nuclei in test
    ]
    assert 0.45 < np.mean(scores) < 0.68
