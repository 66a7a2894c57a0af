"""Labels that are no instance maps or belong to other images, and near copies of images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage
from skimage.measure import label as label_of_skimage

from bench.api import Dataset, Labelled
from bench.data import download, folder, label_check
from bench.data.alignment import align
from bench.data.decode import decode_image, decode_label, numbered
from bench.data.label_check import find_problem, problems_of_set, regions_of
from bench.data.near_copies import near_copies, thumbnail
from bench.errors import BenchError

Command = Callable[..., tuple[int, str, str]]
SIDE = 128


def instance_map(seed: int = 0, nuclei: int = 20, side: int = SIDE) -> np.ndarray:
    """Return discs with the numbers 1, 2, ... at random places: (side, side) int64."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.int64)
    rows, columns = np.mgrid[-8:9, -8:9]
    for number in range(1, nuclei + 1):
        disc = rows**2 + columns**2 < rng.uniform(3, 8) ** 2
        while True:
            y, x = rng.integers(0, side - 17, 2)
            place = labels[y : y + 17, x : x + 17]
            if not place[disc].any():
                place[disc] = number
                break
    return labels


def tissue(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return an image with dark nuclei on textured pink: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.normal(0, 60, (*labels.shape, 3)), (2, 2, 0))
    image = np.where((labels > 0)[..., None], (90, 60, 140), (225, 170, 205)) + texture
    return image.clip(0, 255).astype(np.uint8)


def smoothed(labels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(labels.astype(np.float32)).resize((192, 192), Image.Resampling.BILINEAR)
    return np.rint(np.asarray(image)).astype(int)


def lossy(labels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray((labels * 10).astype(np.uint8)).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file)).astype(int)


def with_rims(labels: np.ndarray, value: int) -> np.ndarray:
    return np.where((labels == 0) & (ndimage.grey_dilation(labels, (3, 3)) > 0), value, labels)


def with_frame(labels: np.ndarray, value: int) -> np.ndarray:
    framed = np.full_like(labels, value)
    framed[4:-4, 4:-4] = labels[4:-4, 4:-4]
    return framed


def foreground_as(labels: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, value, 0)


LABELS = instance_map()
CROWDED = instance_map(nuclei=300, side=448)
PROBLEMS: dict[str, tuple[np.ndarray, str]] = {
    "two classes": (foreground_as(LABELS, LABELS % 2 + 1), "classes"),
    "five classes": (foreground_as(LABELS, LABELS % 5 + 1), "classes"),
    "inside and rim": (with_rims(np.sign(LABELS), 2), "classes"),
    "a mask": (np.sign(LABELS), "mask"),
    "ignored rims": (with_rims(LABELS, 255), "ignored"),
    "an ignored frame": (with_frame(LABELS, 65535), "background"),
    "wrapped at 256": (CROWDED % 256, "wrapped"),
    "cut off at 255": (CROWDED.clip(max=255), "wrapped"),
    "a few wrapped": (np.where(CROWDED > 258, 0, CROWDED) % 256, "wrapped"),
    "wrapped at 64": (CROWDED % 64, "altered"),
    "smoothed": (smoothed(LABELS * 10), "altered"),
    "lossy": (lossy(LABELS), "altered"),
    "background 1": (LABELS + 1, "background"),
    "background 255": (np.where(LABELS > 0, LABELS, 255), "background"),
    "an inverted mask": (np.where(LABELS > 0, 0, 1), "background"),
}


@pytest.mark.fault(14)
@pytest.mark.parametrize("case", PROBLEMS)
def test_a_label_that_is_no_instance_map_has_a_problem(case: str):
    labels, kind = PROBLEMS[case]
    problem = find_problem(regions_of(labels))
    assert problem is not None
    assert problem.kind == kind


def test_instance_maps_have_no_problem():
    split = LABELS.copy()
    rows, columns = ndimage.find_objects(LABELS)[4]
    split[rows.start + 2, columns] = 0  # 1 of 20 nuclei in two parts
    assert regions_of(split).split_ids.tolist() == [5]
    for labels in (LABELS, split, CROWDED, LABELS * 0, LABELS * 3000):
        regions = regions_of(labels)
        assert find_problem(regions) is None
        assert problems_of_set({"a": regions, "b": regions}) == {}


def test_regions_agree_with_another_implementation():
    rng = np.random.default_rng(0)
    for _ in range(100):
        labels = rng.integers(0, rng.integers(2, 6), rng.integers(1, 12, 2)) * 7
        labels.flat[0] = 7
        regions = regions_of(labels)
        components = np.asarray(label_of_skimage(labels, connectivity=2, background=0))
        number = np.zeros(components.max() + 1, int)
        number[components.ravel()] = labels.ravel()
        assert regions.components[1:].tolist() == np.bincount(number)[1:].tolist()
        assert regions.areas.tolist() == np.bincount(labels.ravel()).tolist()


def test_some_problems_show_only_in_several_labels():
    def two_in_parts(value: int) -> np.ndarray:
        labels = LABELS.copy()
        labels[:3, :3] = labels[-3:, -3:] = value
        return labels

    ignored = {str(seed): regions_of(two_in_parts(99)) for seed in range(3)}
    assert {p.kind for p in problems_of_set(ignored).values()} == {"ignored"}
    assert problems_of_set({"0": ignored["0"]}) == {}
    tile = np.zeros((64, 64), int)
    tile[5:9, 5:9] = tile[20:24, 20:24] = 1  # a class map of a tile with two nuclei
    tiles = {str(seed): regions_of(tile) for seed in range(3)}
    assert all(find_problem(regions) is None for regions in tiles.values())
    assert len(problems_of_set(tiles)) == 3


# ---- image and label ------------------------------------------------------------------------


FLIPS = {
    "transposed": lambda labels: labels.T,
    "flipped upside down": lambda labels: labels[::-1],
    "rotated by 90 degrees": np.rot90,
    "of another image": lambda labels: instance_map(9),
    "shifted": lambda labels: np.roll(labels, (9, 9), (0, 1)),
    "inverted": lambda labels: labels == 0,
}


@pytest.mark.fault(14)
@pytest.mark.parametrize("case", FLIPS)
def test_a_label_that_does_not_belong_to_its_image_is_suspicious(case: str):
    for seed in range(5):
        labels = instance_map(seed, nuclei=23)
        image = tissue(labels, seed)
        alone = align(image, labels > 0)
        assert alone is not None
        assert not alone.is_suspicious
        moved = align(image, FLIPS[case](labels) > 0)
        assert moved is not None
        assert moved.is_suspicious


def test_the_flip_is_named():
    image = tissue(LABELS)
    for case, undo in (("transposed", "transposed"), ("rotated by 90 degrees", "by 270 degrees")):
        alignment = align(image, FLIPS[case](LABELS) > 0)
        assert alignment is not None
        assert undo in alignment.flip
    assert align(image, LABELS < 0) is None
    assert align(np.full_like(image, 255), LABELS > 0) is None


# ---- near copies ----------------------------------------------------------------------------


def encoded_again(image: np.ndarray, quality: int = 60) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_shifted_and_encoded_copies_are_found_and_other_images_are_not():
    large = [tissue(instance_map(seed, 400, 448), seed) for seed in range(6)]
    images = [image[:256, :256] for image in large]
    images += [
        encoded_again(large[0][:256, :256]),
        encoded_again(large[1][40:296, 60:316]),
        encoded_again((large[2][:256, :256] * 0.8 + 30).astype(np.uint8)),
        np.asarray(Image.fromarray(images[3]).resize((512, 512))),
        large[4][:256, :256],
        large[5][192:, 192:],  # another part of an image is no copy
    ]
    thumbnails = [thumbnail(image) for image in images]
    patients = [str(number) for number in range(len(images))]
    assert near_copies(thumbnails, patients) == [(i, 6 + i) for i in range(5)]
    assert near_copies(thumbnails, ["same"] * len(images)) == []
    assert near_copies([thumbnail(np.zeros((5, 300, 3), np.uint8))] * 3, ["a", "b", "c"]) == []


# ---- files ----------------------------------------------------------------------------------


def tiff(array: np.ndarray, photometric: str = "minisblack") -> bytes:
    """Return an uncompressed TIFF file of any type and number of channels."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric=photometric)
    return file.getvalue()


@pytest.mark.fault(14)
def test_the_stored_samples_of_a_min_is_white_file_are_read():
    for dtype in (np.uint8, np.uint16):
        content = tiff(LABELS.astype(dtype), photometric="miniswhite")
        np.testing.assert_array_equal(decode_label(content, Path("a.tif")), LABELS)
    content = tiff((LABELS > 0).astype(np.uint8) * 255, photometric="miniswhite")
    np.testing.assert_array_equal(numbered(content, Path("a.tif")) > 0, LABELS > 0)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.fault(13, 14)
def test_the_error_for_an_unsupported_type_names_the_type_and_not_a_component_labelling():
    palette = Image.fromarray(LABELS.astype(np.uint8), "P")
    palette.putpalette(list(range(256)) * 3)
    cases = [
        (tiff(LABELS.astype(np.uint64)), "64-bit unsigned integers"),
        (tiff(LABELS.astype(np.int64)), "64-bit integers"),
        (tiff(LABELS.astype(np.float64)), "64-bit floating-point"),
        (tiff(LABELS.astype(np.float32)), "floating-point"),
        (tiff(-LABELS.astype(np.int16)), "from -20 to 0"),
        (png(palette), "palette indices"),
        (png(Image.fromarray(tissue(LABELS))), "number the colours"),
    ]
    for content, message in cases:
        with pytest.raises(BenchError, match=message) as caught:
            decode_label(content, Path("a.tif"))
        assert "BytesIO" not in str(caught.value)
        assert "for example with scipy.ndimage.label" not in str(caught.value)
    with pytest.raises(BenchError, match="32-bit floating-point numbers with 3 channels"):
        decode_image(tiff(tissue(LABELS).astype(np.float32), photometric="rgb"), Path("a.tif"))


# ---- commands -------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of six images whose labels are instance maps."""
    root = tmp_path / "mine"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for seed in range(6):
        labels = instance_map(seed)
        Image.fromarray(tissue(labels, seed)).save(root / "images" / f"{seed}.png")
        Image.fromarray(labels.astype(np.uint16)).save(root / "labels" / f"{seed}.png")
    return root


def change(root: Path, function: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in (root / "labels").iterdir():
        labels = function(np.asarray(Image.open(path)).astype(int))
        Image.fromarray(labels.astype(np.uint16)).save(path)


def test_valid_labels_have_no_warning_and_files_of_file_managers_are_ignored(
    source: Path, command: Command
):
    for name in ("Thumbs.db", ".DS_Store", "._0.png", "desktop.ini"):
        (source / "images" / name).write_bytes(b"x")
    code, out, _ = command("datasets", "make", str(source), "--json")
    assert code == 0
    assert json.loads(out)["warnings"] == []
    assert command("datasets", "check", str(source))[1] == f"0 problems in {source}\n"


@pytest.mark.fault(14)
def test_accepted_labels_are_marked_and_a_run_is_flagged(source: Path, command: Command):
    change(source, lambda labels: foreground_as(labels, labels % 3 + 1))
    code, out, _ = command("datasets", "make", str(source))
    assert code == 2
    assert "0.png, " in out
    assert "are not instance maps: 3 of 3 numbers" in out
    assert "one number per nucleus" in out
    assert not (source / "manifest.csv").exists()
    code, out, _ = command("datasets", "make", str(source), "--accept-labels")
    assert code == 0
    assert "warning: " in out
    with (source / "manifest.csv").open() as file:
        assert {line["labels_accepted"] for line in csv.DictReader(file)} == {"yes"}
    code, out, _ = command("datasets", "check", str(source))
    assert code == 0
    assert "0 problems and 1 warning in" in out
    words = ["--dataset", str(source), "--backbone", "rgb", "--limit", "2", "--results"]
    run = ["run", *words, str(source.parent / "results"), "--json"]
    assert "labels are no instance maps" in json.loads(command(*run)[1])["runs"][0]["flags"]
    text = (source / "manifest.csv").read_text().replace(",yes\n", ",\n")
    (source / "manifest.csv").write_text(text)
    code, out, err = command(*run[:-2], str(source.parent / "other"))
    assert code != 0
    assert "not an instance map" in out + err


@pytest.mark.fault(14)
def test_a_transposed_label_and_a_near_copy_are_warnings(source: Path, command: Command):
    change(source, np.transpose)
    copy = encoded_again(np.asarray(Image.open(source / "images" / "0.png")))
    Image.fromarray(copy).save(source / "images" / "5.png")
    code, out, _ = command("datasets", "make", str(source))
    assert code == 0
    assert "darker if the label were transposed" in out
    assert "show the same tissue: 0 (" in out
    code, out, _ = command("datasets", "check", str(source), "--json")
    assert code == 0
    assert len(json.loads(out)["warnings"]) == 2


@pytest.mark.fault(14)
def test_prepare_warns_of_exchanged_labels(tmp_path: Path):
    labels = [instance_map(seed) for seed in range(6)]

    def release(raw: Path):
        for seed in range(6):
            other = labels[(seed + 1) % 6] + 100_000
            shown = np.where(other > 100_000, other, 0)
            yield Labelled(f"i{seed}", tissue(labels[seed], seed), shown, "train", f"p{seed}")

    prepared = download.prepare(Dataset("exchanged", release=release), tmp_path, tmp_path / "out")
    assert "not clearly darker" in prepared.warnings[0]
    findings = folder.examine(tmp_path / "out")
    assert findings.problems == []
    assert [w.split(" the ")[0] for w in findings.warnings] == [
        w.split(" the ")[0] for w in prepared.warnings
    ]


def test_messages_are_grouped_by_kind():
    problems = {name: label_check.LabelProblem("classes", "x") for name in "abcd"}
    problems["e"] = label_check.LabelProblem("ignored", "y")
    messages = label_check.describe(problems)
    assert [message.split(":")[0] for message in messages] == [
        "a, b, c and 1 more are not instance maps",
        "e is not an instance map",
    ]
    problems["f"] = replace(problems["e"], kind="altered")  # then few numbers are no classes
    messages = label_check.describe(problems)
    assert all("type_map" not in message for message in messages)
