"""Packing, checking and merging bundles; altered bundles are refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crashes import Changes, Killed, watched
from tiny import FEWSHOT, altered, commit, named, request, run, squares, worse

from bench.api.board import BoardOptions
from bench.api.record import Record, canonical, to_bytes
from bench.board.compare import choose
from bench.errors import BenchError
from bench.registry import get
from bench.store import files
from bench.store.bundle import MANIFEST, merge, pack
from bench.store.results import Store


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with two runs in its `results`."""
    home = tmp_path_factory.mktemp("home")
    folder = squares(home / "squares", count=12)
    run(request(folder), home, save_masks=True)
    run(request(folder, **FEWSHOT), home)
    return home


@pytest.fixture(scope="module")
def record(home) -> Record:
    return next(record for record in _records(home / "results") if record.draws == [()])


@pytest.fixture(params=["b.zip", "b"])
def packed(request, home, tmp_path) -> Path:
    """The two runs as a bundle: a zip file and a folder."""
    pack(Store(home / "results"), _ids(home / "results"), tmp_path / request.param)
    return tmp_path / request.param


def _records(results: Path) -> list[Record]:
    return [record for record in Store(results).records() if isinstance(record, Record)]


def _ids(results: Path) -> list[str]:
    return sorted(record.run_id for record in _records(results))


def _contents(results: Path) -> dict[str, bytes]:
    """Return the content of every record and context."""
    paths = sorted(results.glob("runs/*/*/*.json"))
    return {path.relative_to(results).as_posix(): path.read_bytes() for path in paths}


def _name(record: Record) -> str:
    return f"runs/{record.run_id[:2]}/{record.run_id}/record.json"


def _zip(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return path


def _bundle_of(record: Record, folder: Path, content: bytes | None = None) -> Path:
    """Create a zip bundle of a record, or of `content`."""
    content = to_bytes(record) if content is None else content
    return _zip(folder / "made.zip", {_name(record): content})


def _hashed(body: dict[str, Any]) -> bytes:
    """Serialise a forged record with a matching hash."""
    body = {name: value for name, value in body.items() if name != "sha256"}
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    return canonical(body) + b"\n"


def test_a_merged_bundle_equals_the_packed_runs_and_merging_again_changes_nothing(
    packed, home, tmp_path
):
    merged = merge(packed, Store(tmp_path / "new"))
    assert (sorted(merged.added), merged.existing, merged.refused) == (
        _ids(home / "results"),
        (),
        {},
    )
    assert _contents(tmp_path / "new") == _contents(home / "results")
    again = merge(packed, Store(tmp_path / "new"))
    assert (again.added, sorted(again.existing)) == ((), _ids(home / "results"))
    assert _contents(tmp_path / "new") == _contents(home / "results")


def test_bundles_of_the_same_runs_are_identical(home, tmp_path):
    ids = _ids(home / "results")
    pack(Store(home / "results"), ids, tmp_path / "a.zip")
    pack(Store(home / "results"), ids[::-1] + ids, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with pytest.raises(BenchError, match="exists"):
        pack(Store(home / "results"), ids[:1], tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_results_folder_is_merged_without_masks(home, tmp_path):
    assert len(merge(home / "results", Store(tmp_path / "new")).added) == 2
    assert list((home / "results").rglob("*.png"))
    assert not list((tmp_path / "new").rglob("*.png"))


def test_a_bundle_of_an_earlier_version_with_a_manifest_is_merged(home, tmp_path):
    contents = {**_contents(home / "results"), MANIFEST: b"{}"}
    assert len(merge(_zip(tmp_path / "b.zip", contents), Store(tmp_path / "new")).added) == 2


@pytest.mark.fault(1)
@pytest.mark.parametrize("number", range(1, 30, 7))
def test_an_interrupted_pack_leaves_no_folder(home, tmp_path, number):
    ids = _ids(home / "results")
    with watched(Changes(tmp_path, number)), contextlib.suppress(Killed):
        pack(Store(home / "results"), ids, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    pack(Store(home / "results"), ids, tmp_path / "b")
    assert len(merge(tmp_path / "b", Store(tmp_path / "new")).added) == 2


# ---- damage and alteration -------------------------------------------------------------------


@pytest.mark.fault(6)
def test_an_altered_run_is_refused_and_the_other_is_merged(home, record, tmp_path):
    body = json.loads(to_bytes(record))
    body["facts"]["license"] = "another"
    contents = {**_contents(home / "results"), _name(record): canonical(body)}
    merged = merge(_zip(tmp_path / "b.zip", contents), Store(tmp_path / "new"))
    assert list(merged.refused) == [record.run_id]
    assert "does not match its hash" in merged.refused[record.run_id]
    others = [run_id for run_id in _ids(home / "results") if run_id != record.run_id]
    assert _ids(tmp_path / "new") == others


@pytest.mark.fault(6)
def test_no_altered_run_is_merged_after_a_bit_flip(home, tmp_path):
    pack(Store(home / "results"), _ids(home / "results"), tmp_path / "b.zip")
    content = (tmp_path / "b.zip").read_bytes()
    for seed in range(12):
        damaged, draw = bytearray(content), random.Random(seed)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "b.zip").write_bytes(damaged)
        with contextlib.suppress(BenchError):
            merge(tmp_path / "b.zip", Store(tmp_path / str(seed)))
        assert _contents(tmp_path / str(seed)).items() <= _contents(home / "results").items()


@pytest.mark.fault(6)
def test_a_truncated_file_is_refused(home, tmp_path):
    pack(Store(home / "results"), _ids(home / "results"), tmp_path / "b.zip")
    content = (tmp_path / "b.zip").read_bytes()
    for share in (0.0, 0.1, 0.5, 0.999):
        (tmp_path / "b.zip").write_bytes(content[: int(share * len(content))])
        with pytest.raises(BenchError, match=r"b\.zip"):
            merge(tmp_path / "b.zip", Store(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def _without_fp(record: Record) -> Record:
    counts = [{k: v for k, v in trial.counts.items() if k != "fp"} for trial in record.trials]
    trials = zip(record.trials, counts, strict=True)
    return replace(record, trials=tuple(replace(trial, counts=c) for trial, c in trials))


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (lambda record: worse(record, 0.005), ""),  # below one pixel per image
        (lambda record: worse(record, 0.5), r"'(tp|fn)' differs by [\d.]+ of [\d.]+ \("),
        (_without_fp, "names of counts differ"),
    ],
)
def test_a_run_that_exists_is_accepted_within_the_tolerance_of_counts_only(
    home, record, tmp_path, change, refused
):
    merge(home / "results", Store(tmp_path / "new"))
    merged = merge(_bundle_of(change(record), tmp_path), Store(tmp_path / "new"))
    if refused:
        assert re.search(f"other counts exists: .*{refused}", merged.refused[record.run_id])
    else:
        assert merged.existing == (record.run_id,)
    assert _contents(tmp_path / "new") == _contents(home / "results")


def _sets(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(changes)


def _in_trial(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["trials"][0].update(changes)


def _count(value: object) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["trials"][0]["counts"]["tp"].__setitem__(0, value)


def _renamed_image(body: dict[str, Any]) -> None:
    image = body["trials"][0]["images"][0]
    body["trials"][0]["images"][0] = "../../up"
    body["patients"]["../../up"] = body["patients"].pop(image)


INVALID: dict[str, Callable[[dict[str, Any]], None]] = {
    "another id": lambda body: body["spec"].update(repeat=7),
    "no trials": _sets(trials=[]),
    "no patients": _sets(patients={}),
    "a newer schema": _sets(schema=99),
    "invalid trials": _sets(trials=[1]),
    "invalid facts": _sets(facts=[]),
    "an extra patient": lambda body: body["patients"].update(nobody="p"),
    "a NaN": _count(float("nan")),
    "a number as text": _count("5"),
    "a number of 400 digits": _count(10**400),
    "a negative count": _count(-1),
    "a loss as text": _in_trial(loss="0.5"),
    "a missing count": lambda body: body["trials"][0]["counts"]["tp"].pop(),
    "a missing image": lambda body: body["trials"][0]["images"].pop(),
    "a duplicate image": lambda body: body["trials"].append(body["trials"][0]),
    "a tag that is a path": _in_trial(tags={"../up": 1}),
    "an image that is a path": _renamed_image,
    "a terminal escape": lambda body: body["facts"].update(channels=[["x\x1b[2J"]]),
    "a missing fact": lambda body: body["facts"].pop("head_parameters"),
}


@pytest.mark.fault(24)
@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_record_with_a_valid_hash_is_refused(record, tmp_path, case):
    body = json.loads(to_bytes(record))
    INVALID[case](body)
    merged = merge(_bundle_of(record, tmp_path, _hashed(body)), Store(tmp_path / "new"))
    assert (merged.added, list(merged.refused)) == ((), [record.run_id])
    assert not (tmp_path / "new" / "runs").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.pop("view"),
        lambda spec: spec.update(head=1),
        lambda spec: spec["protocol"].update(folds="none"),
    ],
)
def test_an_identity_that_displays_cannot_show_is_refused(record, tmp_path, change):
    body = json.loads(to_bytes(record))
    change(body["spec"])
    merged = merge(_bundle_of(record, tmp_path, _hashed(body)), Store(tmp_path / "new"))
    assert "cannot be used" in merged.refused[record.run_id]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"{" * 100_000, b"\xff\xfe"])
def test_invalid_json_is_refused(record, tmp_path, content):
    merged = merge(_bundle_of(record, tmp_path, content), Store(tmp_path / "new"))
    assert list(merged.refused) == [record.run_id]


@pytest.mark.parametrize("context", [b"[]", b"{", b'{"seconds": 3}', b'{"finished": "\\u001b[2J"}'])
def test_an_invalid_context_is_refused(record, tmp_path, context):
    name = _name(record).replace("record.json", "context.json")
    source = _zip(tmp_path / "b.zip", {_name(record): to_bytes(record), name: context})
    reason = merge(source, Store(tmp_path / "new")).refused[record.run_id]
    assert "text" in reason or "context" in reason


# ---- malicious archives ----------------------------------------------------------------------

SOME_ID = "ab" + "0" * 14
BAD_NAMES = [
    "../evil.json",
    "/tmp/evil.json",
    f"runs/ab/{SOME_ID}/../record.json",
    f"runs\\ab\\{SOME_ID}\\record.json",
    f"C:/runs/ab/{SOME_ID}/record.json",
    f"runs/ab/{SOME_ID}/record.json\0.png",
    f"runs/cd/{SOME_ID}/record.json",
    f"runs/ab/{SOME_ID}/masks/i.png",
]


@pytest.mark.fault(21)
@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_an_archive_with_an_unexpected_file_is_refused(record, tmp_path, name):
    source = _bundle_of(record, tmp_path)
    raw = zipfile.ZipInfo("x")
    raw.filename = name
    with zipfile.ZipFile(source, "a") as file:
        file.writestr(raw, b"{}")
    with pytest.raises(BenchError, match="nothing was written: unexpected file"):
        merge(source, Store(tmp_path / "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["made.zip"]


@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO])
def test_a_link_or_a_device_in_an_archive_is_refused(tmp_path, kind):
    entry = zipfile.ZipInfo(f"runs/ab/{SOME_ID}/record.json")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr(entry, "/etc/passwd")
    with pytest.raises(BenchError, match="link or a device"):
        merge(tmp_path / "b.zip", Store(tmp_path / "new"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.fault(21)
def test_an_archive_with_a_duplicate_name_is_refused(record, tmp_path):
    source = _bundle_of(record, tmp_path)
    with zipfile.ZipFile(source, "a") as file:
        file.writestr(_name(record), b"{}")
    with pytest.raises(BenchError, match="duplicate name"):
        merge(source, Store(tmp_path / "new"))


@pytest.mark.fault(21)
def test_a_zip_bomb_is_refused_without_reading_it(record, tmp_path, monkeypatch):
    source = _bundle_of(record, tmp_path, b" " * 100_000)
    monkeypatch.setattr(files, "MAX_ZIP_BYTES", 99_999)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(BenchError, match="unpacks to 100000 bytes, the limit is 99999"):
        merge(source, Store(tmp_path / "new"))


def test_a_source_that_is_not_a_bundle_is_refused(tmp_path):
    (tmp_path / "text").write_text("no zip")
    _zip(tmp_path / "none.zip", {MANIFEST: b"{}"})
    for name in ("nowhere", "text", "none.zip"):
        with pytest.raises(BenchError, match=name):
            merge(tmp_path / name, Store(tmp_path / "new"))
    (tmp_path / "empty").mkdir()
    merged = merge(tmp_path / "empty", Store(tmp_path / "new"))
    assert (merged.added, merged.existing, merged.refused) == ((), (), {})


# ---- comparison groups of merged runs --------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"metrics_version": 2},
        {"dataset": {"sha256": "e" * 64}, "scored": {"sha256": "e" * 64}},
        {"protocol": {"name": "fewshot"}},
        {},
    ],
    ids=str,
)
def test_merged_runs_share_a_group_only_if_they_are_comparable(record, tmp_path, change):
    commit(record, tmp_path)
    other = altered(named(record, "theirs"), **change)
    merge(_bundle_of(other, tmp_path), Store(tmp_path / "results"))
    records = _records(tmp_path / "results")
    blocks = get("leaderboards", "ranking").rows(records, BoardOptions(resamples=200))
    assert sorted(row.backbone for block in blocks for row in block.rows) == ["rgb", "theirs"]
    assert len(blocks) == (2 if change else 1)
    if change:
        with pytest.raises(BenchError, match="may not be compared"):
            choose(records, ("rgb", "theirs"), BoardOptions())
