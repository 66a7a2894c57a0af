"""`bench verify` finds changed and damaged files, and changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from squares import Place, place

from bench import registry
from bench.cli.verify import of_cache
from bench.store.results import Store
from bench.store.verify import of_results

WORDS = ("run", "--dataset", "tnbc", "--backbone", "one-colour", "--epochs", "1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    here = place(tmp_path, monkeypatch)
    assert here.bench(*WORDS, "--input-px", "24", "--save-masks").code == 0
    return here


def _silent(*_: object) -> None: ...


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other_mask(path: Path) -> None:
    mask = np.asarray(Image.open(path))
    Image.fromarray(np.where(np.arange(mask.size).reshape(mask.shape) < 5, 255 - mask, mask)).save(
        path
    )


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _remove(path: Path) -> None:
    path.unlink()


def _files(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.mark.fault(6)
def test_intact_files_are_reported_as_such(here: Place) -> None:
    told = here.bench("verify")
    assert told.code == 0, told.out
    assert "as it was written" in told.out
    found = here.bench("verify", "--json").json
    assert (found["sound"], found["doubts"]) == (True, [])
    assert found["looked_at"]["runs"] == 1
    assert found["looked_at"]["data set tnbc"] == 12
    assert found["looked_at"]["features"] == 12
    assert found["looked_at"]["masks"] == 6
    assert "runs 1, masks 6" in told.out


@pytest.mark.fault(6)
def test_mask_hashes_have_the_format_of_sha256sum(here: Place) -> None:
    (sums,) = here.home.glob("results/runs/*/*/masks/SHA256SUMS")
    named = dict(line.split("  ")[::-1] for line in sums.read_text().splitlines())
    masks = sorted(sums.parent.glob("*.png"))
    assert sorted(named) == [path.name for path in masks]
    for path in masks:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == named[path.name]


@pytest.mark.fault(6)
def test_masks_of_older_versions_are_compared_with_the_counts(here: Place) -> None:
    (sums,) = here.home.glob("results/runs/*/*/masks/SHA256SUMS")
    sums.unlink()
    context = sums.parent.parent / "context.json"
    body = {k: v for k, v in json.loads(context.read_bytes()).items() if k not in ("of", "sha256")}
    context.write_text(json.dumps(body))
    assert here.bench("verify").code == 0
    _other_mask(sorted(sums.parent.glob("*.png"))[0])
    assert "its pixels differ from the counts" in here.bench("verify").out


@pytest.mark.fault(6)
@pytest.mark.parametrize("lose", [lambda path: path.unlink(), lambda path: path.write_text("")])
@pytest.mark.parametrize("context", ["whole", "gone"])
def test_masks_without_hashes_are_reported(
    here: Place, lose: Callable[[Path], None], context: str
) -> None:
    (sums,) = here.home.glob("results/runs/*/*/masks/SHA256SUMS")
    lose(sums)
    if context == "gone":
        (sums.parent.parent / "context.json").unlink()
    (doubt,) = here.bench("verify", "--json").json["doubts"]
    assert doubt["where"] == str(sums)
    assert "--save-masks" in doubt["cure"]


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    "pattern", ["results/runs/*/*/context.json", "cache/features/*/about.json"]
)
def test_any_flipped_bit_of_a_metadata_file_is_found(here: Place, pattern: str) -> None:
    (path,) = here.home.glob(pattern)
    content = path.read_bytes()
    for position in range(0, len(content) - 1, 7):
        changed = bytearray(content)
        changed[position] ^= 1 << (position % 7)
        path.write_bytes(bytes(changed))
        found = [
            *of_results(here.home / "results", _silent),
            *of_cache(here.home / "cache", _silent),
        ]
        assert len(found) == 1, position


@pytest.mark.fault(6)
def test_swapped_metadata_files_are_found(here: Place) -> None:
    assert here.bench(*WORDS, "--input-px", "32").code == 0
    for pattern in ("results/runs/*/*/context.json", "cache/features/*/about.json"):
        one, other = here.home.glob(pattern)
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        doubts = here.bench("verify", "--json").json["doubts"]
        assert len(doubts) == 2
        assert all("it belongs to" in each["what"] for each in doubts)
        one.write_bytes(first)
        other.write_bytes(second)
    assert here.bench("verify").code == 0


@pytest.mark.fault(6)
def test_a_context_without_a_hash_is_accepted(here: Place) -> None:
    (path,) = here.home.glob("results/runs/*/*/context.json")
    path.write_text('{"finished": "2026-01-01"}')
    assert here.bench("verify").code == 0
    assert Store(here.home / "results").context(path.parent.name) == {"finished": "2026-01-01"}


@pytest.mark.fault(6)
def test_a_data_set_without_its_manifest_is_reported(here: Place) -> None:
    (here.home / "data" / "tnbc" / "manifest.csv").unlink()
    (doubt,) = here.bench("verify", "--json").json["doubts"]
    assert doubt["where"].endswith("tnbc/manifest.csv")


@pytest.mark.fault(6)
@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_file_added_to_a_data_set_is_reported(here: Place, part: str) -> None:
    added = here.home / "data" / "tnbc" / part / "s9-99.png"
    added.write_bytes(b"?")
    (doubt,) = here.bench("verify", "--json").json["doubts"]
    assert doubt["where"] == str(added)


def test_files_outside_of_the_manifest_folders_are_ignored(here: Place) -> None:
    home = here.home / "data"
    (home / "cpm15" / "Images").mkdir(parents=True)  # a release as it was downloaded
    (home / "cpm15" / "Images" / "image_00.png").write_bytes(b"?")
    instances = home / "tnbc" / "instances"
    (home / "tnbc" / "labels").rename(instances)
    manifest = home / "tnbc" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",labels/", ",instances/"))
    (home / "tnbc" / "labels").mkdir()
    (home / "tnbc" / "labels" / "mask.png").write_bytes(b"?")  # source of the numbered instances
    assert here.bench("verify", "--json").json["doubts"] == []
    (instances / "more.png").write_bytes(b"?")
    assert len(here.bench("verify", "--json").json["doubts"]) == 1


@pytest.mark.fault(6)
def test_an_unreadable_record_is_reported(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = here.home.glob("results/runs/*/*/record.json")
    path.rename(path.with_name("aside"))
    path.mkdir()
    found = here.bench("verify", "--json")
    assert found.code == 1
    assert "cannot be read: Is a directory" in found.json["doubts"][0]["what"]


@pytest.mark.fault(6)
@pytest.mark.parametrize("place", ["notes.txt", "masks/s9.png", "masks/draw-1/s0-03.png"])
def test_an_unexpected_file_is_reported(here: Place, place: str) -> None:
    (folder,) = here.home.glob("results/runs/*/*")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_bytes(b"?")
    told = here.bench("verify")
    assert told.code == 1
    assert f"{Path(place).name}: unexpected file" in told.out


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        *[("results/runs/*/*/record.json", each) for each in (_flip, _cut, _remove)],
        *[("results/runs/*/*/masks/*.png", each) for each in (_other_mask, _cut, _longer, _remove)],
        *[("data/tnbc/images/s0-03.png", each) for each in (_flip, _cut, _remove, _other_mask)],
        *[("data/tnbc/labels/s0-03.png", each) for each in (_flip, _cut, _remove, _other_mask)],
        *[("cache/heads/*.safetensors", each) for each in (_flip, _cut)],
        *[("cache/features/*/*.safetensors", each) for each in (_flip, _cut)],
    ],
)
def test_changed_files_are_reported_and_left_unchanged(
    here: Place, pattern: str, damage: Callable[[Path], None]
) -> None:
    path = sorted(here.home.glob(pattern))[0]
    damage(path)
    before = _files(here.home)
    told = here.bench("verify")
    assert told.code == 1
    (line,) = [each for each in told.out.splitlines() if "To mend it" in each]
    assert str(path.parent if "record" in path.name else path.name) in line
    assert "To mend it: " in line
    assert _files(here.home) == before
    found = here.bench("verify", "--json")
    assert found.code == 1
    assert found.json["sound"] is False
    assert [bool(each["cure"]) for each in found.json["doubts"]] == [True]


@pytest.mark.fault(6)
def test_a_damaged_bundle_and_a_damaged_trial_are_reported(here: Place) -> None:
    for suffix in ("", ".zip"):
        bundle = here.home / f"bundle{suffix}"
        assert here.bench("export", "--out", str(bundle)).code == 0
        assert here.bench("verify", "--results", str(bundle)).code == 0
    (record,) = (here.home / "bundle").rglob("record.json")
    _flip(record)
    told = here.bench("verify", "--results", str(here.home / "bundle"))
    assert told.code == 1
    assert "its sha256 differs from the manifest" in told.out
    trial = Store(here.home / "results").work("0" * 16) / "trial-0000.json"
    trial.parent.mkdir(parents=True)
    trial.write_text("{}")
    assert "trial-0000.json: it does not match its hash" in here.bench("verify").out


@pytest.mark.fault(6)
def test_a_record_in_the_wrong_folder_is_reported(here: Place) -> None:
    (path,) = here.home.glob("results/runs/*/*")
    path.rename(path.with_name("0" * 16))
    told = here.bench("verify")
    assert told.code == 1
    assert "which differs from the name of its folder" in told.out


def test_the_doctor_says_how_to_fix_a_store(here: Place) -> None:
    assert "1 valid record, 0 damaged" in here.bench("doctor", "--json").out
    (path,) = here.home.glob("results/runs/*/*/record.json")
    _cut(path)
    found = {each["name"]: each for each in here.bench("doctor", "--json").json}
    assert not found["results"]["ok"]
    assert "bench verify" in found["results"]["fix"]
    assert here.bench(*WORDS, "--input-px", "24").code == 0
    found = {each["name"]: each for each in here.bench("doctor", "--json").json}
    assert found["results"]["ok"]
    assert "quarantine" in found["results"]["fix"]


def test_the_doctor_lists_a_command_for_each_data_set(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(here.home / "nowhere"))
    told = here.bench("doctor", "--json").json
    cures = {each["name"]: each["fix"] for each in told}
    for name in registry.names("datasets"):
        record = registry.get("datasets", name)
        cure = cures[f"data set {name}"]
        assert ("datasets download" in cure) == bool(record.download)
        assert ("datasets prepare" in cure) == bool(record.release)
        assert ("datasets make" in cure) == (not record.release and not record.generate)


def test_the_doctor_reports_missing_data_sets_as_unknown(here: Place) -> None:
    told = here.bench("doctor", "--json")
    found = {each["name"]: each for each in told.json}
    assert found["data set tnbc"]["ok"] is True
    assert (found["data set nucls"]["ok"], found["data set nucls"]["result"]) == (None, "not found")
    assert told.code == (1 if any(each["ok"] is False for each in told.json) else 0)


def test_a_missing_results_folder_raises(here: Place, tmp_path: Path) -> None:
    told = here.bench("verify", "--results", str(tmp_path / "nowhere"))
    assert told.code == 2
    assert "nowhere" in told.err


@pytest.mark.fault(6)
def test_many_problems_of_one_kind_are_abbreviated(here: Place) -> None:
    for number in range(8):
        (here.home / "cache" / "heads" / f"old-{number}.safetensors").write_bytes(b"none")
    told = here.bench("verify")
    assert told.code == 1
    lines = [each for each in told.out.splitlines() if "old-" in each or "more of this" in each]
    assert len(lines) == 6
    assert lines[-1].startswith("... and 3 more of this kind")
    assert told.out.splitlines()[-1] == "8 doubts"
    assert len(here.bench("verify", "--json").json["doubts"]) == 8
