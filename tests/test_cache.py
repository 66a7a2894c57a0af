"""The cache of features: listing, checking, clearing and filling it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import request, run, squares
from torch import Tensor
from typer.testing import CliRunner

from bench.api import Sample
from bench.api.nn import FeatureExtractor
from bench.api.record import to_bytes
from bench.cli.main import app
from bench.errors import BenchError, RunFailed
from bench.features import cache
from bench.features.bank import FeatureBank
from bench.features.forward import ExtractorRunner
from bench.features.views import View
from bench.runs import head_cache
from bench.runs.execute import Paths, execute
from bench.store.cache_dir import say_read_only


def _silent(*_: object) -> None: ...


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two data sets, a run of one backbone on each, and their cache."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    for seed, name in enumerate(("one", "two")):
        run(request(squares(tmp_path / name, count=4 + 2 * seed, seed=seed)), tmp_path)
    return tmp_path


def _call(*words: str) -> tuple[int, dict]:
    result = CliRunner().invoke(app, ["cache", *words, "--json"])
    if isinstance(result.exception, BenchError):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def _files(home: Path) -> list[Path]:
    return sorted((home / "cache" / "features").glob("*/*.safetensors"))


def test_the_list_shows_backbone_data_set_view_and_size(home: Path) -> None:
    code, body = _call("list")
    assert code == 0
    assert [each["dataset"] for each in body["entries"]] == ["one", "two"]
    assert [each["cached"] for each in body["entries"]] == [4, 6]
    assert all(each["complete"] for each in body["entries"])
    assert all(each["backbone"] == "rgb" for each in body["entries"])
    assert all(each["view"] == "whole 32" for each in body["entries"])
    assert sum(each["bytes"] for each in body["entries"]) == sum(
        path.stat().st_size for path in _files(home)
    )


def test_a_run_completes_a_partial_entry(home: Path) -> None:
    before = {path: path.read_bytes() for path in _files(home)}
    gone = _files(home)[0]
    gone.unlink()
    assert sorted(each["complete"] for each in _call("list")[1]["entries"]) == [False, True]
    for name in ("one", "two"):
        run(request(home / name, epochs=1, lr=0.1), home)
    assert {path: path.read_bytes() for path in _files(home)} == before


def _exchange(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _again(home: Path, results: str) -> bytes:
    """Run on both data sets with the cache and new results; return the records."""
    places = Paths(home / results, cache=home / "cache")
    configs = [request(home / name) for name in ("one", "two")]
    return b"".join(to_bytes(execute(config, places, _silent).record) for config in configs)


@pytest.mark.fault(6, 15)
def test_swapped_maps_are_found_and_recomputed(home: Path) -> None:
    expected, before = _again(home, "results"), {path: path.read_bytes() for path in _files(home)}
    shutil.rmtree(home / "cache" / "heads")
    _exchange(*_files(home)[:2])
    assert list(_call("verify")[1]["damaged"]) == list(map(str, _files(home)[:2]))
    assert _again(home, "after") == expected
    assert {path: path.read_bytes() for path in _files(home)} == before


@pytest.mark.fault(6, 15)
@pytest.mark.parametrize("owner", ["another extractor", "none", "truncated"])
def test_damaged_maps_are_found_and_recomputed(home: Path, owner: str) -> None:
    records, path = _again(home, "results"), _files(home)[0]
    shutil.rmtree(home / "cache" / "heads")
    before = path.read_bytes()
    if owner == "truncated":
        path.write_bytes(before[:200])
    else:
        maps = {"0": safetensors.torch.load_file(path)["0"] + 1}
        metadata = {"of": f"{'0' * 16}/{path.stem}"} if owner == "another extractor" else {}
        path.write_bytes(safetensors.torch.save(maps, metadata))
    assert list(_call("verify")[1]["damaged"]) == [str(path)]
    assert _again(home, "after") == records
    assert path.read_bytes() == before


@pytest.mark.fault(6)
def test_swapped_and_truncated_heads_are_found_and_retrained(home: Path) -> None:
    records = _again(home, "results")
    heads = sorted((home / "cache" / "heads").iterdir())
    _exchange(*heads)
    assert [each.path for each in head_cache.check(home / "cache" / "heads", _silent)] == heads
    assert _again(home, "after") == records
    heads[0].write_bytes(heads[0].read_bytes()[:200])
    assert [each.path for each in head_cache.check(home / "cache" / "heads", _silent)] == heads[:1]
    assert _again(home, "again") == records
    assert not list(head_cache.check(home / "cache" / "heads", _silent))


def test_clearing_a_data_set_keeps_the_other(home: Path) -> None:
    before = _files(home)
    code, body = _call("clear", "--dataset", "one", "--yes")
    assert code == 0
    assert body["removed"] == 1
    assert len(_files(home)) == len(before) - 4
    assert [each["dataset"] for each in _call("list")[1]["entries"]] == ["two"]
    _call("clear", "--all", "--yes")
    assert _files(home) == []
    assert _call("list")[1]["entries"] == []


def test_an_image_of_two_data_sets_stays_until_both_are_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    for name, images in (("a", ["x", "y"]), ("b", ["y"])):
        cache.describe(folder, {"backbone": "f"}, name, images)
    for name in ("x", "y"):
        (folder / f"{name}.safetensors").write_bytes(b"maps")
    first = [each for each in cache.entries(tmp_path) if each.dataset == "a"]
    assert cache.clear(first) == 4
    assert [path.stem for path in folder.glob("*.safetensors")] == ["y"]
    cache.clear(cache.entries(tmp_path))
    assert not folder.exists()


def test_a_run_recomputes_maps_that_are_cleared_while_it_uses_them(tmp_path: Path) -> None:
    bank, _ = _bank(tmp_path)
    ids = sorted(bank.samples)
    bank.prepare(ids, _silent)
    before = bank.maps([(ids[0], 0)])
    shutil.rmtree(tmp_path / "maps")
    bank._maps.clear()
    assert torch.equal(bank.maps([(ids[0], 0)])[0], before[0])


@pytest.fixture
def read_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache of a user who may read it alone."""
    say_read_only.cache_clear()

    def access(path: str | Path, mode: int) -> bool:
        is_ours = Path(path).is_relative_to(home / "cache") and not mode & os.R_OK
        return real(path, mode) and (mode == os.F_OK or not is_ours)

    real = os.access
    monkeypatch.setattr(os, "access", access)
    before = {path: path.stat().st_mtime_ns for path in (home / "cache").rglob("*")}
    yield home
    assert {path: path.stat().st_mtime_ns for path in (home / "cache").rglob("*")} == before


@pytest.mark.fault(9)
def test_a_read_only_cache_is_used_with_one_warning(
    read_only: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[object] = []
    compute = FeatureBank._compute
    monkeypatch.setattr(
        FeatureBank, "_compute", lambda *args: computed.append(args) or compute(*args)
    )
    _again(read_only, "full-hit")
    assert not computed
    (body,) = caplog.messages
    assert "is not writable" in body
    assert "BENCH_CACHE" in body
    third = request(squares(read_only / "three", count=4, seed=9))
    places = Paths(read_only / "new", cache=read_only / "cache")
    record = execute(third, places, _silent).record
    assert computed
    assert record == execute(third, Paths(read_only / "without"), _silent).record


@pytest.mark.fault(9)
def test_runs_work_without_a_cache_if_it_cannot_be_created(
    read_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.features.bank.MEMORY_BYTES", 0)  # nothing is left to read again
    places = Paths(read_only / "new", cache=read_only / "cache" / "nowhere")
    record = execute(request(read_only / "one"), places, _silent).record
    assert record == execute(request(read_only / "one"), Paths(read_only / "w"), _silent).record


@pytest.mark.fault(9)
def test_a_read_only_cache_is_not_cleared(read_only: Path) -> None:
    with pytest.raises(BenchError, match="is not writable"):
        _call("clear", "--all", "--yes")


@pytest.mark.fault(9)
def test_a_user_without_a_home_folder_needs_no_cache_for_other_commands(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("BENCH_CACHE", "XDG_CACHE_HOME", "BENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    words = ["run", "--backbone", "rgb", "--dataset", str(home / "one"), "--epochs", "1"]
    words += ["--input-px", "32", "--results", str(home / "homeless")]
    code, _, err = command(*words)
    assert code == 2
    assert "BENCH_CACHE" in err
    assert command(*words, "--no-cache")[0] == 0
    assert command("leaderboard", "--results", str(home / "homeless"))[0] == 0
    assert "bug of bench" not in command("verify", "--results", str(home / "homeless"))[2]
    code, out, err = command("doctor", "--json")
    findings = {each["name"]: each for each in json.loads(out)}
    assert findings["disk for cache"]["ok"] is False
    assert "BENCH_CACHE" in findings["disk for cache"]["fix"]


def test_clearing_needs_a_selection_and_a_confirmation(home: Path) -> None:
    refused = CliRunner().invoke(app, ["cache", "clear", "--all"], input="n\n")
    assert refused.exit_code == 1
    assert len(_files(home)) == 10
    with pytest.raises(BenchError, match="--all"):
        _call("clear", "--yes")
    with pytest.raises(BenchError, match="no matching features"):
        _call("clear", "--backbone", "uni2", "--yes")


# ---- how a bank fills it -----------------------------------------------------------------------


class Doubles(FeatureExtractor):
    """Twice the colours, and a note of how many patches came at once."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    channels, strides = (3,), (1,)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.most = 1000

    def forward(self, images: Tensor) -> list[Tensor]:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("too many")
        self.seen.append(len(images))
        return [2 * images]


def _bank(tmp_path: Path, px: int = 32, kind: str = "whole") -> tuple[FeatureBank, Doubles]:
    from bench.data.folder import read

    samples: list[Sample] = read(squares(tmp_path / "s", count=6))
    extractor = Doubles()
    runner = ExtractorRunner(extractor, View(kind, px), torch.device("cpu"))
    return FeatureBank(runner, samples, tmp_path / "maps"), extractor


def test_cached_maps_are_computed_maps_rounded_once_to_bfloat16(tmp_path: Path) -> None:
    bank, _ = _bank(tmp_path)
    ids = sorted(bank.samples)
    bank.prepare(ids, _silent)
    again = FeatureBank(bank.runner, list(bank.samples.values()), bank.cache)
    for image in ids:
        pixels = bank.pixels([(image, 0)])
        expected = (2 * pixels).bfloat16().float()
        assert torch.equal(again.maps([(image, 0)])[0], expected)
    assert again.images_computed == 0


def test_an_interrupted_extraction_resumes(tmp_path: Path) -> None:
    bank, extractor = _bank(tmp_path)
    ids = sorted(bank.samples)

    def stops(stage: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bank.prepare(ids, stops)
    assert len(list((tmp_path / "maps").glob("*.safetensors"))) == 3
    again = FeatureBank(bank.runner, list(bank.samples.values()), bank.cache)
    again.prepare(ids, _silent)
    assert again.images_computed == 3
    assert len(extractor.seen) == 6


def test_batches_are_halved_after_an_out_of_memory_error(tmp_path: Path) -> None:
    whole, extractor = _bank(tmp_path, px=16, kind="tiles")
    image = min(whole.samples)
    (expected,) = whole._compute([whole._read(image)])
    assert extractor.seen == [9]
    extractor.most = 2
    (maps,) = whole._compute([whole._read(image)])
    assert all(torch.equal(*pair) for pair in zip(expected, maps, strict=True))
    assert max(extractor.seen[1:]) <= 2
    extractor.most = 0
    with pytest.raises(RunFailed):
        whole._compute([whole._read(image)])


def test_the_maps_of_an_image_do_not_depend_on_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, _ = _bank(tmp_path)
    ids = sorted(alone.samples)
    alone.prepare(ids, _silent)
    monkeypatch.setattr(FeatureBank, "_batch_size", 4)
    samples = list(alone.samples.values())
    one, several = (FeatureBank(alone.runner, samples, tmp_path / str(n) / "maps") for n in (1, 2))
    extractor = Doubles()
    several.runner = one.runner = ExtractorRunner(extractor, alone.runner.view, alone.runner.device)
    several.prepare(ids, _silent)
    assert extractor.seen == [4, 4]  # six images, and two of them again
    assert several.images_computed == 6
    one.prepare(ids[5:], _silent)
    one.prepare(ids[::-1], _silent)
    assert extractor.seen == [4] * 5
    files = [
        [path.read_bytes() for path in sorted((tmp_path / name).glob("*.safetensors"))]
        for name in ("maps", "1/maps", "2/maps")
    ]
    assert len(files[0]) == 6
    assert files[0] == files[1] == files[2]
    assert all(
        torch.equal(*pair)
        for image in ids
        for pair in zip(one.maps([(image, 0)]), alone.maps([(image, 0)]), strict=True)
    )


@pytest.mark.parametrize(
    ("device", "kind", "px", "stride", "count"),
    [
        ("cuda", "whole", 512, 16, 4),
        ("cuda", "whole", 32, 16, 16),
        ("cuda", "tiles", 512, 16, 1),
        ("cpu", "whole", 224, 16, 5),  # 196 places each
        ("cpu", "whole", 224, 14, 4),
        ("cpu", "whole", 512, 16, 1),
        ("cpu", "whole", 256, 1, 1),  # a convolutional network
        ("cpu", "whole", 32, 16, 16),
        ("cpu", "tiles", 224, 16, 1),
    ],
)
def test_the_batch_size_of_whole_images_depends_on_the_device(
    device: str, kind: str, px: int, stride: int, count: int
) -> None:
    extractor = Doubles()
    extractor.strides = (stride,)
    bank = FeatureBank.__new__(FeatureBank)
    bank.runner = ExtractorRunner(extractor, View(kind, px), torch.device(device))
    assert bank._batch_size == count


def test_the_file_of_an_image_is_readable_by_all_users(tmp_path: Path) -> None:
    bank, _ = _bank(tmp_path)
    image = min(bank.samples)
    bank.prepare([image], _silent)
    (path,) = (tmp_path / "maps").glob("*.safetensors")
    assert path.stem == bank.samples[image].fingerprint
    assert safetensors.torch.load_file(path)["0"].dtype == torch.bfloat16


def test_no_tensor_exceeds_the_index_limit_of_cudnn(tmp_path: Path) -> None:
    bank, _ = _bank(tmp_path)
    wide = Doubles()
    wide.channels = (4096,)
    runner = ExtractorRunner(wide, View("tiles", 256), torch.device("cpu"))
    at_once = FeatureBank(runner, list(bank.samples.values()), None)._max_patches
    assert at_once >= 1
    assert at_once * 4 * 4096 * 256 * 256 < 2**31
