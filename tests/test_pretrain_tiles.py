"""Tiles are listed, read and cropped; the same seed gives the same batches."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import squares

from bench.errors import BenchError
from bench.pretrain.batches import Batches, centre, cut, refusals_allowed, rng_of
from bench.pretrain.tiles import Tile, find_tiles, fingerprint, sources, survey


def _png(side: int, value: int = 100, height: int | None = None) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, height or side), (value, value // 2, 50)).save(file, "PNG")
    return file.getvalue()


def _write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def _shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as bundle:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            bundle.addfile(entry, io.BytesIO(content))
    return path


def _values(tiles: list[Tile]) -> list[int]:
    return [int(tile.read()[0, 0, 0]) for tile in tiles]


# ---- listing ---------------------------------------------------------------------------------


def test_images_are_listed_at_any_depth_and_sorted_by_name(tmp_path: Path) -> None:
    files = {"b/2.png": _png(32, 2), "a/x/1.PNG": _png(32, 1), "c.png": _png(32, 3)}
    hidden = {"notes.txt": b"", ".hidden/4.png": _png(32), "b/._2.png": b""}
    tiles = find_tiles(_write(tmp_path, files | hidden)).tiles
    assert [tile.name for tile in tiles] == ["a/x/1.PNG", "b/2.png", "c.png"]
    assert _values(tiles) == [1, 2, 3]
    assert sources(tiles) == {".": 1, "a": 1, "b": 1}


def test_images_of_shards_are_read_without_unpacking(tmp_path: Path) -> None:
    members = {f"{n:03}.png": _png(32, n) for n in range(5)} | {"000.json": b"{}"}
    _shard(tmp_path / "shards" / "part-0.tar", members)
    before = sorted(tmp_path.rglob("*"))
    tiles = find_tiles(tmp_path).tiles
    assert [tile.name for tile in tiles] == [f"shards/part-0.tar/{n:03}.png" for n in range(5)]
    assert _values(tiles) == [0, 1, 2, 3, 4]
    assert sorted(tmp_path.rglob("*")) == before
    assert _values(find_tiles(tmp_path / "shards" / "part-0.tar").tiles) == [0, 1, 2, 3, 4]


def test_links_and_devices_in_a_shard_are_ignored(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as bundle:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("device.png", tarfile.CHRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            bundle.addfile(entry)
    with pytest.raises(BenchError, match="contains no images"):
        find_tiles(tmp_path)


def test_linked_folders_are_read_once_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    root = _write(tmp_path / "tiles", {"a/1.png": _png(32, 1), "a/._1.png": b"", "z/.x/2.png": b""})
    _write(tmp_path / "big", {"deep/3.png": _png(32, 3), "__MACOSX/._3.png": b"", ".DS_Store": b""})
    links = {
        "b": "../big",  # followed
        "a/again": "../../big",  # the same folder
        "a/loop": "..",
        "up": "../..",  # above the top folder
        "self": "self",
        "gone.png": "nowhere.png",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "big" / "deep" / "loop").symlink_to(tmp_path / "big")
    listing = find_tiles(root)
    assert [tile.name for tile in listing.tiles] == ["a/1.png", "b/deep/3.png"]
    assert listing.notes == [
        f"2 images in {root}",
        "left out: 2 broken links, 4 duplicate folder links, 2 hidden files, 2 hidden folders",
    ]


def test_a_folder_that_is_also_linked_has_its_real_name(tmp_path: Path) -> None:
    root = _write(tmp_path, {"z/1.png": _png(32)})
    (root / "a").symlink_to("z")
    assert [tile.name for tile in find_tiles(root).tiles] == ["z/1.png"]


def test_links_that_git_stored_as_text_are_reported(tmp_path: Path) -> None:
    root = _write(tmp_path / "tiles", {"1.png": _png(32), "b": b"../big", "LICENSE": b"MIT"})
    (tmp_path / "big").mkdir()
    assert find_tiles(root).notes[1] == "left out: 1 other file, 1 unresolved folder link"


def test_hidden_members_of_a_shard_are_left_out(tmp_path: Path) -> None:
    members = {"./._1.png": b"", "./1.png": _png(32, 1), "__MACOSX/2.png": b"", "a/.b/3.png": b""}
    listing = find_tiles(_shard(tmp_path / "x.tar", members))
    assert _values(listing.tiles) == [1]
    assert listing.notes[1] == "left out: 3 hidden files"
    (tmp_path / "x.tar").unlink()
    _shard(tmp_path / "y.tar", {"._1.png": b""})
    with pytest.raises(BenchError, match="left out: 1 hidden file"):
        find_tiles(tmp_path)


def test_only_selects_folders_by_name(tmp_path: Path) -> None:
    files = {f"{folder}/1.png": _png(32) for folder in ("open", "closed", "more/open")}
    root = _write(tmp_path, files)
    assert [tile.name for tile in find_tiles(root, ["open"]).tiles] == [
        "more/open/1.png",
        "open/1.png",
    ]
    with pytest.raises(
        BenchError, match=r"--only shut: no folder .* There are: closed, more, open"
    ):
        find_tiles(root, ["open", "shut"])


def test_only_the_images_of_a_labelled_data_set_are_used(tmp_path: Path) -> None:
    squares(tmp_path / "sets" / "mine", count=4)
    _write(tmp_path / "sets", {"mine/thumbs/x.png": _png(32), "plain/y.png": _png(32)})
    names = [f"mine/images/i_{n:02}.png" for n in range(4)]
    tiles = find_tiles(tmp_path / "sets").tiles
    assert [tile.name for tile in tiles] == [*names, "plain/y.png"]
    assert [tile.name for tile in find_tiles(tmp_path / "sets" / "mine").tiles] == [
        n[5:] for n in names
    ]
    note = find_tiles(tmp_path / "sets").notes[-1]
    assert note.startswith(
        f"{tmp_path / 'sets' / 'mine'} is a labelled data set: only the 4 images"
    )
    assert all(tile.read().shape == (32, 40, 3) for tile in tiles[:4])


def test_a_manifest_without_labels_is_ignored(tmp_path: Path) -> None:
    files = {"a.png": _png(32), "labels/a.png": _png(32), "manifest.csv": b"path,source\na.png,x\n"}
    assert len(find_tiles(_write(tmp_path, files)).tiles) == 2
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe")
    assert len(find_tiles(tmp_path).tiles) == 2


def test_a_labelled_data_set_with_a_missing_image_raises(tmp_path: Path) -> None:
    root = squares(tmp_path / "mine", count=4)
    (root / "images" / "i_02.png").unlink()
    with pytest.raises(BenchError, match=r"i_02\.png' does not exist.*bench datasets check"):
        find_tiles(root)


def test_the_fingerprint_depends_on_names_and_sizes(tmp_path: Path) -> None:
    root = _write(tmp_path, {"a.png": _png(32), "b.png": _png(40)})
    before = fingerprint(find_tiles(root).tiles)
    (root / "a.png").touch()
    assert fingerprint(find_tiles(root).tiles) == before
    (root / "c.png").write_bytes(_png(32))
    assert fingerprint(find_tiles(root).tiles) != before


def test_a_folder_without_readable_images_raises(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "whole" / "a.tar", {f"{n}.png": _png(64) for n in range(4)})
    for name, content, message in (
        ("a.txt", b"", "contains no images"),
        ("a.tar.gz", b"", "Decompress it"),
        ("part.tar", shard.read_bytes()[:1800], r"part\.tar is not a valid tar file"),
    ):
        with pytest.raises(BenchError, match=message):
            find_tiles(_write(tmp_path / name.replace(".", "-"), {name: content}))
    with pytest.raises(BenchError, match="there is no folder"):
        find_tiles(tmp_path / "nowhere")


# ---- survey ----------------------------------------------------------------------------------


def test_the_survey_reports_small_images(tmp_path: Path) -> None:
    root = _write(tmp_path, {"a.png": _png(40), "b.png": _png(64), "c.png": _png(96)})
    small, exact = survey(find_tiles(root).tiles, crop_px=64)
    assert small.startswith("of 3 images examined, 1 have a side under 64 px (the smallest 40")
    assert "enlarged" in small
    assert "1 have a shorter side of exactly 64 px" in exact
    assert survey(find_tiles(root).tiles, crop_px=32) == []
    tiny = _write(tmp_path / "tiny", {"a.png": _png(31, height=90), "b.png": _png(8)})
    with pytest.raises(BenchError, match=r"none of 2 images.* a\.png is 31 x 90 px; both sides"):
        survey(find_tiles(tiny).tiles, crop_px=64)


# ---- cropping --------------------------------------------------------------------------------


def test_one_sample_in_five_is_the_whole_image() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :, 0] = np.arange(64)[:, None]  # a crop spans 32 rows, the whole image about 64
    image[:, :, 1] = np.arange(64)
    spans = [np.ptp(cut(image, 32, rng_of(0, n))[..., 0].astype(int)) for n in range(2000)]
    whole = np.mean(np.array(spans) > 32)
    assert whole == pytest.approx(0.2, abs=0.03)
    assert set(np.array(spans)[np.array(spans) <= 32]) == {31}


def test_crops_cover_every_position() -> None:
    image = np.zeros((40, 36, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(40)[:, None], np.arange(36)
    cuts = [cut(image, 32, rng_of(1, n)) for n in range(500)]
    crops = [crop for crop in cuts if np.ptp(crop[..., 0].astype(int)) == 31]
    assert {int(crop[0, 0, 0]) for crop in crops} >= set(range(9))
    assert {int(crop[0, 0, 1]) for crop in crops} == set(range(5))


def test_every_crop_has_the_requested_side() -> None:
    for size in ((32, 32), (33, 90), (90, 33), (200, 64)):
        image = np.full((*size, 3), 7, np.uint8)
        for number in range(20):
            assert cut(image, 64, rng_of(number)).shape == (64, 64, 3)
        assert centre(image, 64).shape == (64, 64, 3)


# ---- batches ---------------------------------------------------------------------------------


@pytest.fixture
def tiles(tmp_path: Path) -> list[Tile]:
    return find_tiles(_write(tmp_path, {f"{n:02}.png": _png(40, n) for n in range(10)})).tiles


def _sampled(tiles: list[Tile], batch_size: int, batches: int) -> list[int]:
    feed = Batches(tiles, batch_size, 32, seed=3)
    images = [image for step in range(batches) for image in feed[step].images]
    return [int(image[0].float().mean()) for image in images]


def test_every_epoch_has_every_tile_once_in_another_order(tiles: list[Tile]) -> None:
    samples = _sampled(tiles, 4, 5)
    epochs = [samples[:10], samples[10:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]


def test_samples_depend_on_the_seed_and_their_position_only(tiles: list[Tile]) -> None:
    assert _sampled(tiles, 4, 5) == _sampled(tiles, 2, 10) == _sampled(tiles, 20, 1)
    late = Batches(tiles, 4, 32, seed=3)[3]
    feed = Batches(tiles, 4, 32, seed=3)
    sequential = [feed[step] for step in range(4)][3]
    assert late.images.equal(sequential.images)
    assert not Batches(tiles, 10, 32, 0)[0].images.equal(Batches(tiles, 10, 32, 1)[0].images)


# ---- unusable tiles --------------------------------------------------------------------------


def test_a_corrupt_tile_is_reported_and_replaced_by_the_next(tiles: list[Tile]) -> None:
    content = Path(tiles[4].file).read_bytes()
    Path(tiles[4].file).write_bytes(content[:60])
    batch = Batches(tiles, 10, 32, seed=3)[0]
    samples = sorted(int(image[0].float().mean()) for image in batch.images)
    assert samples == [0, 1, 2, 3, 5, 5, 6, 7, 8, 9]
    assert [name for name, _ in batch.refused] == ["04.png"]
    assert "04.png" in batch.refused[0][1]


def test_a_batch_without_usable_tiles_reports_all_of_them(tiles: list[Tile]) -> None:
    for tile in tiles:
        Path(tile.file).write_bytes(b"")
    batch = Batches(tiles, 2, 32, seed=3)[0]
    assert len({name for name, _ in batch.refused}) == 10 > refusals_allowed(10)
    assert [refusals_allowed(n) for n in (1, 5, 500, 5000)] == [0, 4, 10, 50]
