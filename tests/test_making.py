"""`bench datasets make` creates a data set from a folder, or reports all problems."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.api.data import FolderInfo
from bench.data import create, find, folder
from bench.data.manifest import COLUMNS
from bench.data.metadata import seeded_split
from bench.errors import BenchError

Make = Callable[..., tuple[int, str, str]]
NAMES = tuple("abcdefghij")
INSTANCES = np.zeros((24, 30), np.uint16)  # two touching nuclei and a separate one
INSTANCES[2:6, 2:6], INSTANCES[2:6, 6:9], INSTANCES[15:20, 20:28] = 7, 9, 400
MASK = (INSTANCES > 0).astype(np.uint8)


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)


def save(root: Path, name: str, array: np.ndarray) -> None:
    Image.fromarray(array).save(root / name)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with ten pairs of image and label."""
    root = tmp_path / "mine"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        save(root, f"images/{name}.png", pixels(number))
        save(root, f"labels/{name}.png", INSTANCES)
    return root


@pytest.fixture
def masks(source: Path) -> Path:
    """The same folder with masks instead of labels: 0 and 255, 0 and 1, and one bit per pixel."""
    for number, name in enumerate(NAMES):
        save(source, f"labels/{name}.png", MASK * (255 if number % 2 else 1))
    Image.fromarray(MASK * 255).convert("1").save(source / "labels" / "e.png")
    return source


@pytest.fixture
def make(command: Callable[..., tuple[int, str, str]]) -> Make:
    """Return a function that calls `bench datasets make`: exit code and both outputs."""
    return lambda *words: command("datasets", "make", *map(str, words))


def write_table(root: Path, lines: str, columns: str = "id,patient,split") -> Path:
    path = root.parent / "patients.csv"
    path.write_text(f"{columns}\n{lines}", "utf-8")
    return path


def lines_of(rest: Callable[[int], str] = lambda n: f",{'train' if n < 6 else 'test'}") -> str:
    """Return lines of a table in which two images each have one patient."""
    return "".join(f"{name},p{n // 2}{rest(n)}\n" for n, name in enumerate(NAMES))


def manifest(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---- valid folders ---------------------------------------------------------------------------


def test_images_and_labels_become_a_valid_data_set(source: Path, make: Make) -> None:
    before = files(source)
    code, out, _ = make(source, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["images"], result["patients"], result["nuclei"]) == (10, 10, 30)
    assert result["splits"] == {"test": 3, "train": 7}
    assert result["next"] == f"bench run --dataset {source} --folds 5"  # 3 test patients
    assert result["warnings"]  # the images are noise: nuclei are not darker
    assert folder.check(source) == []
    after = files(source)
    assert after.keys() - before.keys() == {"manifest.csv", "README.md"}
    assert after.items() >= before.items()
    assert list(manifest(source)[0]) == list(COLUMNS)
    image, instances = find.find(str(source)).samples[0].read()
    np.testing.assert_array_equal(image, pixels(0))
    np.testing.assert_array_equal(instances, INSTANCES)


@pytest.mark.parametrize("name", ["tnbc", "kumar"])
def test_a_recreated_data_set_has_the_same_manifest(
    data_dir: Path, tmp_path: Path, make: Make, name: str
) -> None:
    for kind in ("images", "labels"):
        shutil.copytree(data_dir / name / kind, tmp_path / name / kind)
    assert make(tmp_path / name, "--table", data_dir / name / "manifest.csv")[0] == 0
    assert manifest(tmp_path / name) == manifest(data_dir / name)


def test_a_table_or_options_set_organ_and_magnification(source: Path, make: Make) -> None:
    lines = lines_of(lambda n: f",{'train' if n < 6 else 'test'},colon,20x,71")
    table = write_table(source, lines, "\ufeffid,patient,split,organ,magnification,age")
    code, out, _ = make(source, "--table", table)
    assert code == 0
    assert "10 images of 5 patients (4 test, 6 train)" in out
    assert ": age" in out  # an ignored column
    first = manifest(source)[0]
    assert (first["patient"], first["organ"], first["magnification"]) == ("p0", "colon", "20x")
    assert make(source, "--organ", "breast", "--magnification", "40x", "--force")[0] == 0
    assert {(e["organ"], e["magnification"]) for e in manifest(source)} == {("breast", "40x")}


def test_a_drawn_split_is_by_patient_and_depends_on_the_seed(source: Path, make: Make) -> None:
    table = write_table(source, lines_of(lambda _: ""), "id,patient")
    splits = []
    for words in ((), ("--seed", "0"), ("--seed", "1"), ("--test-share", "0.6")):
        assert make(source, "--table", table, "--force", *words)[0] == 0
        splits.append([(line["patient"], line["split"]) for line in manifest(source)])
        assert len(set(splits[-1])) == 5  # no patient in two splits
    assert splits[0] == splits[1] != splits[2]
    assert sum(split == "test" for _, split in splits[3]) == 6
    assert "--test-share 0.6 --seed 0" in (source / "README.md").read_text()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_split_of_two_patients_or_more_has_a_patient_in_both_parts(share: float) -> None:
    assert sorted(seeded_split("0", {"a", "b"}, share).values()) == ["test", "train"]
    assert seeded_split("0", {"a"}, share) == {"a": "train"}


def test_existing_text_of_the_readme_is_preserved(source: Path, make: Make) -> None:
    (source / "README.md").write_bytes("# Süß\n\nLicence: CC0\n".encode("latin-1"))
    for _ in range(2):
        assert make(source, "--force")[0] == 0
    text = (source / "README.md").read_bytes()
    assert text.startswith("# Süß\n\nLicence: CC0\n\n## How".encode("latin-1"))
    assert text.count(b"## How this data set was made") == 1
    assert str(source).encode() not in text


@pytest.mark.parametrize("binary", [False, True])
def test_a_copy_leaves_the_folder_unchanged(
    source: Path, request: pytest.FixtureRequest, make: Make, binary: bool
) -> None:
    if binary:
        request.getfixturevalue("masks")
    before, copy = files(source), source.parent / "copy"
    code, out, _ = make(source, "--out", copy, *(["--binary"] if binary else []))
    assert code == 0
    assert f"next: bench run --dataset {copy}" in out
    assert files(source) == before
    assert folder.check(copy) == []
    assert files(copy).keys() == {*before, "manifest.csv", "README.md"}
    assert binary or files(copy).items() >= before.items()


# ---- masks -----------------------------------------------------------------------------------


def test_the_binary_option_numbers_connected_components(masks: Path, make: Make) -> None:
    before = files(masks)
    code, out, _ = make(masks)
    assert code == 2
    assert out.count("--binary") == 10
    assert files(masks) == before
    code, out, _ = make(masks, "--binary")
    assert code == 0
    assert "touching nuclei count as one" in out
    assert files(masks).items() >= before.items()
    assert folder.check(masks) == []
    line = manifest(masks)[0]
    assert (line["label"], line["nuclei"]) == ("instances/a.png", "2")
    _, instances = find.find(str(masks)).samples[0].read()
    np.testing.assert_array_equal(instances > 0, MASK)


def test_labels_with_the_binary_option_are_refused(source: Path, make: Make) -> None:
    code, out, _ = make(source, "--binary")
    assert code == 2
    assert "has 3 values other than 0" in out
    assert "Omit it" in out


def test_labels_with_one_number_are_masks_only_with_several_components(
    source: Path, make: Make
) -> None:
    one = np.zeros_like(MASK)
    one[3:9, 3:9] = 1
    save(source, "labels/a.png", one)
    save(source, "labels/b.png", one * 0)
    code, out, _ = make(source)
    assert code == 0
    assert "no nuclei in 1 images: b" in out
    for name in NAMES:
        save(source, f"labels/{name}.png", MASK)
    code, out, _ = make(source, "--force")
    assert code == 2
    assert "its only nucleus has 2 connected components" in out


# ---- invalid folders -------------------------------------------------------------------------


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no label": (lambda root: (root / "labels/b.png").unlink(), "b.png has no label"),
    "no image": (lambda root: (root / "images/b.png").unlink(), "b.png has no image"),
    "grey": (lambda root: save(root, "images/b.png", MASK), "8-bit RGB is required"),
    "damaged": (lambda root: (root / "images/b.png").write_bytes(b"x"), "damaged"),
    "colour label": (
        lambda root: save(root, "labels/b.png", pixels(0)),
        "not one channel|is a RGB image",
    ),
    "other size": (lambda root: save(root, "labels/b.png", MASK[:9]), "same width and height"),
    "another format": (lambda root: (root / "images/b.bmp").write_bytes(b""), "not one of .png"),
    "a folder": (lambda root: (root / "images/sub").mkdir(), "sub is a folder"),
    "two suffixes": (lambda root: save(root, "images/b.jpg", pixels(1)), "has the same name as"),
    "a broken link": (lambda root: (root / "images/x.png").symlink_to("no"), "x.png"),
    "a duplicate image": (
        lambda root: [save(root, f"images/{name}.png", pixels(99)) for name in NAMES],
        "the same image is in ",
    ),
    "a bad name": (
        lambda root: [
            (root / kind / "b.png").rename(root / kind / "b:2.png") for kind in ("images", "labels")
        ],
        "cannot be a file name",
    ),
}


@pytest.mark.parametrize("binary", [False, True])
def test_problems_of_files_are_reported_and_nothing_is_written(
    source: Path, request: pytest.FixtureRequest, make: Make, binary: bool
) -> None:
    if binary:
        request.getfixturevalue("masks")
    for case, (change, message) in WRONG.items():
        copy = source.parent / case
        shutil.copytree(source, copy)
        change(copy)
        before = sorted(copy.rglob("*"))
        code, out, _ = make(copy, *(["--binary"] if binary else []))
        assert code == 2, case
        assert re.search(message, out), case
        assert "nothing was written" in out
        assert sorted(copy.rglob("*")) == before


def test_all_problems_are_reported(source: Path, make: Make) -> None:
    (source / "images" / "a.png").write_bytes(b"")
    (source / "labels" / "c.png").unlink()
    save(source, "labels/b.png", MASK[:9])
    (source / "images" / "d.png").rename(source / "images" / "d.bmp")
    lines = lines_of().replace("j,", "nobody,").replace("i,p4,test", "i,,exam")
    code, out, _ = make(source, "--table", write_table(source, lines), "--json")
    problems = "\n".join(json.loads(out)["problems"])
    assert code == 2
    parts = ("a.png", "c.png", "same width", "d.bmp", "'nobody'", "row for the image 'j'", "'exam'")
    assert [part for part in parts if part not in problems] == []
    assert not (source / "manifest.csv").exists()


TABLES: dict[str, tuple[str, str, str]] = {
    "semicolons": ("a;p;train\n", "id;patient;split", "must contain the columns"),
    "no patient": ("a,train\n", "id,split", "has no columns patient"),
    "a duplicate column": ("a,p,q\n", "id,patient,patient", "has two columns patient"),
    "a duplicate id": (lines_of() + "a,p0,train\n", "id,patient,split", "duplicate id 'a'"),
    "suffixes": (lines_of().replace("a,", "a.png,"), "id,patient,split", "without the suffix"),
    "too few values": (lines_of() + "x\n", "id,patient,split", "one value for each column"),
    "a patient in two splits": (
        lines_of(lambda n: f",{'train' if n % 2 else 'test'}"),
        "id,patient,split",
        "the patient 'p0' is in test and train",
    ),
    "a space": (lines_of().replace("p1,", " p1,"), "id,patient,split", "begins or ends with"),
    "another magnification": (
        lines_of(lambda _: ",train,60x"),
        "id,patient,split,magnification",
        "'60x' is not 20x",
    ),
    "no rows": ("", "id,patient", "no row for the image 'a'"),
    "one patient": (
        "".join(f"{name},p\n" for name in NAMES),
        "id,patient",
        "1 patient cannot be split",
    ),
}


def test_an_invalid_table_is_refused(source: Path, make: Make) -> None:
    for case, (lines, columns, message) in TABLES.items():
        code, out, err = make(source, "--table", write_table(source, lines, columns))
        assert code == 2, case
        assert message in out + err, case
    table = write_table(source, "")
    table.write_bytes(b"id,patient\na,\xff\xfe\n")
    code, out, err = make(source, "--table", table)
    assert code == 2
    assert "UTF-8" in out + err
    assert not (source / "manifest.csv").exists()


def test_invalid_options_are_refused(source: Path, make: Make) -> None:
    table, full = write_table(source, lines_of()), source.parent / "full"
    full.mkdir()
    (full / "x").write_text("")
    for words, message in [
        (("--test-share", "1"), "between 0 and 1"),
        (("--table", table, "--test-share", "0.3"), "--test-share or --seed"),
        (("--table", table, "--seed", "1"), "already has a column split"),
        (("--magnification", "60x"), "Resample"),
        (("--table", "nowhere.csv"), "nowhere.csv"),
        (("--out", source), "Omit --out"),
        (("--out", source, "--binary", "--force"), "Omit --out"),
        (("--out", full), "not empty"),
    ]:
        code, _, err = make(source, *words)
        assert code == 2
        assert message in err
    assert not (source / "manifest.csv").exists()


@pytest.mark.fault(14)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_rotated_mask_is_refused(source: Path, make: Make, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    (source / "labels" / "c.png").unlink()
    Image.fromarray(MASK).save(source / "labels" / f"c.{suffix}", exif=exif)
    code, out, _ = make(source, "--binary", "--json")
    assert code == 2
    assert "EXIF orientation 3" in "".join(json.loads(out)["problems"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_text_is_reported(source: Path, make: Make) -> None:
    for kind in ("images", "labels"):
        (source / kind / "a.png").rename(source / kind / os.fsdecode(b"\xe9.png"))
    code, out, err = make(source, "--json")
    assert code == 2, err
    assert "cannot be a file name" in "".join(json.loads(out)["problems"])


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_the_error_for_a_missing_or_empty_folder_shows_the_layout(
    source: Path, make: Make, kind: str
) -> None:
    for path in (source / kind).iterdir():
        path.unlink()
    assert "is empty" in make(source)[2]
    (source / kind).rmdir()
    code, _, err = make(source)
    assert code == 2
    assert "FOLDER/labels/NAME.png" in err


def test_a_manifest_is_replaced_only_with_force(source: Path, make: Make) -> None:
    assert make(source)[0] == 0
    first = (source / "manifest.csv").read_bytes()
    code, _, err = make(source, "--organ", "colon")
    assert code == 2
    assert "with --force" in err
    (source / "labels" / "a.png").write_bytes(b"")
    assert make(source, "--organ", "colon", "--force")[0] == 2
    assert (source / "manifest.csv").read_bytes() == first


@pytest.mark.fault(1)
def test_the_manifest_is_written_last(masks: Path) -> None:
    planned = create.plan(masks, FolderInfo(), binary=True)
    (masks / "labels" / "j.png").write_bytes((masks / "labels" / "i.png").read_bytes()[:-40])
    with pytest.raises(BenchError, match=r"j\.png"):
        create.write(planned)
    assert not (masks / "manifest.csv").exists()


def test_the_error_for_a_folder_without_a_manifest_contains_the_command(
    source: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    for words in (("run", "--dataset", str(source)), ("datasets", "check", str(source))):
        code, out, err = command(*words)
        assert code == 2
        assert f"bench datasets make {source}" in out + err


def test_reading_and_writing_report_progress(source: Path) -> None:
    steps: list[tuple[str, int, int]] = []

    def progress(*step: Any) -> None:
        steps.append(step)

    create.write(create.plan(source, FolderInfo(), progress=progress), progress)
    assert steps[0] == ("read", 1, 10)
    assert steps[-1] == ("write", 10, 10)
