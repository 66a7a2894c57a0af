"""Sheets of the images on which two runs differ most, and the commands of runs."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import FEWSHOT, altered, request, run, squares

from bench.api.run_config import RunConfig
from bench.board.compare import Contrast, contrast
from bench.board.scores import label
from bench.errors import BenchError
from bench.figures.masks import gather, sheet
from bench.figures.overlay import COLOURS, outline, overlaid
from bench.runs.command import command_of, to_command
from bench.store.results import Store

BOTH = ("backbone",)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    squares(home / "squares", count=12)
    return home


def _request(home: Path, **changes: object) -> RunConfig:
    return request(home / "squares", **changes)


@pytest.fixture(scope="module")
def pair(home) -> Contrast:
    """Two runs with masks: one is trained for longer."""
    short, long = (
        run(_request(home, epochs=epochs, lr=0.1), home, save_masks=True).record
        for epochs in (1, 30)
    )
    return contrast(short, long, "dice", BOTH)


def test_the_images_that_differ_most_have_their_masks_and_scores(pair, home):
    panels = gather(pair, 3, home / "results", home / "squares")
    assert [panel.image for panel in panels] == [each.image for each in pair.images[:3]]
    for panel, each in zip(panels, pair.images, strict=False):
        assert panel.patient == each.patient
        truth = panel.instances != 0
        for mask, score, compared in zip(panel.masks, panel.scores, (each.a, each.b), strict=True):
            assert score == compared
            assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) == pytest.approx(score)


def test_masks_are_those_of_the_first_draw_and_of_all_folds(home):
    for changes, count in ((FEWSHOT, 6), ({"folds": 3}, 12)):
        first, second = (
            run(
                _request(home, epochs=epochs, lr=0.1, **changes),
                home,
                save_masks=True,
            ).record
            for epochs in (1, 20)
        )
        compared = contrast(first, second, "dice", BOTH)
        panels = gather(compared, 20, home / "results", home / "squares")
        assert len(panels) == count
        gaps = [abs(panel.scores[0] - panel.scores[1]) for panel in panels]
        assert gaps == sorted(gaps, reverse=True)
        for panel in panels:
            truth = panel.instances != 0
            for mask, score in zip(panel.masks, panel.scores, strict=True):
                dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
                assert dice == pytest.approx(score)


def test_the_sheet_has_a_row_per_image(pair, home):
    sizes = []
    for count in (1, 3):
        panels = gather(pair, count, home / "results", home)  # below the folder of all data sets
        with Image.open(io.BytesIO(sheet(pair, panels))) as image:
            assert image.format == "PNG"
            sizes.append(image.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 1.5 * sizes[0][1]
    formula = altered(pair.a, backbone={"name": "$\\frac{a$"})  # dollars are not TeX here
    assert sheet(replace(pair, a=formula), [replace(panels[0], image="$x_1$ ${")])


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


# ---- what is missing -------------------------------------------------------------------------


def test_the_error_of_missing_masks_shows_the_command_that_creates_them(pair, home):
    bare = run(_request(home, epochs=3, lr=0.1), home).record
    with pytest.raises(BenchError) as caught:
        gather(contrast(pair.a, bare, "dice", BOTH), 2, home / "results", home / "squares")
    command = f"{command_of(bare, home / 'squares')} --save-masks --results {home / 'results'}"
    assert command in str(caught.value)
    assert f"--dataset {home / 'squares'}" in command
    assert pair.a.run_id not in str(caught.value)
    shifted = [altered(record, scored={"shift": "blur-2"}) for record in (pair.a, pair.b)]
    with pytest.raises(BenchError, match="series that made"):
        gather(replace(pair, a=shifted[0], b=shifted[1]), 1, home / "results", home / "squares")


def test_another_or_a_missing_data_set_is_refused(pair, home, tmp_path):
    with pytest.raises(BenchError, match="--data"):
        gather(pair, 1, home / "results", tmp_path)
    squares(tmp_path / "squares", count=12, seed=5)
    with pytest.raises(BenchError, match="not the data set that the runs were scored on"):
        gather(pair, 1, home / "results", tmp_path)
    facts = {**pair.a.facts, "scored": "../../etc"}
    with pytest.raises(BenchError, match="not a valid name"):
        gather(replace(pair, a=replace(pair.a, facts=facts)), 1, home / "results", home)


def test_a_mask_of_another_size_is_refused_by_name(pair, home, tmp_path):
    store = Store(tmp_path)
    for record in (pair.a, pair.b):
        store.commit(record, {})
        for image in record.images:
            path = store.folder(record.run_id) / "masks" / f"{image}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.zeros((3, 3), np.uint8)).save(path)
    with pytest.raises(BenchError, match=r"masks/i_\d+\.png"):
        gather(pair, 1, tmp_path, home / "squares")


# ---- commands --------------------------------------------------------------------------------


def _words(command: str) -> dict[str, str]:
    first, second, *words = shlex.split(command)
    assert (first, second) == ("bench", "run")
    return dict(zip(words[::2], words[1::2], strict=True))


def test_the_command_of_a_run_has_all_its_options(home):
    request = _request(home, epochs=2, lr=0.1, batch_size=3, **FEWSHOT)
    assert _words(command_of(run(request, home).record)) == {
        "--shots-unit": "images",
        "--backbone": "rgb",
        "--dataset": "squares",
        "--protocol": "fewshot",
        "--head": "linear",
        "--shots": "2",
        "--draws": "2",
        "--epochs": "2",
        "--lr": "0.1",
        "--batch-size": "3",
        "--folds": "0",
        "--recipe": "paper",
        "--view": "whole",
        "--input-px": "32",
    }
    prescribed = run(_request(home, protocol="linear-probe", head=None), home).record
    assert "--head" not in command_of(prescribed)


CHANGES: dict[str, dict[str, Any]] = {
    "folds, a seed and bf16": {
        "folds": 2,
        "seed": 3,
        "precision": "bf16",
    },
    "few shots": FEWSHOT,
    "a fraction of the labels": {"protocol": "labels", "fraction": 0.5, "draws": 2},
    "the untrained control": {
        "backbone": "cmd-tiny",
        "weights": "random",
        "option": {"timestep": "9"},
    },
    "tiles": {"view": "tiles"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_command_of_a_run_repeats_it(home, monkeypatch, command, name):
    """The command line selects the same run: its identity is that of the record."""
    record = run(_request(home, **CHANGES[name]), home).record
    _, *words = shlex.split(command_of(record))
    words[words.index("squares")] = str(home / "squares")
    monkeypatch.setenv("BENCH_CACHE", str(home / "cache"))
    code, out, _ = command(*words, "--results", str(home / "results"), "--json")
    assert code == 0
    assert f'"run_id": "{record.run_id}"' in out


def test_the_command_of_an_untrained_control_has_its_seed(home):
    record = run(_request(home), home).record
    control = replace(record, facts={**record.facts, "control_seed": 3})
    assert _words(command_of(control))["--backbone"] == "rgb@random:3"
    assert label(control) == "rgb (random:3)"


def test_the_command_of_a_config_has_its_options(home):
    request = _request(
        home,
        backbone="a b'; rm -rf x",
        option={"t": "1"},
        condition="uni",
        limit=2,
        device="cpu",
    )
    words = _words(to_command(request))
    assert words["--backbone"] == "a b'; rm -rf x"
    assert words["--option"] == "t=1"
    assert words["--condition"] == "uni"
    assert (words["--limit"], words["--device"]) == ("2", "cpu")
    assert "--shots" not in words
