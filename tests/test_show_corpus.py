"""Figures of a corpus and of what pretraining restores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_runs import squares

from bench.cli.main import main
from bench.errors import BenchError
from bench.figures import corpus, restored
from bench.figures.canvas import Canvas


def _manifest(folder: Path, values: list[str], column: str = "source") -> Path:
    folder.mkdir(exist_ok=True)
    lines = [f"path,{column}", *(f"{n}.jpg,{value}" for n, value in enumerate(values))]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def _bench(monkeypatch, capsys, *words: str) -> tuple[int, dict]:
    monkeypatch.setattr(sys, "argv", ["bench", *words, "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), json.loads(capsys.readouterr().out)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 500), min_size=1))
def test_slices_add_up_to_the_total_and_stay_few(counts):
    ordered = dict(sorted(counts.items(), key=lambda each: -each[1]))
    found = corpus.Corpus("c", "source", ordered)
    own = corpus.slices(found)
    assert sum(count for _, count in own) == found.total
    assert len(own) <= corpus.MOST_SLICES
    small = [n for n, c in own if c < corpus.SMALLEST_SHARE * found.total and n != corpus.OTHER]
    assert len(small) <= 1


def test_small_slices_are_folded_into_other_last():
    found = corpus.Corpus("c", "organ", {"a": 900, "b": 80, "c": 10, "d": 10})
    assert corpus.slices(found) == [("a", 900), ("b", 80), ("other", 20)]
    alone = corpus.Corpus("c", "organ", {"a": 990, "b": 10})
    assert corpus.slices(alone) == [("a", 990), ("b", 10)]


def test_a_corpus_is_counted_by_its_manifest_or_its_folders(tmp_path):
    folder = _manifest(tmp_path / "a", ["x", "y", "y", "?", ""])
    found = corpus.read(folder, None)
    assert (found.by, dict(found.counts), found.total) == (
        "source",
        {"unknown": 2, "y": 2, "x": 1},
        5,
    )
    assert corpus.read(squares(tmp_path / "labelled", count=4), "patient").total == 4
    for name in ("p/1.png", "p/2.png", "q/1.png"):
        path = tmp_path / "bare" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    assert dict(corpus.read(tmp_path / "bare", None).counts) == {"p": 2, "q": 1}


def test_labels_are_not_counted_as_images(tmp_path):
    squares(tmp_path / "sets" / "one", count=4)
    squares(tmp_path / "sets" / "two", count=6)
    assert dict(corpus.read(tmp_path / "sets", None).counts) == {"two": 6, "one": 4}
    assert corpus.read(tmp_path / "sets" / "one", None).total == 4


def test_a_corpus_that_cannot_be_counted_is_refused_with_a_cure(tmp_path):
    folder = _manifest(tmp_path / "a", ["x"])
    with pytest.raises(BenchError, match="--by takes one of path, source"):
        corpus.read(folder, "organ")
    with pytest.raises(BenchError, match="two columns source"):
        corpus.read(_manifest(tmp_path / "c", ["x,y"], "source,source"), None)
    with pytest.raises(BenchError, match="no rows"):
        corpus.read(_manifest(tmp_path / "b", []), None)
    with pytest.raises(BenchError, match="there is no folder"):
        corpus.read(tmp_path / "nowhere", None)
    (folder / "manifest.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BenchError, match="cannot be read as comma-separated"):
        corpus.read(folder, None)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_donut_for_each_corpus_with_the_same_bytes_twice(tmp_path, count):
    folders = [_manifest(tmp_path / f"c{n}", ["$x", "y", "y"] * (n + 1)) for n in range(count)]
    found = [corpus.read(each, None) for each in folders]
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    for path in paths:
        corpus.draw(found, Canvas(path, 4, 60))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_every_slice_has_its_share_on_the_ring_or_in_the_legend(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda own, *a, **k: drawn.append(own))
    found = corpus.Corpus("c", "organ", {"a": 90, "b": 5, "c": 3, "d": 2})
    corpus.draw([found], Canvas(tmp_path / "c.png", 4, 60))
    ring = {each.get_text() for each in drawn[0].axes[0].texts}
    assert {"90%", "5%", "3%"} <= ring
    legend = drawn[0].axes[1].get_legend()
    assert legend is not None
    assert [each.get_text() for each in legend.get_texts()] == [
        "a  90 (90.0%)",
        "b  5 (5.0%)",
        "c  3 (3.0%)",
        "d  2 (2.0%)",
    ]


def test_the_command_counts_a_corpus(tmp_path, monkeypatch, capsys):
    folder = _manifest(tmp_path / "a", ["x", "y", "y"])
    code, told = _bench(
        monkeypatch, capsys, "show", "corpus", str(folder), "--out", str(tmp_path / "c.pdf")
    )
    assert code == 0
    assert told["corpora"][0]["counts"] == {"y": 2, "x": 1}
    assert told["corpora"][0]["total"] == 3


# ---- what pretraining restores ---------------------------------------------------------------


def _tile(path: Path, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return path


def _restored(tmp_path: Path, **changes: object) -> list[restored.Row]:
    asked = restored.RestoreConfig(**{"backbone": "cmd-tiny", "crop_px": 64} | changes)  # pyright: ignore
    return restored.restore(
        asked, restored.tiles_of([_tile(tmp_path / "t.png")], None, 1), lambda *_: None
    )


def test_the_share_that_is_changed_is_that_of_the_time(tmp_path):
    (row,) = _restored(tmp_path, times=(100, 500, 900))
    assert row.clean.shape == (64, 64, 3)
    patches = 64
    expected = [t * patches // 1001 / patches for t in (100, 500, 900)]
    assert row.changed == pytest.approx(expected, abs=0.01)
    assert row.psnr[0] > row.psnr[2]


def test_the_same_seed_hides_the_same_patches(tmp_path):
    one, again, other = (_restored(tmp_path, times=(500,), seed=s)[0] for s in (0, 0, 1))
    assert (one.views[0].corrupted == again.views[0].corrupted).all()
    assert (one.views[0].corrupted != other.views[0].corrupted).any()


def test_the_card_beside_weights_tells_how_they_were_trained(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"")
    asked = restored.RestoreConfig("cmd-tiny", checkpoint=weights)
    assert restored._settings(asked).crop_px == restored.DEFAULT_CROP_PX
    card = {"settings": {"backbone": "cmd-tiny", "crop_px": 128, "objective": "ddpm"}}
    (tmp_path / "card.json").write_text(json.dumps(card))
    settings = restored._settings(asked)
    assert (settings.crop_px, settings.objective) == (128, "ddpm")
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(BenchError, match="not a card"):
        restored._settings(asked)


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(BenchError, match="rgb cannot restore"):
        _restored(tmp_path, backbone="rgb")
    for wrong in ({"times": (0,)}, {"times": ()}, {"crop_px": 33}, {"seed": -1}):
        with pytest.raises(BenchError, match=r"--(t|crop-px|seed)"):
            _restored(tmp_path, **wrong)
    with pytest.raises(BenchError, match="one of the two"):
        restored.tiles_of([], None, 1)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(BenchError, match=r"broken\.png"):
        restored.tiles_of([tmp_path / "broken.png"], None, 1)


def test_the_command_draws_tiles_of_a_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiles").mkdir()
    for number in range(4):
        _tile(tmp_path / "tiles" / f"{number}.png", number)
    words = ["show", "pretraining", "--data", str(tmp_path / "tiles"), "--images", "2", "--crop-px"]
    words += ["32", "--t", "500", "--dpi", "60", "--out"]
    told = [
        _bench(monkeypatch, capsys, *words, str(tmp_path / name))[1] for name in ("a.png", "b.png")
    ]
    assert [each["tile"] for each in told[0]["tiles"]] == ["0", "3"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
