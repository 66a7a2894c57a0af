"""The built-in tissue: the same on every call, exact, varied, and not solved by colour alone."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from bench.api import Sample
from bench.data.find import find
from bench.data.leakage import leaks
from bench.datasets.synthetic import VERSION, render, samples, stain, synthetic

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
def every() -> list[tuple[Sample, np.ndarray, np.ndarray]]:
    """Every sample with its image and its instances."""
    return [(sample, *sample.read()) for sample in samples()]


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    return 2 * (predicted & true).sum() / (predicted.sum() + true.sum())


def pieces_of(mask: np.ndarray) -> int:
    return int(ndimage.label(mask, np.ones((3, 3)))[1])  # pyright: ignore


def test_there_are_six_patients_to_train_and_six_to_test():
    found = samples()
    assert len(found) == 24
    assert found[4].id == "p03_1"
    for split in ("train", "test"):
        assert len({sample.patient for sample in found if sample.split == split}) == 6
    assert len({sample.fingerprint for sample in found}) == 24
    handle = find("synthetic")
    assert leaks(handle.member(sample, sample.split) for sample in found) == []
    assert synthetic.generate is samples


def test_images_and_labels_are_as_the_interface_says(every):
    for _, image, instances in every:
        assert image.shape == (256, 256, 3)
        assert image.dtype == np.uint8
        assert instances.shape == (256, 256)
        assert instances.dtype == np.int32
        assert np.unique(instances).tolist() == list(range(instances.max() + 1))
        assert 25 <= instances.max() <= 130
        assert 0.1 < (instances > 0).mean() < 0.45


def test_the_same_field_has_the_same_bytes_whatever_was_made_before(every):
    for place in (7, 0):
        sample, image, instances = every[place]
        again, labels = sample.read()
        assert again.tobytes() == image.tobytes()
        assert labels.tobytes() == instances.tobytes()


def test_pixels_move_only_with_the_version(every):
    found = [
        (*image.mean(axis=(0, 1)), int(instances.max()))
        for sample, image, instances in every
        if sample.id.endswith("_1")
    ]
    for (*colour, nuclei), (*expected, count) in zip(found, EXPECTED[VERSION], strict=True):
        assert colour == pytest.approx(expected, abs=0.3)
        assert nuclei == count


def test_a_nucleus_is_one_piece_and_some_touch(every):
    touching = 0
    for _, _, instances in every:
        pieces = sum(pieces_of(instances == n) for n in range(1, 12))
        assert pieces <= 13  # an overlap may cut one in two, hardly ever
        touching += instances.max() - pieces_of(instances > 0)
    assert touching > 100


def test_no_two_patients_share_a_stain():
    stains = [np.stack([each.haematoxylin, each.eosin]) for each in map(stain, range(1, 13))]
    for place, one in enumerate(stains):
        assert (
            min(np.abs(one - other).max() for other in stains[:place] + stains[place + 1 :]) > 0.05
        )


def test_labels_lie_on_the_nuclei(every):
    """Nuclei are darker in red than what is around them, in every image."""
    for _, image, instances in every:
        red = image[..., 0].astype(float)
        around = ndimage.binary_dilation(instances > 0, iterations=6) & (instances == 0)
        assert red[around].mean() - red[instances > 0].mean() > 10


def test_colour_alone_does_not_solve_it_but_carries_something(every):
    train = [(image, labels > 0) for sample, image, labels in every if sample.split == "train"]
    test = [(image, labels > 0) for sample, image, labels in every if sample.split == "test"]
    colours = np.concatenate([image[::4, ::4].reshape(-1, 3) for image, _ in train]) / 255
    wanted = np.concatenate([nuclei[::4, ::4].ravel() for _, nuclei in train])
    model = LogisticRegression(max_iter=500).fit(colours, wanted)
    scores = [
        dice(model.predict(image.reshape(-1, 3) / 255).reshape(nuclei.shape), nuclei)
        for image, nuclei in test
    ]
    assert 0.45 < np.mean(scores) < 0.68


def test_the_whole_set_is_made_in_seconds():
    started = time.process_time()
    for patient in range(1, 13):
        render(patient, 1)
    assert time.process_time() - started < 6
