"""Records of data sets, and readers of the official releases on small files of their form."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import io

from bench import registry
from bench.api import Dataset, Labelled
from bench.data import folder
from bench.data.download import prepare
from bench.data.folder import ReleaseFixed
from bench.datasets import cpm15, cpm17, janowczyk, tnbc
from bench.errors import BenchError

NAMES = ["cpm15", "cpm17", "dsb2018", "janowczyk", "kumar", "monuseg", "nucls", "synthetic", "tnbc"]
RNG = np.random.default_rng(0)


def random_image(height: int = 24, width: int = 32) -> np.ndarray:
    return RNG.integers(100, 256, (height, width, 3), dtype=np.uint8)


def nuclei(height: int = 24, width: int = 32) -> np.ndarray:
    labels = np.zeros((height, width), np.int32)
    labels[2:8, 3:10], labels[12:20, 15:25] = 1, 2
    return labels


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def read(dataset: Dataset, raw: Path) -> tuple[dict[str, Labelled], list[str]]:
    """Read a release: its samples by id, and the notes about corrected errors."""
    assert dataset.release is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ReleaseFixed)
        samples = {sample.id: sample for sample in dataset.release(raw)}
    return samples, [str(warning.message) for warning in caught]


# ---- records ---------------------------------------------------------------------------------


def test_input_sizes_are_those_of_the_paper():
    records = {name: registry.get("datasets", name) for name in NAMES}
    sizes = {name: dict(record.input_px) for name, record in records.items()}
    assert sizes["cpm15"] == {0: 384, 14: 392}
    assert sizes["cpm17"] == {0: 496, 14: 490}
    assert (
        sizes["tnbc"]
        == sizes["kumar"]
        == sizes["janowczyk"]
        == sizes["monuseg"]
        == {0: 512, 14: 504}
    )
    for record in records.values():
        assert record.generate or (record.paper and record.homepage and record.sources)


def test_a_folder_without_a_release_is_refused(tmp_path: Path):
    save(tmp_path / "holiday.jpg", random_image())
    for name in NAMES:
        record = registry.get("datasets", name)
        if record.release is None:
            with pytest.raises(BenchError, match="no reader for an official release"):
                prepare(record, tmp_path, tmp_path / "out")
            continue
        with pytest.raises(BenchError, match="does not contain this release"):
            prepare(record, tmp_path, tmp_path / "out")
        with pytest.raises(BenchError, match="there is no folder"):
            prepare(record, tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- TNBC ------------------------------------------------------------------------------------


def put_tnbc(raw: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    number = name[:2]
    save(raw / f"Slide_{number}" / f"{name}.png", image)
    save(raw / f"GT_{number}" / f"{name}.png", mask)


def test_tnbc_is_read_with_its_patients_and_splits(tmp_path: Path):
    raw = tmp_path / "TNBC_NucleiSegmentation"
    mask = ((nuclei() > 0) * 255).astype(np.uint8)
    images = {name: random_image() for name in ("01_1", "06_2", "07_1", "08_3", "09_1", "11_4")}
    for name, image in images.items():
        opaque = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
        put_tnbc(raw, name, opaque, mask)  # the release stores an alpha that hides nothing
    save(raw.parent / "__MACOSX" / "Slide_01" / "._01_1.png", random_image())
    samples, notes = read(tnbc.tnbc, tmp_path)
    assert notes == []
    splits = ["train", "train", "val", "val", "test", "test"]
    assert [samples[name].split for name in images] == splits
    sample = samples["06_2"]
    assert (sample.patient, sample.organ, sample.magnification) == ("tnbc-06", "breast", "40x")
    np.testing.assert_array_equal(sample.image, images["06_2"])
    np.testing.assert_array_equal(sample.instances, nuclei())


def test_components_agree_with_the_labels_of_the_real_data(data_dir: Path, tmp_path: Path):
    for sample in folder.read(data_dir / "tnbc")[:8]:
        image, instances = sample.read()
        put_tnbc(tmp_path, sample.id, image, ((instances > 0) * 255).astype(np.uint8))
    samples, _ = read(tnbc.tnbc, tmp_path)
    for sample in folder.read(data_dir / "tnbc")[:8]:
        assert samples[sample.id].instances.max() == sample.read()[1].max()
        assert samples[sample.id].patient == sample.patient
        assert samples[sample.id].split == sample.split


def test_the_brain_images_of_the_later_release_of_tnbc_are_left_out(tmp_path: Path):
    mask = ((nuclei() > 0) * 255).astype(np.uint8)
    for name in ("01_1", "11_1", "12_1", "12_2", "14_1"):
        put_tnbc(tmp_path, name, random_image(), mask)
    samples, notes = read(tnbc.tnbc, tmp_path)
    assert [*samples] == ["01_1", "11_1"]
    assert notes[0].startswith("3 images of patients 12, 14 left out: they are of the brain")


def test_names_of_releases_are_read_in_any_case_and_through_links(tmp_path: Path):
    mask = ((nuclei() > 0) * 255).astype(np.uint8)
    put_tnbc(tmp_path / "disk", "01_1", random_image(), mask)
    for old, new in (
        ("Slide_01/01_1.png", "Slide_01/01_1.PNG"),
        ("GT_01/01_1.png", "GT_01/01_1.Png"),
        ("Slide_01", "slide_01"),
    ):
        (tmp_path / "disk" / old).rename(tmp_path / "disk" / new)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "tnbc").symlink_to(tmp_path / "disk")
    samples, _ = read(tnbc.tnbc, tmp_path / "raw")
    assert [*samples] == ["01_1"]


@pytest.mark.fault(13)
def test_invalid_files_of_a_release_are_named(tmp_path: Path):
    empty = np.zeros((24, 32), np.uint8)
    for image, mask, problem in (
        (random_image(), empty[:, 1:], "its label"),
        (random_image(), (np.arange(768).reshape(24, 32) % 3).astype(np.uint8), "3 values"),
        (random_image(), random_image(), "colour image"),
        (random_image()[..., 0], empty, "not an 8-bit RGB image"),
        (np.dstack([random_image(), random_image()[..., :1]]), empty, "not an 8-bit RGB"),
    ):
        put_tnbc(tmp_path, "01_1", image, mask)
        with pytest.raises(BenchError, match=problem):
            read(tnbc.tnbc, tmp_path)
    path = save(tmp_path / "Slide_01" / "01_1.png", random_image())
    (tmp_path / "GT_01" / "01_1.png").unlink()
    with pytest.raises(BenchError, match=r"has no 01_1\.png in .*GT_01"):
        read(tnbc.tnbc, tmp_path)
    save(tmp_path / "GT_01" / "01_1.png", empty)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BenchError, match="damaged"):
        read(tnbc.tnbc, tmp_path)


# ---- CPM-15 ----------------------------------------------------------------------------------


def write_mask(path: Path, labels: np.ndarray) -> None:
    height, width = labels.shape
    path.write_text(f"{width} {height}\n" + "\n".join(map(str, labels.ravel())) + "\n")


def put_cpm15(raw: Path, number: int, image: np.ndarray, labels: np.ndarray) -> None:
    save(raw / f"image{number:02d}.png", image)
    save(raw / f"image{number:02d}_poly.png", image)
    write_mask(raw / f"image{number:02d}_mask.txt", labels)


def test_the_example_of_the_official_readme_is_read(tmp_path: Path):
    path = tmp_path / "mask.txt"
    path.write_text("5 4\n0\n0\n0\n0\n0\n0\n1\n1\n0\n0\n1\n1\n2\n0\n0\n0\n2\n2\n2\n0\n")
    expected = [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [1, 1, 2, 0, 0], [0, 2, 2, 2, 0]]
    assert cpm15.read_mask(path).tolist() == expected


def test_cpm15_is_read_with_its_magnifications(tmp_path: Path):
    images = {number: random_image() for number in (1, 2, 7, 8, 15)}
    for number, image in images.items():
        put_cpm15(tmp_path, number, image, nuclei())
    samples, notes = read(cpm15.cpm15, tmp_path)
    assert notes == []
    assert [sample.magnification for sample in samples.values()] == ["20x"] * 3 + ["40x"] * 2
    assert [sample.split for sample in samples.values()] == [
        "train",
        "test",
        "train",
        "train",
        "test",
    ]
    np.testing.assert_array_equal(samples["image08"].image, images[8])
    np.testing.assert_array_equal(samples["image08"].instances, nuclei())
    assert samples["image08"].patient == "cpm15-image08"


def dark(labels: np.ndarray) -> np.ndarray:
    image = random_image(*labels.shape)
    image[labels > 0] //= 3
    return image


@pytest.mark.parametrize("shape", [(24, 32), (26, 30)])  # equal sizes: by darkness
@pytest.mark.fault(14)
def test_exchanged_masks_are_corrected_and_matching_masks_are_unchanged(
    tmp_path: Path, shape: tuple[int, int]
):
    fourth = nuclei()
    fifth = np.flipud(nuclei(*shape)).copy()
    for exchanged in (True, False):
        first, second = (fifth, fourth) if exchanged else (fourth, fifth)
        put_cpm15(tmp_path, 4, dark(fourth), first)
        put_cpm15(tmp_path, 5, dark(fifth), second)
        samples, notes = read(cpm15.cpm15, tmp_path)
        assert [("image04 and image05 were exchanged" in note) for note in notes] == [
            True
        ] * exchanged
        np.testing.assert_array_equal(samples["image04"].instances, fourth)
        np.testing.assert_array_equal(samples["image05"].instances, fifth)


def test_the_real_pair_of_exchanged_masks_is_corrected(data_dir: Path, tmp_path: Path):
    real = {sample.id: sample.read() for sample in folder.read(data_dir / "cpm15")}
    put_cpm15(tmp_path, 4, real["image04"][0], real["image05"][1])
    put_cpm15(tmp_path, 5, real["image05"][0], real["image04"][1])
    samples, notes = read(cpm15.cpm15, tmp_path)
    assert len(notes) == 1
    np.testing.assert_array_equal(samples["image04"].instances, real["image04"][1])


@pytest.mark.fault(14)
def test_a_malformed_ascii_mask_is_named(tmp_path: Path):
    path = tmp_path / "image01_mask.txt"
    for text in ("", "5 4\n", "2 2\n0\n0\n0\n", "2 2\n0 0 0 0 0", "2 2\n0 0 x 0", "2 2\n0 0 -1 0"):
        path.write_text(text)
        with pytest.raises(BenchError, match=r"image01_mask\.txt is not an ASCII label file"):
            cpm15.read_mask(path)
    put_cpm15(tmp_path, 1, random_image(), nuclei(24, 33))
    with pytest.raises(BenchError, match=r"image01_mask\.txt: the image is 32x24, its label 33x24"):
        read(cpm15.cpm15, tmp_path)


def test_cpm15_in_matlab_format_is_recognised_by_the_sizes_of_its_images(tmp_path: Path):
    sizes = {0: (439, 439), 1: (493, 623), 2: (597, 863), 3: (888, 801), 4: (24, 32)}  # H, W
    labels = {number: nuclei(*size) for number, size in sizes.items()}
    for number, label in labels.items():
        put_cpm17(tmp_path, number, label)
    put_cpm17(tmp_path, 1, labels[1], label_of=labels[2])  # exchanged
    put_cpm17(tmp_path, 2, labels[2], label_of=labels[1])
    samples, notes = read(cpm15.cpm15, tmp_path)
    assert {name: (s.split, s.magnification) for name, s in samples.items()} == {
        "image07": ("train", "20x"),
        "image04": ("train", "20x"),
        "image05": ("train", "20x"),
        "image09": ("test", "40x"),
        "image_04": ("train", "unknown"),
    }
    np.testing.assert_array_equal(samples["image05"].instances, labels[2])
    assert "magnification of 1 image is unknown" in notes[0]
    assert "exchanged" in notes[1]


# ---- CPM-17 ----------------------------------------------------------------------------------


def put_cpm17(
    folder_: Path,
    number: int,
    labels: np.ndarray,
    key: str = "inst_map",
    label_of: np.ndarray | None = None,
) -> np.ndarray:
    """Write an image of the size of `labels`, with these or other labels."""
    image = random_image(*labels.shape)
    labels = labels if label_of is None else label_of
    save(folder_ / "Images" / f"image_{number:02d}.png", image)
    (folder_ / "Labels").mkdir(exist_ok=True)
    io.savemat(folder_ / "Labels" / f"image_{number:02d}.mat", {key: labels})
    return image


def test_cpm17_is_read_from_its_two_parts(tmp_path: Path):
    image = put_cpm17(tmp_path / "cpm17" / "train", 0, nuclei().astype(float))
    put_cpm17(tmp_path / "cpm17" / "test", 0, nuclei() * 5)
    for part in ("train", "test"):
        save(tmp_path / "cpm17" / part / "Overlay" / "image_00.png", image)
    samples, notes = read(cpm17.cpm17, tmp_path)
    overlays = "cpm17/test/Overlay, cpm17/train/Overlay"
    assert notes == [f"2 images in other folders ({overlays}) left out"]
    train, test = samples["train_image_00"], samples["test_image_00"]
    assert (train.split, test.split) == ("train", "test")
    assert train.patient != test.patient
    np.testing.assert_array_equal(train.image, image)
    np.testing.assert_array_equal(train.instances, nuclei())
    np.testing.assert_array_equal(test.instances, nuclei() * 5)


def test_cpm15_and_cpm17_are_read_from_a_folder_with_both(tmp_path: Path):
    put_cpm17(tmp_path / "cpm15", 0, nuclei())
    for part in ("Train", "test"):
        put_cpm17(tmp_path / "cpm17" / part, 0, nuclei())
    samples, notes = read(cpm17.cpm17, tmp_path)
    assert sorted(samples) == ["test_image_00", "train_image_00"]
    assert notes == ["1 image in other folders (cpm15/Images) left out"]
    samples, notes = read(cpm15.cpm15, tmp_path)
    assert [*samples] == ["image_00"]
    assert notes[0].startswith("2 images in other folders (cpm17/")


def test_a_flat_folder_of_cpm17_is_split_in_half_with_a_note(tmp_path: Path):
    for number in range(8):
        put_cpm17(tmp_path, number, nuclei())
    samples, notes = read(cpm17.cpm17, tmp_path)
    assert [sample.split for sample in samples.values()].count("test") == 4
    assert "half of the images" in notes[0]
    again, _ = read(cpm17.cpm17, tmp_path)
    assert {n: s.split for n, s in samples.items()} == {n: s.split for n, s in again.items()}


def test_a_malformed_matlab_file_is_named(tmp_path: Path):
    put_cpm17(tmp_path, 0, nuclei(), key="type_map")
    with pytest.raises(BenchError, match="has no `inst_map`"):
        read(cpm17.cpm17, tmp_path)
    put_cpm17(tmp_path, 0, nuclei() + 0.5)
    with pytest.raises(BenchError, match=r"not \(H, W\) integers"):
        read(cpm17.cpm17, tmp_path)
    (tmp_path / "Labels" / "image_00.mat").write_bytes(b"MATLAB 7.3 or nothing at all")
    with pytest.raises(BenchError, match="not a MATLAB file"):
        read(cpm17.cpm17, tmp_path)
    (tmp_path / "Labels" / "image_00.mat").unlink()
    with pytest.raises(BenchError, match=r"has no image_00\.mat"):
        read(cpm17.cpm17, tmp_path)


# ---- Janowczyk -------------------------------------------------------------------------------


def test_janowczyk_is_read_and_split_by_patient(tmp_path: Path):
    mask = ((nuclei() > 0) * 255).astype(np.uint8)
    for patient in range(8863, 8873):
        for field in ("500_f00003", "501_f00021"):
            save(tmp_path / f"{patient}_{field}_original.tif", random_image())
            save(tmp_path / f"{patient}_{field}_mask.png", mask)
    samples, notes = read(janowczyk.janowczyk, tmp_path)
    assert notes == []
    assert len(samples) == 20
    np.testing.assert_array_equal(samples["8863_500_f00003"].instances, nuclei())
    parts = {
        split: {s.patient for s in samples.values() if s.split == split}
        for split in ("train", "test")
    }
    assert (len(parts["train"]), len(parts["test"])) == (8, 2)
    assert not parts["train"] & parts["test"]


# ---- from a release to a folder --------------------------------------------------------------


def test_a_prepared_release_is_a_valid_folder_that_lists_corrections(tmp_path: Path):
    fourth, fifth = nuclei(), np.flipud(nuclei(26, 30)).copy()
    put_cpm15(tmp_path / "raw", 4, dark(fourth), fifth)
    put_cpm15(tmp_path / "raw", 5, dark(fifth), fourth)
    steps: list[tuple[str, int, int]] = []
    done = prepare(
        cpm15.cpm15, tmp_path / "raw", tmp_path / "out", lambda *step: steps.append(step)
    )
    assert done.images == 2
    assert len(done.notes) == 1
    assert folder.check(tmp_path / "out") == []
    about = (tmp_path / "out" / "README.md").read_text()
    assert "image04 and image05 were exchanged" in about
    assert "Vu et al. 2019" in about
    assert "not stated" in about
    assert [step[1] for step in steps] == [1, 2]


@pytest.mark.fault(1)
def test_a_failed_preparation_leaves_no_data_set(tmp_path: Path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    mask = np.zeros((24, 32), np.uint8)
    put_tnbc(raw, "01_1", random_image(), mask)
    put_tnbc(raw, "02_1", random_image(), mask[:-1])
    with pytest.raises(BenchError, match="its label"):
        prepare(tnbc.tnbc, raw, out)
    with pytest.raises(BenchError, match=r"no manifest\.csv"):
        folder.read(out)
    put_tnbc(raw, "02_1", random_image(), mask)
    assert prepare(tnbc.tnbc, raw, out).images == 2
