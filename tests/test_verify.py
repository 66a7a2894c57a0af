"""`bench verify` reports changed and damaged files, and changes nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import Place, place

from bench import registry
from bench.store.results import Store

WORDS = ("run", "--dataset", "tnbc", "--backbone", "one-colour", "--epochs", "1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results and the cache of one run."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        words = (*WORDS, "--input-px", "24", "--save-masks")
        assert place(home, patch).bench(*words).code == 0
    return home


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("results", "cache"):
        shutil.copytree(home / name, tmp_path / name)
    return place(tmp_path, monkeypatch)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other_mask(path: Path) -> None:
    mask = np.asarray(Image.open(path))
    first = np.arange(mask.size).reshape(mask.shape) < 5
    Image.fromarray(np.where(first, 255 - mask, mask)).save(path)


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _contents(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def _problems(here: Place) -> list[dict[str, str]]:
    return here.bench("verify", "--json").json["problems"]


@pytest.mark.fault(6)
def test_intact_files_have_no_problems(here: Place) -> None:
    verified = here.bench("verify")
    assert (verified.code, verified.out.splitlines()[-1]) == (0, "no problems")
    assert "runs 1, masks 10" in verified.out
    body = here.bench("verify", "--json").json
    assert (body["ok"], body["problems"]) == (True, [])
    expected = {"runs": 1, "masks": 10, "data set tnbc": 20, "heads": 1, "features": 20}
    assert body["checked"].items() >= expected.items()


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        *[("results/runs/*/*/record.json", damage) for damage in (_flip, _cut, _remove, _pipe)],
        *[("results/runs/*/*/context.json", damage) for damage in (_cut, _pipe)],
        *[("results/runs/*/*/masks/*.png", damage) for damage in (_other_mask, _cut, _pipe)],
        *[("results/runs/*/*/masks/SHA256SUMS", damage) for damage in (_empty, _pipe)],
        *[("data/tnbc/images/s0-03.png", damage) for damage in (_flip, _remove)],
        ("data/tnbc/labels/s0-03.png", _other_mask),
        ("data/tnbc/manifest.csv", _remove),
        *[("cache/heads/*.safetensors", damage) for damage in (_cut, _pipe)],
        *[("cache/features/*/*.safetensors", damage) for damage in (_cut, _pipe)],
    ],
)
def test_changed_files_are_reported_and_left_unchanged(
    here: Place, pattern: str, damage: Callable[[Path], None]
) -> None:
    path = sorted(here.home.glob(pattern))[0]
    damage(path)
    before = _contents(here.home)
    verified = here.bench("verify")
    assert verified.code == 1
    (line,) = [line for line in verified.out.splitlines() if "To fix it: " in line]
    assert (path.parent.name if path.suffix == ".json" else path.name) in line
    (problem,) = _problems(here)
    assert problem["fix"]
    assert _contents(here.home) == before


@pytest.mark.fault(37)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_no_command_waits_for_a_pipe_or_a_device(here: Place, make: Callable[[Path], None]) -> None:
    for pattern in ("results/runs/*/*/*.json", "results/runs/*/*/masks/*", "cache/*/*/*.json"):
        for path in here.home.glob(pattern):
            path.unlink()
            make(path)
    make(here.home / "pipe")
    (here.home / "results" / "work" / "0" / "masks").mkdir(parents=True)
    make(here.home / "results" / "work" / "0" / "failed.json")
    folder, pipe = str(here.home / "results"), str(here.home / "pipe")
    here_too = ("--results", str(here.home / "new"))
    for words, code, message in (
        (("leaderboard",), 1, "not a file"),
        (("verify",), 1, "not a file"),
        (("verify", "--results", pipe), 2, "not a bundle"),
        (("leaderboard", "--results", pipe), 2, "no folder"),
        (("merge", folder, *here_too), 1, "not a file"),
        (("merge", pipe, *here_too), 2, "not a bundle"),
        (("report", "--out", str(here.home / "report")), 2, "no runs"),
        (("export", "--out", str(here.home / "bundle")), 2, "not a file"),
        (("cache", "list"), 0, "20/20"),
        ((*WORDS, "--input-px", "24"), 2, "not a file"),
        (("cache", "clear", "--all", "--yes"), 0, "removed"),
    ):
        result = here.bench(*words)
        assert (result.code, message in " ".join((result.out + result.err).split())) == (code, True)


@pytest.mark.fault(6)
@pytest.mark.parametrize("pattern", ["cache/features/*/*.safetensors", "cache/heads/*.safetensors"])
def test_swapped_cache_files_are_reported(here: Place, pattern: str) -> None:
    assert here.bench(*WORDS, "--input-px", "24", "--seed", "1").code == 0
    one, other = sorted(here.home.glob(pattern))[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert [problem["path"] for problem in _problems(here)] == [str(one), str(other)]


@pytest.mark.fault(6)
def test_mask_hashes_have_the_format_of_sha256sum(here: Place) -> None:
    (sums,) = here.home.glob("results/runs/*/*/masks/SHA256SUMS")
    hashes = dict(line.split("  ")[::-1] for line in sums.read_text().splitlines())
    masks = {path.name: path.read_bytes() for path in sums.parent.glob("*.png")}
    assert hashes == {name: hashlib.sha256(content).hexdigest() for name, content in masks.items()}


@pytest.mark.fault(6)
def test_masks_are_compared_with_the_counts_of_the_run(here: Place) -> None:
    (sums,) = here.home.glob("results/runs/*/*/masks/SHA256SUMS")
    path = sorted(sums.parent.glob("*.png"))[0]
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    _other_mask(path)
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(before, after))
    assert "its pixels differ from the counts" in here.bench("verify").out


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    "name",
    [
        *("results/runs/*/*/notes.txt", "results/runs/*/*/masks/s9.png"),
        *("data/tnbc/images/s9-99.png", "data/tnbc/labels/s9-99.png"),
    ],
)
def test_an_unexpected_file_is_reported(here: Place, name: str) -> None:
    (folder,) = here.home.glob(str(Path(name).parent))
    path = folder / Path(name).name
    path.write_bytes(b"?")
    assert [problem["path"] for problem in _problems(here)] == [str(path)]


def test_files_outside_of_the_folders_of_a_manifest_are_ignored(here: Place) -> None:
    data = here.home / "data"
    (data / "cpm15" / "Images").mkdir(parents=True)  # an unpacked release
    (data / "cpm15" / "Images" / "image_00.png").write_bytes(b"?")
    (data / "tnbc" / "labels").rename(data / "tnbc" / "instances")
    manifest = data / "tnbc" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",labels/", ",instances/"))
    (data / "tnbc" / "labels").mkdir()
    (data / "tnbc" / "labels" / "mask.png").write_bytes(b"?")
    assert _problems(here) == []


@pytest.mark.fault(6)
def test_an_unreadable_record_and_one_in_the_wrong_folder_are_reported(here: Place) -> None:
    (path,) = here.home.glob("results/runs/*/*/record.json")
    path.rename(path.with_name("aside"))
    path.mkdir()
    (problem,) = _problems(here)
    assert "is a folder, not a file" in problem["problem"]
    path.rmdir()
    path.with_name("aside").rename(path)
    path.parent.rename(path.parent.with_name("0" * 16))
    (problem,) = _problems(here)
    assert "which differs from the name of its folder" in problem["problem"]


@pytest.mark.fault(6)
def test_a_damaged_bundle_and_a_damaged_trial_are_reported(here: Place) -> None:
    for suffix in ("", ".zip"):
        bundle = here.home / f"bundle{suffix}"
        assert here.bench("export", "--out", str(bundle)).code == 0
        assert here.bench("verify", "--results", str(bundle)).code == 0
    (record,) = (here.home / "bundle").rglob("record.json")
    _flip(record)
    assert here.bench("verify", "--results", str(here.home / "bundle")).code == 1
    trial = Store(here.home / "results").work("0" * 16) / "trial-0000.json"
    trial.parent.mkdir(parents=True)
    trial.write_text("{}")
    assert "trial-0000.json: it is not a saved trial" in here.bench("verify").out


def test_a_missing_results_folder_is_an_error(here: Place, tmp_path: Path) -> None:
    verified = here.bench("verify", "--results", str(tmp_path / "nowhere"))
    assert verified.code == 2
    assert "nowhere" in verified.err


def test_many_problems_of_one_kind_are_abbreviated(here: Place) -> None:
    for number in range(8):
        (here.home / "cache" / "heads" / f"old-{number}.safetensors").write_bytes(b"none")
    verified = here.bench("verify")
    lines = [line for line in verified.out.splitlines() if "old-" in line]
    assert len(lines) == 5
    assert "... and 3 more of this kind" in verified.out
    assert verified.out.splitlines()[-1] == "8 problems"
    assert len(_problems(here)) == 8


# ---- bench doctor ------------------------------------------------------------------------------


def _findings(here: Place) -> dict[str, dict]:
    return {finding["name"]: finding for finding in here.bench("doctor", "--json").json}


def test_the_doctor_says_how_to_fix_a_store(here: Place) -> None:
    assert "1 valid record, 0 damaged" in here.bench("doctor", "--json").out
    (path,) = here.home.glob("results/runs/*/*/record.json")
    _cut(path)
    findings = _findings(here)
    assert not findings["results"]["ok"]
    assert "bench verify" in findings["results"]["fix"]
    assert here.bench(*WORDS, "--input-px", "24").code == 0
    findings = _findings(here)
    assert findings["results"]["ok"]
    assert "quarantine" in findings["results"]["fix"]


def test_the_doctor_lists_a_command_for_each_missing_data_set(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = _findings(here)
    assert findings["data set tnbc"]["ok"] is True
    assert (findings["data set nucls"]["ok"], findings["data set nucls"]["result"]) == (
        None,
        "not found",
    )
    monkeypatch.setenv("BENCH_DATA", str(here.home / "nowhere"))
    findings = _findings(here)
    for name in registry.names("datasets"):
        record, fix = registry.get("datasets", name), findings[f"data set {name}"]["fix"]
        assert ("datasets download" in fix) == bool(record.download)
        assert ("datasets prepare" in fix) == bool(record.release)
        assert ("datasets make" in fix) == (not record.release and not record.generate)
