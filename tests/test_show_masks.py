"""Figures of masks: which runs and images are shown, and boxes around real differences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import FEWSHOT, altered, named, request, run, squares

from bench.api.board import BoardOptions
from bench.api.record import Record
from bench.errors import BenchError
from bench.figures.boxes import disagreement, find
from bench.figures.canvas import Canvas
from bench.figures.masks import MaskRow, Selection, choose, draw, select
from bench.figures.overlay import COLOURS, outline, overlaid
from bench.runs.command import command_of
from bench.store.results import Store


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    squares(home / "squares", count=12)
    return home


def _runs(home: Path, epochs: tuple[int, ...], **changes: object) -> list[Record]:
    """Return runs that saved their masks, one per number of epochs."""
    configs = [request(home / "squares", epochs=n, lr=0.1, **changes) for n in epochs]
    return [run(config, home, save_masks=True).record for config in configs]


def _select(home: Path, runs: Sequence[Record], **selection: Any) -> list[MaskRow]:
    return select(runs, Selection(**selection), home / "results", home / "squares")


@pytest.fixture(scope="module")
def pair(home) -> list[Record]:
    return _runs(home, (1, 30))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_boxes_are_disjoint_and_of_largest_disagreement(seed, masks):
    rng = np.random.default_rng(seed)
    truth = rng.random((30, 41)) < 0.2
    predicted = [truth ^ (rng.random(truth.shape) < 0.01) for _ in range(masks)]
    values = disagreement(truth, predicted)
    boxes = find(values, 4)
    covered = np.zeros(truth.shape, int)
    sums = [values[box.where].sum() for box in boxes]
    for box in boxes:
        assert values[box.where].shape == (box.side, box.side)
        covered[box.where] += 1
    assert covered.max(initial=0) <= 1
    assert all(total > 0 for total in sums)
    assert sums == sorted(sums, reverse=True)
    side = 7  # 22 % of 30
    every = [values[y : y + side, x : x + side].sum() for y in range(24) for x in range(35)]
    assert sums[:1] == pytest.approx([max(every)]) if max(every) > 1e-9 else not boxes


def test_disagreement_adds_errors_and_differences():
    truth = np.array([[True, True, False, False]])
    masks = [np.array([[True, False, False, True]]), np.array([[True, False, True, False]])]
    assert disagreement(truth, masks).tolist() == [[0, 1, 1.5, 1.5]]
    assert find(disagreement(truth, [truth, truth]), 3) == []


@pytest.mark.parametrize(("changes", "count"), [({}, 6), (FEWSHOT, 6), ({"folds": 3}, 12)])
def test_images_on_which_runs_differ_most_come_first_with_masks_of_the_first_draw(
    home, changes, count
):
    rows = _select(home, _runs(home, (1, 20), **changes), count=20)
    assert len(rows) == count
    spans = [abs(row.scores[0] - row.scores[1]) for row in rows]
    assert spans == sorted(spans, reverse=True)
    for row in rows:
        truth = row.instances != 0
        for mask, score in zip(row.masks, row.scores, strict=True):
            assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) == pytest.approx(score)
        for box in row.boxes:
            wrong = [mask[box.where] != truth[box.where] for mask in row.masks]
            assert np.any(wrong)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_pixels_are_coloured_by_their_class(seed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (9, 11, 3)).astype(np.uint8)
    truth, mask = rng.random((2, 9, 11)) < 0.5
    drawn = overlaid(picture, truth.astype(np.int32) * 7, mask)
    areas = {
        "true positive": mask & truth,
        "false positive": mask & ~truth,
        "false negative": ~mask & truth,
    }
    grey = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    neither = ~mask & ~truth
    np.testing.assert_allclose(drawn[neither], grey[neither], atol=0.51)
    for name, area in areas.items():
        tint = drawn[area].astype(float) - 0.45 * grey[area]
        np.testing.assert_allclose(
            tint, np.tile(0.55 * np.array(COLOURS[name]), (area.sum(), 1)), atol=0.51
        )


def test_an_outline_separates_touching_nuclei():
    instances = np.zeros((8, 10), np.int32)
    instances[2:7, 1:5], instances[2:7, 5:9] = 1, 2
    edge = outline(instances)
    assert not edge[3:6, 2:4].any()
    assert edge[2:7, 4].all()
    assert edge[2:7, 5].all()
    assert not edge[instances == 0].any()
    assert not outline(np.ones((4, 4), np.int32)).any()  # the frame of the image is no edge


def test_the_figure_has_one_column_per_run_and_boxes(pair, home, tmp_path, drawn):
    rows = _select(home, pair)
    draw(pair, rows, Canvas(tmp_path / "a.svg", 4))
    columns, axes = 2 + len(pair), drawn[0].axes
    assert all(row.boxes for row in rows)
    assert len(axes) == 2 * 2 * columns
    for number, panel in enumerate(axes):
        row, is_enlarged = rows[number // (2 * columns)], number // columns % 2
        assert len(panel.patches) == (0 if is_enlarged else len(row.boxes))
        shown = np.asarray(panel.images[0].get_array())
        box = row.boxes[0]
        shape = (box.side, box.side) if is_enlarged else row.pixels.shape[:2]
        assert shown.shape[:2] == shape
        if number % columns == 0:
            assert (shown == (row.pixels[box.where] if is_enlarged else row.pixels)).all()


def test_legend_scores_and_names_are_labelled(pair, home, tmp_path, drawn):
    rows = _select(home, pair, count=1, boxes=0, score="iou")
    draw(pair, rows, Canvas(tmp_path / "a.svg", 4), score="iou", names=["A: a", "B: b (c)"])
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["true positive", "false positive", "false negative"]
    axes = drawn[0].axes
    assert len(axes) == 2 + len(pair)  # without boxes there is no enlarged row
    assert axes[2].get_xlabel() == f"iou {rows[0].scores[0]:.3f}"
    assert [panel.get_title() for panel in axes[2:]] == ["A: a", "B: b\n(c)"]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_figure_has_the_same_bytes(pair, home, tmp_path, kind):
    formula = altered(pair[0], backbone={"name": "$\\frac{a$"})  # dollars are not TeX here
    rows = [replace(_select(home, pair, count=1)[0], image="$x_1$ ${")]
    paths = [tmp_path / f"{n}.{kind}" for n in "ab"]
    for path in paths:
        draw([formula, pair[1]], rows, Canvas(path, 3, 60))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_unknown_image_raises_with_the_scored_ones(pair, home):
    with pytest.raises(BenchError, match=r"no image 'x'; they scored i_06"):
        _select(home, pair, images=("x",))


def test_runs_without_masks_raise_with_the_command_that_saves_them(pair, home):
    bare = run(request(home / "squares", epochs=3, lr=0.1), home).record
    with pytest.raises(BenchError) as caught:
        _select(home, (pair[0], bare))
    command = f"{command_of(bare, home / 'squares')} --save-masks --results {home / 'results'}"
    assert command in str(caught.value)
    assert f"--dataset {home / 'squares'}" in command
    assert pair[0].run_id not in str(caught.value)
    with pytest.raises(BenchError, match="series that made"):
        _select(home, [altered(record, scored={"shift": "blur-2"}) for record in pair])


def test_another_or_a_missing_data_set_is_refused(pair, home, tmp_path):
    with pytest.raises(BenchError, match="--data"):
        select(pair, Selection(), home / "results", tmp_path)
    squares(tmp_path / "squares", count=12, seed=5)
    with pytest.raises(BenchError, match="not the data set that the runs were scored on"):
        select(pair, Selection(), home / "results", tmp_path)
    facts = {**pair[0].facts, "scored": "../../etc"}
    with pytest.raises(BenchError, match="not a valid name"):
        _select(home, [replace(pair[0], facts=facts), pair[1]])


def test_a_mask_of_another_size_is_refused(pair, home, tmp_path):
    store = Store(tmp_path)
    for record in pair:
        store.commit(record, {})
        for image in record.images:
            path = store.folder(record.run_id) / "masks" / f"{image}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.zeros((3, 3), np.uint8)).save(path)
    with pytest.raises(BenchError, match=r"masks/i_\d+\.png"):
        select(pair, Selection(), tmp_path, home / "squares")


def test_runs_with_saved_masks_are_preferred(pair, home, tmp_path, command):
    store = Store(tmp_path / "results")
    bare = named(pair[0], "other")
    for record in (*pair, bare, named(pair[1], "other")):
        store.commit(record, {})
    for record in (pair[0], bare):
        masks = Store(home / "results").folder(pair[0].run_id) / "masks"
        shutil.copytree(masks, store.folder(record.run_id) / "masks")
    words = ["--results", str(store.root), "--dataset", str(home / "squares"), "--json"]
    words += ["--out", str(tmp_path / "a.png")]
    code, out, _ = command("show", "masks", "--backbone", "rgb,other", *words)
    assert (code, json.loads(out)["runs"]) == (0, [pair[0].run_id, bare.run_id])
    code, out, _ = command("explain", "rgb", "other", "--images", "3", *words)
    facts = json.loads(out)
    assert (code, facts["a"], facts["b"]) == (0, pair[0].run_id, bare.run_id)
    assert len(facts["images"]) == 3
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 1144


def test_several_choices_of_runs_are_listed(pair):
    with pytest.raises(BenchError, match="choices of runs match rgb"):
        choose(pair, ["rgb"], BoardOptions())
    one, other = (run.run_id for run in pair)
    assert choose(pair, [one, other], BoardOptions(vary=("recipe",))) == tuple(pair)
    with pytest.raises(BenchError, match="named twice"):
        choose(pair, [one, one], BoardOptions())


@pytest.mark.parametrize("path", ["figure.gif", "figure"])
def test_an_unknown_file_type_raises(path):
    with pytest.raises(BenchError, match=r"ends in \.svg, \.png, \.pdf"):
        Canvas(Path(path))


def test_the_command_reports_runs_and_images(pair, home, tmp_path, command):
    words = ["show", "masks", "--backbone", ",".join(run.run_id for run in pair), "--json"]
    words += ["--vary", "recipe"]
    words += ["--image", "i_07", "--data", str(home / "squares"), "--results"]
    words += [str(home / "results"), "--out", str(tmp_path / "m.png"), "--dpi", "60"]
    code, out, _ = command(*words)
    facts = json.loads(out)
    assert (code, facts["runs"]) == (0, [run.run_id for run in pair])
    assert [row["image"] for row in facts["images"]] == ["i_07"]
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.width == 7 * 60
