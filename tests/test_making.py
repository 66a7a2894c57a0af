"""`bench datasets make` creates a data set from a folder, or reports all problems."""

from __future__ import annotations

import csv
import json
import os
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
from bench.data.create import seeded_split
from bench.data.manifest import COLUMNS
from bench.errors import BenchError

Call = Callable[..., tuple[int, str, str]]
NAMES = tuple("abcdefghij")


def _pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)


def _instances() -> np.ndarray:
    """Two touching nuclei and a separate one, with noncontiguous labels."""
    instances = np.zeros((24, 30), np.uint16)
    instances[2:6, 2:6], instances[2:6, 6:9], instances[15:20, 20:28] = 7, 9, 400
    return instances


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with ten pairs of image and label."""
    root = tmp_path / "mine"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.fromarray(_pixels(number)).save(root / "images" / f"{name}.png")
        Image.fromarray(_instances()).save(root / "labels" / f"{name}.png")
    return root


@pytest.fixture
def masks(source: Path) -> Path:
    """The same folder with masks instead of labels: 0 and 255, 0 and 1, and one bit per pixel."""
    for number, name in enumerate(NAMES):
        mask = (_instances() > 0).astype(np.uint8)
        picture = Image.fromarray(mask * (255 if number % 2 else 1))
        if number == 4:
            picture = Image.fromarray(mask * 255).convert("1")
        picture.save(source / "labels" / f"{name}.png")
    return source


def _table(root: Path, lines: str, columns: str = "id,patient,split") -> str:
    path = root.parent / "patients.csv"
    path.write_text(f"{columns}\n{lines}", "utf-8")
    return str(path)


def _thirds(split: Callable[[int], str] = lambda n: f",{'train' if n < 6 else 'test'}") -> str:
    return "".join(f"{name},p{n // 2}{split(n)}\n" for n, name in enumerate(NAMES))


def _lines(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---- what is made ----------------------------------------------------------------------------


def test_images_and_labels_become_a_valid_data_set(source: Path, command: Call) -> None:
    before = _files(source)
    code, out, _ = command("datasets", "make", str(source), "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["images"], result["patients"], result["nuclei"]) == (10, 10, 30)
    assert result["splits"] == {"test": 3, "train": 7}
    assert result["next"] == f"bench run --dataset {source}"
    assert folder.check(source) == []
    assert {name: content for name, content in _files(source).items() if name in before} == before
    assert set(_files(source)) - set(before) == {"manifest.csv", "README.md"}
    assert list(_lines(source)[0]) == list(COLUMNS)
    image, instances = find.find(str(source)).samples[0].read()
    np.testing.assert_array_equal(image, _pixels(0))
    np.testing.assert_array_equal(instances, _instances())


@pytest.mark.parametrize("name", ["tnbc", "kumar"])
def test_a_recreated_data_set_has_the_same_manifest(
    data_dir: Path, tmp_path: Path, command: Call, name: str
) -> None:
    for kind in ("images", "labels"):
        shutil.copytree(data_dir / name / kind, tmp_path / name / kind)
    table = str(data_dir / name / "manifest.csv")
    assert command("datasets", "make", str(tmp_path / name), "--table", table)[0] == 0
    assert _lines(tmp_path / name) == _lines(data_dir / name)


def test_a_table_sets_patient_split_organ_and_magnification(source: Path, command: Call) -> None:
    lines = _thirds(lambda n: f",{'train' if n < 6 else 'test'},colon,20x,71")
    table = _table(source, lines, "\ufeffid,patient,split,organ,magnification,age")
    code, out, _ = command("datasets", "make", str(source), "--table", table)
    assert code == 0
    assert "10 images of 5 patients (4 test, 6 train)" in out
    assert ": age" in out
    assert "drawn" not in out
    first = _lines(source)[0]
    assert (first["patient"], first["organ"], first["magnification"]) == ("p0", "colon", "20x")


def test_a_drawn_split_is_by_patient_and_depends_on_the_seed(source: Path, command: Call) -> None:
    table = _table(source, _thirds(lambda _: ""), "id,patient")
    seen = []
    for more in ((), ("--seed", "0"), ("--seed", "1"), ("--test-share", "0.6")):
        words = ("datasets", "make", str(source), "--table", table, "--force", *more)
        assert command(*words)[0] == 0
        seen.append([(line["patient"], line["split"]) for line in _lines(source)])
        assert len(set(seen[-1])) == 5  # no patient in two splits
    assert seen[0] == seen[1] != seen[2]
    assert sum(split == "test" for _, split in seen[3]) == 6
    assert "--test-share 0.6 --seed 0" in (source / "README.md").read_text()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_each_split_has_a_patient_if_there_are_two(share: float) -> None:
    assert sorted(seeded_split("0", {"a", "b"}, share).values()) == ["test", "train"]
    assert seeded_split("0", {"a"}, share) == {"a": "train"}


def test_organ_and_magnification_can_be_set_for_all_images(source: Path, command: Call) -> None:
    words = ("--organ", "breast", "--magnification", "40x")
    assert command("datasets", "make", str(source), *words)[0] == 0
    assert {(e["organ"], e["magnification"]) for e in _lines(source)} == {("breast", "40x")}


def test_existing_text_of_the_readme_is_kept(source: Path, command: Call) -> None:
    (source / "README.md").write_bytes("# Süß\n\nLicence: CC0\n".encode("latin-1"))
    for _ in range(2):
        assert command("datasets", "make", str(source), "--force")[0] == 0
    text = (source / "README.md").read_bytes()
    assert text.startswith("# Süß\n\nLicence: CC0\n\n## How".encode("latin-1"))
    assert text.count(b"## How this data set was made") == 1
    assert b"drawn by patient (--test-share 0.3 --seed 0)" in text
    assert str(source).encode() not in text


def test_a_copy_leaves_the_folder_unchanged(source: Path, command: Call) -> None:
    before = _files(source)
    there = source.parent / "copy"
    code, out, _ = command("datasets", "make", str(source), "--out", str(there))
    assert code == 0
    assert f"next: bench run --dataset {there}" in out
    assert _files(source) == before
    assert folder.check(there) == []
    assert set(_files(there)) == {*before, "manifest.csv", "README.md"}
    assert {n: c for n, c in _files(there).items() if n in before} == before


# ---- masks -----------------------------------------------------------------------------------


def test_a_mask_without_the_binary_option_is_refused(masks: Path, command: Call) -> None:
    before = _files(masks)
    code, out, _ = command("datasets", "make", str(masks))
    assert code == 2
    assert out.count("--binary") == 10
    assert _files(masks) == before


@pytest.mark.parametrize("copied", [False, True])
def test_the_binary_option_numbers_connected_components(
    masks: Path, command: Call, copied: bool
) -> None:
    before = _files(masks)
    there = masks.parent / "copy" if copied else masks
    words = ("--out", str(there)) if copied else ()
    code, out, _ = command("datasets", "make", str(masks), "--binary", *words)
    assert code == 0
    assert "touching nuclei count as one" in out
    assert {name: content for name, content in _files(masks).items() if name in before} == before
    assert folder.check(there) == []
    line = _lines(there)[0]
    assert line["label"] == f"{'labels' if copied else 'instances'}/a.png"
    assert line["nuclei"] == "2"
    _, instances = find.find(str(there)).samples[0].read()
    np.testing.assert_array_equal(instances > 0, _instances() > 0)


def test_labels_with_the_binary_option_are_refused(source: Path, command: Call) -> None:
    code, out, _ = command("datasets", "make", str(source), "--binary")
    assert code == 2
    assert "has 3 values other than 0" in out
    assert "Omit it" in out


def test_a_label_with_one_nucleus_is_not_a_mask(source: Path, command: Call) -> None:
    one = np.zeros((24, 30), np.uint8)
    one[3:9, 3:9] = 1
    Image.fromarray(one).save(source / "labels" / "a.png")
    Image.fromarray(one * 0).save(source / "labels" / "b.png")
    code, out, _ = command("datasets", "make", str(source))
    assert code == 0
    assert "no nuclei in 1 images: b" in out


def test_labels_with_one_number_in_two_components_are_masks(source: Path, command: Call) -> None:
    for name in NAMES:
        Image.fromarray((_instances() > 0).astype(np.uint8)).save(source / "labels" / f"{name}.png")
    code, out, _ = command("datasets", "make", str(source))
    assert code == 2
    assert "its only nucleus has 2 connected components" in out


# ---- what is wrong ---------------------------------------------------------------------------


def _other_size(root: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "labels" / "b.png")


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no label": (lambda root: (root / "labels" / "b.png").unlink(), "b.png has no label"),
    "no image": (lambda root: (root / "images" / "b.png").unlink(), "b.png has no image"),
    "grey": (
        lambda root: Image.new("L", (30, 24)).save(root / "images" / "b.png"),
        "8-bit RGB is required",
    ),
    "damaged": (lambda root: (root / "images" / "b.png").write_bytes(b"x"), "damaged"),
    "colour label": (
        lambda root: Image.new("RGB", (30, 24)).save(root / "labels" / "b.png"),
        "not one channel",
    ),
    "other size": (_other_size, "same width and height"),
    "another kind": (lambda root: (root / "images" / "b.bmp").write_bytes(b""), "not one of .png"),
    "a folder": (lambda root: (root / "images" / "sub").mkdir(), "sub is a folder"),
    "two endings": (
        lambda root: Image.fromarray(_pixels(1)).save(root / "images" / "b.jpg"),
        "has the same name as",
    ),
    "a broken link": (lambda root: (root / "images" / "x.png").symlink_to("no"), "x.png"),
    "a duplicate image": (
        lambda root: [
            Image.fromarray(_pixels(99)).save(root / "images" / f"{name}.png") for name in NAMES
        ],
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
@pytest.mark.parametrize("case", WRONG)
def test_problems_of_files_are_reported_and_nothing_is_written(
    source: Path, masks: Path, command: Call, case: str, binary: bool
) -> None:
    if not binary:
        for name in NAMES:
            Image.fromarray(_instances()).save(source / "labels" / f"{name}.png")
    change, message = WRONG[case]
    change(source)
    before = _files(source)
    code, out, _ = command("datasets", "make", str(source), *(["--binary"] if binary else []))
    assert code == 2
    assert message in out or (binary and case == "colour label" and "is a RGB image" in out)
    assert "nothing was written" in out
    assert _files(source) == before


def test_all_problems_are_reported(source: Path, command: Call) -> None:
    (source / "images" / "a.png").write_bytes(b"")
    (source / "labels" / "c.png").unlink()
    _other_size(source)
    table = _table(source, _thirds().replace("j,", "nobody,").replace("i,p4,test", "i,,exam"))
    code, out, _ = command("datasets", "make", str(source), "--table", table, "--json")
    problems = "\n".join(json.loads(out)["problems"])
    assert code == 2
    for part in ("a.png", "c.png", "same width", "'nobody'", "no row for the image 'j'", "'exam'"):
        assert part in problems
    assert not (source / "manifest.csv").exists()


TABLES: dict[str, tuple[str, str, str]] = {
    "semicolons": ("a;p;train\n", "id;patient;split", "must contain the columns"),
    "no patient": ("a,train\n", "id,split", "has no columns patient"),
    "a column twice": ("a,p,q\n", "id,patient,patient", "has two columns patient"),
    "not UTF-8": ("a,p\n", "id,patient", "UTF-8"),
    "an id twice": (_thirds() + "a,p0,train\n", "id,patient,split", "duplicate id 'a'"),
    "endings in ids": (_thirds().replace("a,", "a.png,"), "id,patient,split", "without the suffix"),
    "too few values": (_thirds() + "x\n", "id,patient,split", "one value for each column"),
    "a patient in two splits": (
        _thirds(lambda n: f",{'train' if n % 2 else 'test'}"),
        "id,patient,split",
        "the patient 'p0' is in test and train",
    ),
    "a blank": (_thirds().replace("p1,", " p1,"), "id,patient,split", "begins or ends with"),
    "another magnification": (
        _thirds(lambda _: ",train,60x"),
        "id,patient,split,magnification",
        "'60x' is not 20x",
    ),
    "nothing": ("", "id,patient", "no row for the image 'a'"),
    "one patient": (
        "".join(f"{name},p\n" for name in NAMES),
        "id,patient",
        "1 patient cannot be split",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_an_invalid_table_is_reported(source: Path, command: Call, case: str) -> None:
    lines, columns, message = TABLES[case]
    table = _table(source, lines, columns)
    if case == "not UTF-8":
        Path(table).write_bytes(b"id,patient\na,\xff\xfe\n")
    code, out, err = command("datasets", "make", str(source), "--table", table)
    assert code == 2
    assert message in out + err
    assert not (source / "manifest.csv").exists()


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "a share of all": (("--test-share", "1"), "between 0 and 1"),
    "a share beside a split": (("--table", "T", "--test-share", "0.3"), "--test-share or --seed"),
    "a seed beside a split": (("--table", "T", "--seed", "1"), "already has a column split"),
    "a magnification": (("--magnification", "60x"), "Resample"),
    "no table": (("--table", "nowhere.csv"), "nowhere.csv"),
    "itself": (("--out", "SOURCE"), "Omit --out"),
    "itself, by force": (("--out", "SOURCE", "--binary", "--force"), "Omit --out"),
    "a full folder": (("--out", "FULL"), "not empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_options_are_refused(source: Path, command: Call, case: str) -> None:
    full = source.parent / "full"
    full.mkdir()
    (full / "x").write_text("")
    words, message = REFUSED[case]
    named = {"T": _table(source, _thirds()), "SOURCE": str(source), "FULL": str(full)}
    code, _, err = command(
        "datasets", "make", str(source), *(named.get(each, each) for each in words)
    )
    assert code == 2
    assert message in err
    assert not (source / "manifest.csv").exists()


def test_unsupported_files_are_the_only_reported_problem(source: Path, command: Call) -> None:
    for path in (source / "images").iterdir():
        path.rename(path.with_suffix(".bmp"))
    code, out, err = command("datasets", "make", str(source), "--json")
    assert code == 2, err
    assert sum(".bmp" in each for each in json.loads(out)["problems"]) == 10


@pytest.mark.fault(14)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_rotated_mask_is_refused(source: Path, command: Call, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    (source / "labels" / "c.png").unlink()
    mask = Image.fromarray((_instances() > 0).astype(np.uint8))
    mask.save(source / "labels" / f"c.{ending}", exif=exif)
    code, out, _ = command("datasets", "make", str(source), "--binary", "--json")
    assert code == 2
    assert "EXIF orientation 3" in "".join(json.loads(out)["problems"])


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_a_name_that_is_not_text_is_reported(source: Path, command: Call) -> None:
    for kind in ("images", "labels"):
        (source / kind / "a.png").rename(source / kind / os.fsdecode(b"\xe9.png"))
    code, out, err = command("datasets", "make", str(source), "--json")
    assert code == 2, err
    assert "cannot be a file name" in "".join(json.loads(out)["problems"])


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_the_error_for_a_missing_or_empty_folder_shows_the_layout(
    source: Path, command: Call, kind: str
) -> None:
    for path in (source / kind).iterdir():
        path.unlink()
    assert "is empty" in command("datasets", "make", str(source))[2]
    (source / kind).rmdir()
    code, _, err = command("datasets", "make", str(source))
    assert code == 2
    assert "FOLDER/labels/NAME.png" in err


def test_a_manifest_is_replaced_only_with_force(source: Path, command: Call) -> None:
    assert command("datasets", "make", str(source))[0] == 0
    first = (source / "manifest.csv").read_bytes()
    code, _, err = command("datasets", "make", str(source), "--organ", "colon")
    assert code == 2
    assert "with --force" in err
    (source / "labels" / "a.png").write_bytes(b"")
    assert command("datasets", "make", str(source), "--organ", "colon", "--force")[0] == 2
    assert (source / "manifest.csv").read_bytes() == first
    Image.fromarray(_instances()).save(source / "labels" / "a.png")
    assert command("datasets", "make", str(source), "--organ", "colon", "--force")[0] == 0
    assert {line["organ"] for line in _lines(source)} == {"colon"}


@pytest.mark.fault(1)
def test_the_manifest_is_written_last(masks: Path) -> None:
    planned = create.plan(masks, FolderInfo(), binary=True)
    (masks / "labels" / "j.png").write_bytes((masks / "labels" / "i.png").read_bytes()[:-40])
    with pytest.raises(BenchError, match=r"j\.png"):
        create.write(planned)
    assert not (masks / "manifest.csv").exists()


def test_a_folder_without_a_manifest_raises_with_the_command(source: Path, command: Call) -> None:
    for words in (("run", "--dataset", str(source)), ("datasets", "check", str(source))):
        code, out, err = command(*words)
        assert code == 2
        assert f"bench datasets make {source}" in out + err


def test_reading_and_writing_report_progress(source: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    create.write(
        create.plan(source, FolderInfo(), progress=lambda *step: steps.append(step)),
        lambda *step: steps.append(step),
    )
    assert steps[0] == ("read", 1, 10)
    assert steps[-1] == ("write", 10, 10)
