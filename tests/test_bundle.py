"""Packing, checking and merging bundles; altered bundles are refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashes import Changes, Killed, watched
from small_runs import FEWSHOT, altered, commit, named, request, run, squares, worse

from bench.api.board import BoardOptions
from bench.api.record import Record, canonical, to_bytes
from bench.board.compare import choose
from bench.errors import BenchError
from bench.registry import get
from bench.store import bundle
from bench.store import bundle as merges
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
    return next(each for each in _records(home / "results") if each.draws == [()])


def _records(results: Path) -> list[Record]:
    entries = list(Store(results).records())
    assert all(isinstance(each, Record) for each in entries)
    return [each for each in entries if isinstance(each, Record)]


def _bytes(results: Path) -> dict[str, bytes]:
    """Return the content of every file of a store except masks."""
    return {
        path.relative_to(results).as_posix(): path.read_bytes()
        for path in sorted(results.rglob("*"))
        if path.is_file() and "masks" not in path.parts
    }


def _ids(results: Path) -> list[str]:
    return sorted(each.run_id for each in _records(results))


@pytest.fixture(params=["b.zip", "b"])
def packed(request, home, tmp_path) -> Path:
    """The two runs as a bundle: a zip file and a folder."""
    pack(Store(home / "results"), _ids(home / "results"), tmp_path / request.param)
    return tmp_path / request.param


def test_a_merged_bundle_equals_the_packed_runs(packed, home, tmp_path):
    found = merge(packed, Store(tmp_path / "new"))
    assert sorted(found.taken) == _ids(home / "results")
    assert (found.there, found.refused) == ((), {})
    assert _bytes(tmp_path / "new") == _bytes(home / "results")


def test_merging_twice_changes_nothing(packed, tmp_path):
    merge(packed, Store(tmp_path / "new"))
    before = _bytes(tmp_path / "new")
    again = merge(packed, Store(tmp_path / "new"))
    assert again.taken == ()
    assert len(again.there) == 2
    assert _bytes(tmp_path / "new") == before


def test_runs_merged_by_another_process_count_as_existing(packed, home, tmp_path, monkeypatch):
    def meanwhile(self: Store) -> None:
        monkeypatch.setattr(Store, "refuse_if_read_only", lambda self: None)
        monkeypatch.setattr(merges, "_exists", lambda *_: False)
        merge(packed, self)

    monkeypatch.setattr(Store, "refuse_if_read_only", meanwhile)
    found = merge(packed, Store(tmp_path / "new"))
    assert (found.taken, sorted(found.there)) == ((), _ids(home / "results"))


def test_bundles_of_the_same_runs_are_identical(home, tmp_path):
    ids = _ids(home / "results")
    pack(Store(home / "results"), ids, tmp_path / "a.zip")
    pack(Store(home / "results"), ids[::-1] + ids, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_an_existing_bundle_is_not_replaced(packed, home):
    before = packed.stat().st_mtime_ns
    with pytest.raises(BenchError, match="exists"):
        pack(Store(home / "results"), _ids(home / "results"), packed)
    assert packed.stat().st_mtime_ns == before


def test_a_results_folder_is_merged_without_masks(home, tmp_path):
    found = merge(home / "results", Store(tmp_path / "new"))
    assert len(found.taken) == 2
    assert list((home / "results").rglob("*.png"))
    assert not list((tmp_path / "new").rglob("*.png"))


@pytest.mark.fault(1)
@pytest.mark.parametrize("number", range(1, 30, 4))
def test_an_interrupted_pack_leaves_no_folder(home, tmp_path, number):
    ids = _ids(home / "results")
    with watched(Changes(tmp_path, number)), contextlib.suppress(Killed):
        pack(Store(home / "results"), ids, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    pack(Store(home / "results"), ids, tmp_path / "b")
    assert len(merge(tmp_path / "b", Store(tmp_path / "new")).taken) == 2


def test_a_single_run_can_be_packed(home, record, tmp_path):
    pack(Store(home / "results"), [record.run_id], tmp_path / "one.zip")
    assert merge(tmp_path / "one.zip", Store(tmp_path / "new")).taken == (record.run_id,)


# ---- damage and alteration -------------------------------------------------------------------


def _bundle_of(record: Record, folder: Path, content: bytes | None = None) -> Path:
    """Create a zip bundle of a record, or of `content`, with a matching manifest."""
    content = to_bytes(record) if content is None else content
    name = f"runs/{record.run_id[:2]}/{record.run_id}/record.json"
    manifest = {
        "format": bundle.FORMAT,
        "version": bundle.VERSION,
        "files": {name: {"sha256": hashlib.sha256(content).hexdigest()}},
    }
    return _zip(folder / "made.zip", {name: content, MANIFEST: json.dumps(manifest).encode()})


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def _hashed(body: dict[str, Any]) -> bytes:
    """Serialise a forged record with matching hashes."""
    body = {name: value for name, value in body.items() if name != "sha256"}
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    return canonical(body) + b"\n"


def _body(record: Record) -> dict[str, Any]:
    return json.loads(to_bytes(record))


def test_an_altered_run_is_refused_and_the_other_is_merged(packed, home, record, tmp_path):
    name = f"runs/{record.run_id[:2]}/{record.run_id}/record.json"
    content = (home / "results" / name).read_bytes()
    tp = str(record.trials[0].counts["tp"][0]).removesuffix(".0").encode()
    changed = content.replace(b'"tp":[' + tp, b'"tp":[9' + tp)
    assert changed != content
    if packed.suffix == ".zip":
        with zipfile.ZipFile(packed) as file:
            files = {each: file.read(each) for each in file.namelist()}
        _zip(packed, {**files, name: changed})
    else:
        (packed / name).write_bytes(changed)
    found = merge(packed, Store(tmp_path / "new"))
    assert list(found.refused) == [record.run_id]
    assert "manifest" in found.refused[record.run_id]
    assert _ids(tmp_path / "new") == [
        each for each in _ids(home / "results") if each != record.run_id
    ]


def test_an_altered_record_without_a_manifest_is_refused(home, record, tmp_path):
    folder = tmp_path / "plain"
    path = folder / f"runs/{record.run_id[:2]}/{record.run_id}/record.json"
    path.parent.mkdir(parents=True)
    body = _body(record)
    body["facts"]["license"] = "another"
    path.write_bytes(canonical(body) + b"\n")
    found = merge(folder, Store(tmp_path / "new"))
    assert "own hash" in found.refused[record.run_id]
    assert not (tmp_path / "new" / "runs").exists()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.fault(6)
def test_no_altered_run_is_merged_after_a_bit_flip(home, tmp_path, seed):
    pack(Store(home / "results"), _ids(home / "results"), tmp_path / "b.zip")
    content = bytearray((tmp_path / "b.zip").read_bytes())
    place = random.Random(seed).randrange(len(content))
    content[place] ^= 1 << random.Random(seed + 99).randrange(8)
    (tmp_path / "b.zip").write_bytes(content)
    with contextlib.suppress(BenchError):
        merge(tmp_path / "b.zip", Store(tmp_path / "new"))
    packed, merged = _bytes(home / "results"), _bytes(tmp_path / "new")
    assert merged.items() <= packed.items()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(home, tmp_path, share):
    pack(Store(home / "results"), _ids(home / "results"), tmp_path / "b.zip")
    content = (tmp_path / "b.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(content[: int(share * len(content))])
    with pytest.raises(BenchError, match=r"b\.zip"):
        merge(tmp_path / "b.zip", Store(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_missing_file_of_the_manifest_is_reported(packed, record, tmp_path):
    if packed.suffix == ".zip":
        with zipfile.ZipFile(packed) as file:
            files = {n: file.read(n) for n in file.namelist() if record.run_id not in n}
        _zip(packed, files)
    else:
        for path in (packed / "runs" / record.run_id[:2] / record.run_id).iterdir():
            path.unlink()
    found = merge(packed, Store(tmp_path / "new"))
    assert "missing" in found.refused[record.run_id]
    assert len(found.taken) == 1


def test_a_run_missing_from_the_manifest_is_refused(packed, record, tmp_path):
    unlisted = worse(named(record, "unlisted"), 0.5)
    name = f"runs/{unlisted.run_id[:2]}/{unlisted.run_id}/record.json"
    if packed.suffix == ".zip":
        with zipfile.ZipFile(packed, "a") as file:
            file.writestr(name, to_bytes(unlisted))
    else:
        (packed / name).parent.mkdir(parents=True)
        (packed / name).write_bytes(to_bytes(unlisted))
    found = merge(packed, Store(tmp_path / "new"))
    assert "not in the manifest" in found.refused[unlisted.run_id]
    assert len(found.taken) == 2


def test_a_run_that_conflicts_with_an_existing_one_is_refused(home, record, tmp_path):
    merge(home / "results", Store(tmp_path / "new"))
    before = _bytes(tmp_path / "new")
    found = merge(_bundle_of(worse(record, 0.5), tmp_path), Store(tmp_path / "new"))
    assert "other counts" in found.refused[record.run_id]
    assert _bytes(tmp_path / "new") == before


def _sets(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(changes)


def _in_trial(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["trials"][0].update(changes)


def _count(value: object) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        body["trials"][0]["counts"]["tp"][0] = value

    return change


def _deep(body: dict[str, Any]) -> None:
    body["facts"]["channels"] = [["x\x1b[2J"]]


def _renamed_image(body: dict[str, Any]) -> None:
    image = body["trials"][0]["images"][0]
    body["trials"][0]["images"][0] = "../../up"
    body["patients"]["../../up"] = body["patients"].pop(image)


INVALID: dict[str, Callable[[dict[str, Any]], None]] = {
    "another id": _sets(run_id="0" * 16),
    "an extra field": _sets(extra=1),
    "no trials": _sets(trials=[]),
    "no patients": _sets(patients={}),
    "a newer schema": _sets(schema=99),
    "invalid trials": _sets(trials=[1]),
    "invalid flags": _sets(flags=[{"a": 1}]),
    "invalid facts": _sets(facts=[]),
    "an extra patient": lambda body: body["patients"].update(nobody="p"),
    "a NaN": _count(float("nan")),
    "an infinite number": _count(float("inf")),
    "a number as text": _count("5"),
    "a number of 400 digits": _count(10**400),
    "a huge count": _count(1e308),
    "a negative count": _count(-1),
    "a loss as text": _in_trial(loss="0.5"),
    "a list of losses": _in_trial(loss=[0.5]),
    "a loss of 400 digits": _in_trial(loss=10**400),
    "a missing count": lambda body: body["trials"][0]["counts"]["tp"].pop(),
    "a missing image": lambda body: body["trials"][0]["images"].pop(),
    "a duplicate image": lambda body: body["trials"].append(body["trials"][0]),
    "no counts of the headline metric": _in_trial(counts={}),
    "a tag that is a path": _in_trial(tags={"../up": 1}),
    "an image that is a path": _renamed_image,
    "a terminal escape": _deep,
    "very long text": lambda body: body["facts"].update(license="x" * 5000),
    "a missing fact": lambda body: body["facts"].pop("head_parameters"),
}


@pytest.mark.parametrize("case", INVALID)
@pytest.mark.fault(24)
def test_an_invalid_record_with_valid_hashes_is_refused(record, tmp_path, case):
    body = _body(record)
    INVALID[case](body)
    source = _bundle_of(record, tmp_path, _hashed(body))
    found = merge(source, Store(tmp_path / "new"))
    assert found.taken == ()
    assert found.refused[record.run_id]
    assert not (tmp_path / "new" / "runs").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.pop("view"),
        lambda spec: spec.update(head=1),
        lambda spec: spec["scored"].pop("shift"),
        lambda spec: spec.update(metrics_version="1"),
        lambda spec: spec["protocol"].update(folds="none"),
    ],
)
def test_an_identity_that_displays_cannot_show_is_refused(record, tmp_path, change):
    body = json.loads(to_bytes(record))
    change(body["spec"])
    found = merge(_bundle_of(record, tmp_path, _hashed(body)), Store(tmp_path / "new"))
    assert "cannot be used" in found.refused[record.run_id]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b"{" * 100_000, b"\xff\xfe", b'{"a":']
)
def test_invalid_json_is_refused(record, tmp_path, content):
    found = merge(_bundle_of(record, tmp_path, content), Store(tmp_path / "new"))
    assert list(found.refused) == [record.run_id]


@pytest.mark.parametrize("context", [b"[]", b"{", b'{"seconds": 3}', b'{"finished": "\\u001b[2J"}'])
def test_an_invalid_context_is_refused(record, tmp_path, context):
    folder = tmp_path / "plain" / f"runs/{record.run_id[:2]}/{record.run_id}"
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(to_bytes(record))
    (folder / "context.json").write_bytes(context)
    found = merge(tmp_path / "plain", Store(tmp_path / "new"))
    assert "text" in found.refused[record.run_id] or "context" in found.refused[record.run_id]


# ---- malicious archives ----------------------------------------------------------------------

SOME_ID = "ab" + "0" * 14
BAD_NAMES = [
    "../evil.json",
    "/tmp/evil.json",
    "runs/../../evil.json",
    f"runs/ab/{SOME_ID}/../record.json",
    f"runs\\ab\\{SOME_ID}\\record.json",
    f"C:/runs/ab/{SOME_ID}/record.json",
    f"runs/ab/{SOME_ID}/record.json\0.png",
    f"runs/cd/{SOME_ID}/record.json",
    f"runs/ab/{SOME_ID}/masks/i.png",
    f"./runs/ab/{SOME_ID}/record.json",
    "notes.txt",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
@pytest.mark.fault(21)
def test_an_archive_with_an_unexpected_file_is_refused(home, record, tmp_path, name):
    source = _bundle_of(record, tmp_path)
    raw = zipfile.ZipInfo("x")
    raw.filename = name
    with zipfile.ZipFile(source, "a") as file:
        file.writestr(raw, b"{}")
    with pytest.raises(BenchError, match="nothing was merged"):
        merge(source, Store(tmp_path / "new"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
@pytest.mark.fault(21)
def test_a_link_or_a_device_in_an_archive_is_refused(tmp_path, kind):
    entry = zipfile.ZipInfo(f"runs/ab/{SOME_ID}/record.json")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr(entry, "/etc/passwd")
        file.writestr(MANIFEST, "{}")
    with pytest.raises(BenchError, match="link or a device"):
        merge(tmp_path / "b.zip", Store(tmp_path / "new"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.fault(21)
def test_an_archive_with_a_duplicate_name_is_refused(record, tmp_path):
    source = _bundle_of(record, tmp_path)
    with zipfile.ZipFile(source, "a") as file:
        file.writestr(f"runs/{record.run_id[:2]}/{record.run_id}/record.json", b"{}")
    with pytest.raises(BenchError, match="duplicate name"):
        merge(source, Store(tmp_path / "new"))


@pytest.mark.fault(21)
def test_a_zip_bomb_is_refused_without_reading_it(record, tmp_path, monkeypatch):
    source = _bundle_of(record, tmp_path, b" " * (bundle.MAX_BYTES["record"] + 1))
    assert source.stat().st_size < 100_000
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(BenchError, match="The limits are"):
        merge(source, Store(tmp_path / "new"))


@pytest.mark.fault(21)
def test_archives_over_the_total_size_or_file_limit_are_refused(home, tmp_path, monkeypatch):
    pack(Store(home / "results"), _ids(home / "results"), tmp_path / "b.zip")
    monkeypatch.setattr(bundle, "MAX_ALL_BYTES", 2000)
    with pytest.raises(BenchError, match="2000 in total"):
        merge(tmp_path / "b.zip", Store(tmp_path / "new"))
    monkeypatch.setattr(bundle, "MAX_FILES", 3)
    with pytest.raises(BenchError, match="the limit is 3"):
        merge(tmp_path / "b.zip", Store(tmp_path / "new"))


@pytest.mark.parametrize("where", ["record.json", ".", ".."])
@pytest.mark.fault(21)
def test_a_link_in_a_folder_is_refused(home, record, tmp_path, where):
    real = home / "results" / "runs" / record.run_id[:2] / record.run_id
    at = tmp_path / "linked" / "runs" / record.run_id[:2] / record.run_id
    link, target = {
        "record.json": (at / "record.json", real / "record.json"),
        ".": (at, real),
        "..": (at.parent, real.parent),
    }[where]
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    with pytest.raises(BenchError, match="is a link"):
        merge(tmp_path / "linked", Store(tmp_path / "new"))


@pytest.mark.parametrize(
    "manifest",
    [
        {"format": "cmd-bench results", "version": 2, "files": {}},
        {"format": "another", "version": 1, "files": {}},
        {"format": "cmd-bench results", "version": 1, "files": {"../up": {"sha256": "0"}}},
        {"format": "cmd-bench results", "version": 1, "files": [1]},
        [],
        None,
    ],
    ids=str,
)
def test_an_invalid_manifest_is_refused(tmp_path, manifest):
    _zip(tmp_path / "b.zip", {MANIFEST: json.dumps(manifest).encode()})
    with pytest.raises(BenchError):
        merge(tmp_path / "b.zip", Store(tmp_path / "new"))


def test_a_zip_file_without_a_manifest_is_refused(record, tmp_path):
    name = f"runs/{record.run_id[:2]}/{record.run_id}/record.json"
    _zip(tmp_path / "b.zip", {name: to_bytes(record)})
    with pytest.raises(BenchError, match=MANIFEST):
        merge(tmp_path / "b.zip", Store(tmp_path / "new"))


@pytest.mark.parametrize("name", ["nowhere", "text"])
def test_a_source_that_is_not_a_bundle_raises(tmp_path, name):
    (tmp_path / "text").write_text("no zip")
    with pytest.raises(BenchError, match=name):
        merge(tmp_path / name, Store(tmp_path / "new"))


def test_merging_an_empty_folder_does_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    found = merge(tmp_path / "empty", Store(tmp_path / "new"))
    assert (found.taken, found.there, found.refused) == ((), (), {})


# ---- comparison groups of merged runs --------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"metrics_version": 2},
        {"dataset": {"sha256": "e" * 64}, "scored": {"sha256": "e" * 64}},
        {"protocol": {"name": "fewshot"}},
    ],
    ids=str,
)
def test_merged_runs_that_are_not_comparable_get_another_group(record, tmp_path, change):
    commit(record, tmp_path)
    other = altered(named(record, "theirs"), **change)
    merge(_bundle_of(other, tmp_path), Store(tmp_path / "results"))
    records = _records(tmp_path / "results")
    blocks = get("leaderboards", "ranking").rows(records, BoardOptions(resamples=200))
    assert sorted(row.backbone for block in blocks for row in block.rows) == ["rgb", "theirs"]
    assert len(blocks) == 2
    with pytest.raises(BenchError, match="may not be compared"):
        choose(records, ("rgb", "theirs"), BoardOptions())


def test_comparable_merged_runs_share_a_group(record, tmp_path):
    commit(record, tmp_path)
    merge(_bundle_of(worse(named(record, "theirs"), 0.5), tmp_path), Store(tmp_path / "results"))
    records = _records(tmp_path / "results")
    (block,) = get("leaderboards", "ranking").rows(records, BoardOptions(resamples=200))
    assert len(block.rows) == 2


@pytest.mark.fault(21)
def test_a_zip_file_is_read_without_writing_files(home, tmp_path, monkeypatch):
    pack(Store(home / "results"), _ids(home / "results"), tmp_path / "b.zip")
    monkeypatch.setattr(zipfile.ZipFile, "extract", lambda *_: pytest.fail("it was unpacked"))
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *_: pytest.fail("it was unpacked"))
    assert len(bundle.unpack(tmp_path / "b.zip")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]
