"""Finding data sets by name or path, and checking that their parts are independent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import registry
from bench.api import Dataset, Labelled, Sample
from bench.data import find, folder, manifest
from bench.data.leakage import Member, leaks, pixel_sha256, refuse_leaks
from bench.errors import BenchError
from bench.store.cache_dir import cache_root

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


def write(root: Path) -> Path:
    labels = np.eye(8, dtype=int)
    pair = [
        Labelled("a", IMAGES[0], labels, "train", "p1"),
        Labelled("b", IMAGES[1], labels, "test", "p2"),
    ]
    folder.write(pair, root, about="x")
    return root


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty cache, without BENCH_DATA."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA", raising=False)
    return tmp_path


def test_data_dir_precedes_bench_data_and_the_cache(home: Path, monkeypatch: pytest.MonkeyPatch):
    cached = write(home / "cache" / "data" / "tnbc")
    assert find.find("tnbc").root == cached
    in_bench_data = write(home / "env" / "tnbc")
    monkeypatch.setenv("BENCH_DATA", str(home / "env"))
    assert find.find("tnbc").root == in_bench_data
    in_data_dir = write(home / "given" / "tnbc")
    handle = find.find("tnbc", home / "given")
    assert (handle.name, handle.root) == ("tnbc", in_data_dir)
    assert handle.dataset is registry.get("datasets", "tnbc")
    assert [sample.id for sample in handle.samples] == ["a", "b"]
    assert handle.identity == folder.manifest_sha256(manifest.read_rows(in_data_dir))
    assert find.installed(home / "given")["tnbc"] == in_data_dir
    assert find.installed(None)["tnbc"] == in_bench_data
    assert find.installed(None)["kumar"] is None


def test_a_folder_is_found_by_path_and_its_manifest_is_parsed_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    root, parsed = write(home / "my slides"), []
    parse = manifest.parse
    monkeypatch.setattr(manifest, "parse", lambda path: parsed.append(path) or parse(path))
    handle = find.find(str(root))
    assert (handle.name, handle.dataset.name, handle.root) == ("my slides", "my slides", root)
    assert handle.dataset.release is None
    assert parsed == [root]


def test_the_built_in_data_set_needs_no_folder_and_has_one_identity():
    first, second = find.find("synthetic"), find.find("synthetic")
    assert first.root is None
    assert len(first.samples) == 24
    assert first.identity == second.identity
    assert len(first.identity) == 64


def test_the_error_for_a_missing_data_set_lists_folders_and_commands(home: Path):
    with pytest.raises(BenchError) as caught:
        find.find("tnbc", home / "empty")
    for part in (
        str(home / "empty" / "tnbc"),
        str(home / "cache" / "data" / "tnbc"),
        "--data DIR",
        "bench datasets download tnbc",
        "bench datasets prepare tnbc --from RAW",
    ):
        assert part in str(caught.value)
    with pytest.raises(BenchError) as caught:
        find.find("kumar")
    assert "download kumar" not in str(caught.value)  # it has no public address
    with pytest.raises(BenchError, match="Did you mean tnbc"):
        find.find("tnbcc")
    with pytest.raises(BenchError, match="there is no folder"):
        find.find(str(home / "none"))
    (home / "data" / "tnbc").mkdir(parents=True)
    with pytest.raises(BenchError, match="is empty"):
        find.find("tnbc", home / "data")


@pytest.mark.fault(15, 24)
def test_an_unusable_folder_is_refused(home: Path):
    with pytest.raises(BenchError, match="not printable"):
        find.find(str(write(home / "my \x1b[31mslides")))
    root = write(home / "tnbc")
    with pytest.raises(BenchError, match="is itself a data set"):
        find.find("tnbc", root)
    (root / "images" / "a.png").write_bytes((root / "images" / "b.png").read_bytes())
    with pytest.raises(BenchError, match="differs from the manifest"):
        find.find(str(root))


def test_the_cache_is_bench_cache_or_in_the_xdg_or_home_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    assert cache_root() == home / "cache"
    monkeypatch.delenv("BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert cache_root() == home / "xdg" / "cmd-bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(home / "home"))
    assert cache_root() == home / "home" / ".cache" / "cmd-bench"


INDEPENDENT = [
    Member("a", "p1", "train", "0"),
    Member("b", "p1", "train", "1"),
    Member("c", "p2", "val", "2"),
    Member("d", "p3", "test", "3"),
]


@pytest.mark.fault(16)
def test_independent_splits_are_not_refused():
    for members in ([], INDEPENDENT, [*INDEPENDENT, Member("e", "p4", "train", "0")]):
        assert leaks(members) == []
        refuse_leaks(members)


@pytest.mark.parametrize(("patient", "split"), [("p1", "train"), ("p2", "val")])
@pytest.mark.fault(16)
def test_a_patient_in_two_splits_is_refused(patient: str, split: str):
    leaking = [*INDEPENDENT[:3], replace(INDEPENDENT[3], patient=patient)]
    with pytest.raises(BenchError, match=f"the patient '{patient}' is in test and {split}"):
        refuse_leaks(leaking)


@pytest.mark.fault(16)
def test_an_equal_image_in_two_splits_is_refused():
    with pytest.raises(BenchError, match=r"the same image is in a \(train\) and e \(test\)"):
        refuse_leaks([*INDEPENDENT, Member("e", "p4", "test", "0")])


def test_only_the_first_leaks_are_listed():
    many = [Member(f"{i}{part}", f"p{i}", part, "0") for i in range(9) for part in ("a", "b")]
    with pytest.raises(BenchError, match="and 5 more"):
        refuse_leaks(many)


def test_an_image_is_read_once_for_its_hash():
    reads = []

    def read() -> tuple[np.ndarray, np.ndarray]:
        reads.append(1)
        return IMAGES[0], np.zeros((8, 8), np.int32)

    image = Sample("a", "train", "p1", "", None, "f", read)
    handle = find.DatasetHandle("x", Dataset("x"), (image,), "", None)
    train, test = handle.member(image, "train"), handle.member(image, "test")
    assert train.image_sha256 == test.image_sha256 == pixel_sha256(IMAGES[0])
    assert (train.part, test.part, len(reads)) == ("train", "test", 1)


@pytest.mark.parametrize("name", ["tnbc", "kumar", "cpm15", "dsb2018", "nucls"])
def test_the_real_data_sets_are_valid_and_do_not_leak(data_dir: Path, name: str):
    handle = find.find(name, data_dir)
    assert handle.root == data_dir / name
    assert folder.check(data_dir / name) == []
    assert leaks(handle.member(sample, sample.split) for sample in handle.samples) == []
