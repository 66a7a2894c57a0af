"""Figures of a corpus and of reconstructions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import squares

from bench.errors import BenchError
from bench.figures import corpus, restored
from bench.figures.canvas import Canvas
from bench.figures.config import RestoreConfig


def _manifest(folder: Path, values: list[str], column: str = "source") -> Path:
    folder.mkdir(exist_ok=True)
    lines = [f"path,{column}", *(f"{n}.jpg,{value}" for n, value in enumerate(values))]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 500), min_size=1))
def test_slices_add_up_to_the_total(counts):
    ordered = dict(sorted(counts.items(), key=lambda item: -item[1]))
    images = corpus.Corpus("c", "source", ordered)
    slices = corpus.slices(images)
    assert sum(count for _, count in slices) == images.total
    assert len(slices) <= corpus.MOST_SLICES
    limit = corpus.SMALLEST_SHARE * images.total
    small = [name for name, count in slices if count < limit and name != corpus.OTHER]
    assert len(small) <= 1


def test_small_slices_are_summed_as_other():
    several = corpus.Corpus("c", "organ", {"a": 900, "b": 80, "c": 10, "d": 10})
    assert corpus.slices(several) == [("a", 900), ("b", 80), ("other", 20)]
    alone = corpus.Corpus("c", "organ", {"a": 990, "b": 10})
    assert corpus.slices(alone) == [("a", 990), ("b", 10)]


def test_a_corpus_is_counted_by_its_manifest_or_its_folders(tmp_path):
    folder = _manifest(tmp_path / "a", ["x", "y", "y", "?", ""])
    images = corpus.read(folder, None)
    assert (images.by, images.total) == ("source", 5)
    assert dict(images.counts) == {"unknown": 2, "y": 2, "x": 1}
    squares(tmp_path / "sets" / "one", count=4)
    squares(tmp_path / "sets" / "two", count=6)
    assert corpus.read(tmp_path / "sets" / "one", "patient").total == 4
    assert dict(corpus.read(tmp_path / "sets", None).counts) == {"two": 6, "one": 4}  # no labels
    for name in ("p/1.png", "p/2.png", "q/1.png"):
        path = tmp_path / "bare" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    assert dict(corpus.read(tmp_path / "bare", None).counts) == {"p": 2, "q": 1}


def test_a_corpus_that_cannot_be_counted_raises(tmp_path):
    folder = _manifest(tmp_path / "a", ["x"])
    for path, by, problem in (
        (folder, "organ", "--by takes one of path, source"),
        (_manifest(tmp_path / "b", []), None, "no rows"),
        (_manifest(tmp_path / "c", ["x,y"], "source,source"), None, "two columns source"),
        (tmp_path / "nowhere", None, "there is no folder"),
    ):
        with pytest.raises(BenchError, match=problem):
            corpus.read(path, by)
    (folder / "manifest.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BenchError, match="cannot be read as comma-separated"):
        corpus.read(folder, None)


@pytest.mark.parametrize("count", [1, 4])
def test_slices_are_labelled_on_the_ring_and_in_the_legend(tmp_path, drawn, count):
    images = corpus.Corpus("c", "organ", {"a": 90, "$b": 5, "c": 3, "d": 2})
    corpus.draw([images] * count, Canvas(tmp_path / "c.png", 4, 60))
    axes = drawn[0].axes
    ring = {text.get_text() for text in axes[0].texts}
    assert {"90%", "5%", "3%"} <= ring
    legends = [panel.get_legend() for panel in axes if panel.get_legend()]
    assert len(legends) == count
    for legend in legends:
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels == ["a  90 (90.0%)", "$b  5 (5.0%)", "c  3 (3.0%)", "d  2 (2.0%)"]


def test_the_command_counts_a_corpus(tmp_path, command):
    folder = str(_manifest(tmp_path / "a", ["x", "y", "y"]))
    code, out, _ = command("show", "corpus", folder, "--out", str(tmp_path / "c.pdf"), "--json")
    assert code == 0
    (facts,) = json.loads(out)["corpora"]
    assert (facts["counts"], facts["total"]) == ({"y": 2, "x": 1}, 3)


# ---- reconstructions -------------------------------------------------------------------------


def _tile(path: Path, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return path


def _restored(tmp_path: Path, **options: Any) -> list[restored.RestoredTile]:
    config = RestoreConfig(**{"crop_px": 64, "file": (_tile(tmp_path / "t.png"),)} | options)
    return restored.restore(config, restored.tiles_of(config), lambda *_: None)


def test_the_share_of_changed_pixels_is_that_of_the_time_step(tmp_path):
    (row,) = _restored(tmp_path, t=(100, 500, 900))
    assert row.clean.shape == (64, 64, 3)
    patches = 64
    expected = [t * patches // 1001 / patches for t in (100, 500, 900)]
    assert row.changed == pytest.approx(expected, abs=0.01)
    assert row.psnr[0] > row.psnr[2]


def test_the_same_seed_masks_the_same_patches(tmp_path):
    one, again, other = (_restored(tmp_path, t=(500,), seed=s)[0] for s in (0, 0, 1))
    assert (one.views[0].corrupted == again.views[0].corrupted).all()
    assert (one.views[0].corrupted != other.views[0].corrupted).any()


def test_options_of_the_training_are_read_from_the_card_beside_the_weights(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"")
    config = RestoreConfig(checkpoint=weights)
    assert restored._weights_config(config).crop_px == restored.DEFAULT_CROP_PX
    card = {"settings": {"backbone": "cmd-tiny", "crop_px": 128, "objective": "ddpm"}}
    (tmp_path / "card.json").write_text(json.dumps(card))
    trained = restored._weights_config(config)
    assert (trained.crop_px, trained.objective) == (128, "ddpm")
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(BenchError, match="not a card"):
        restored._weights_config(config)


def test_invalid_options_raise(tmp_path):
    with pytest.raises(BenchError, match="rgb cannot restore"):
        _restored(tmp_path, backbone="rgb")
    for wrong in ({"t": (0,)}, {"t": ()}, {"crop_px": 33}, {"seed": -1}):
        with pytest.raises(BenchError, match=r"--(t|crop-px|seed)"):
            _restored(tmp_path, **wrong)
    with pytest.raises(BenchError, match="one of the two"):
        restored.tiles_of(RestoreConfig())
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(BenchError, match=r"broken\.png"):
        restored.tiles_of(RestoreConfig(file=(tmp_path / "broken.png",)))


def test_the_command_draws_tiles_of_a_folder(tmp_path, command):
    (tmp_path / "tiles").mkdir()
    for number in range(4):
        _tile(tmp_path / "tiles" / f"{number}.png", number)
    words = ["show", "pretraining", "--data", str(tmp_path / "tiles"), "--images", "2", "--crop-px"]
    words += ["32", "--t", "500", "--dpi", "60", "--json", "--out", str(tmp_path / "a.png")]
    _, out, _ = command(*words)
    assert [tile["tile"] for tile in json.loads(out)["tiles"]] == ["0", "3"]
    assert (tmp_path / "a.png").is_file()
