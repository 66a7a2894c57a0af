"""Sheets of the images on which two runs differ most, and the commands that make their masks."""

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
from small_runs import FEWSHOT, altered, request, run, squares

from bench.api.config import RunConfig
from bench.api.record import Record
from bench.board.compare import Contrast, contrast
from bench.errors import BenchError
from bench.figures.masks import COLOURS, gather, outline, overlaid, sheet
from bench.runs.command import command_of, to_command
from bench.store.results import Store

BOTH = ("backbone",)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    squares(home / "squares", count=12)
    return home


def _asked(home: Path, **changes: object) -> RunConfig:
    return request(home / "squares", **changes)


@pytest.fixture(scope="module")
def pair(home) -> Contrast:
    """Two runs with masks: one is trained for longer."""
    short, long = (
        run(_asked(home, epochs=epochs, lr=0.1), home, save_masks=True).record for epochs in (1, 30)
    )
    return contrast(short, long, "dice", BOTH)


def _mean_colour(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    return picture[where].astype(float).mean(axis=0)


def test_the_images_that_differ_most_come_with_their_masks_and_scores(pair, home):
    panels = gather(pair, 3, home / "results", home / "squares")
    assert [panel.image for panel in panels] == [each.image for each in pair.images[:3]]
    for panel, each in zip(panels, pair.images, strict=False):
        assert panel.patient == each.patient
        truth = panel.instances != 0
        for mask, score, told in zip(panel.masks, panel.scores, (each.a, each.b), strict=True):
            assert score == told
            assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) == pytest.approx(score)


def test_masks_of_few_shots_are_those_of_the_first_draw(home):
    one, other = (
        run(_asked(home, epochs=n, lr=0.1, **FEWSHOT), home, save_masks=True).record
        for n in (1, 20)
    )
    found = contrast(one, other, "dice", BOTH)
    panels = gather(found, 6, home / "results", home / "squares")
    assert len(panels) == 6
    for panel in panels:
        for mask, score in zip(panel.masks, panel.scores, strict=True):
            truth = panel.instances != 0
            assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) == pytest.approx(score)
    gaps = [abs(panel.scores[0] - panel.scores[1]) for panel in panels]
    assert gaps == sorted(gaps, reverse=True)


def test_folds_do_not_hide_the_masks(home):
    one, other = (
        run(
            _asked(home, epochs=n, lr=0.1, folds=3),
            home,
            save_masks=True,
        ).record
        for n in (1, 2)
    )
    found = contrast(one, other, "dice", BOTH)
    assert len(gather(found, 20, home / "results", home / "squares")) == 12


def test_the_sheet_is_a_picture_with_a_row_for_each_image(pair, home):
    sizes = []
    for count in (1, 3):
        panels = gather(pair, count, home / "results", home / "squares")
        with Image.open(io.BytesIO(sheet(pair, panels))) as picture:
            assert picture.format == "PNG"
            sizes.append(picture.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 1.5 * sizes[0][1]


def test_names_with_dollars_are_no_formulas(pair, home):
    odd = altered(pair.a, backbone={"name": "$\\frac{a$"})
    panels = [
        replace(each, image="$x_1$ ${")
        for each in gather(pair, 1, home / "results", home / "squares")
    ]
    assert sheet(replace(pair, a=odd), panels)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_each_pixel_has_the_colour_of_what_it_is(seed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (9, 11, 3)).astype(np.uint8)
    truth, mask = rng.random((2, 9, 11)) < 0.5
    drawn = overlaid(picture, truth.astype(np.int32) * 7, mask)
    areas = {
        "found": mask & truth,
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


def test_the_three_colours_are_told_apart_without_red_or_green():
    """Luminance and the blue-yellow channel are what red-green blindness leaves."""
    left = {
        name: np.array([0.2126 * r + 0.7152 * g + 0.0722 * b, b - (r + g) / 2])
        for name, (r, g, b) in COLOURS.items()
    }
    names = list(left)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert np.abs(left[one] - left[other]).max() > 60


def test_an_outline_is_the_edge_of_each_nucleus_also_between_two_that_touch():
    instances = np.zeros((8, 10), np.int32)
    instances[2:7, 1:5], instances[2:7, 5:9] = 1, 2
    edge = outline(instances)
    assert not edge[3:6, 2:4].any()
    assert edge[2:7, 4].all()
    assert edge[2:7, 5].all()
    assert not edge[instances == 0].any()
    assert not outline(np.ones((4, 4), np.int32)).any()  # the frame of the image is no edge


# ---- what is missing -------------------------------------------------------------------------


def test_masks_that_were_not_saved_are_asked_for_with_the_command_that_makes_them(pair, home):
    bare = run(_asked(home, epochs=3, lr=0.1), home).record
    found = contrast(pair.a, bare, "dice", BOTH)
    with pytest.raises(BenchError) as told:
        gather(found, 2, home / "results", home / "squares")
    cure = f"{command_of(bare, home / 'squares')} --save-masks --results {home / 'results'}"
    assert cure in str(told.value)
    assert f"--dataset {home / 'squares'}" in cure
    assert pair.a.run_id not in str(told.value)


def test_a_shifted_run_is_made_by_its_series(pair, home):
    shifted = [altered(run, scored={"shift": "blur-2"}) for run in (pair.a, pair.b)]
    with pytest.raises(BenchError, match="series that made"):
        gather(replace(pair, a=shifted[0], b=shifted[1]), 1, home / "results", home / "squares")


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


def test_another_data_set_of_that_name_is_refused(pair, home, tmp_path):
    squares(tmp_path / "squares", count=12, seed=5)
    with pytest.raises(BenchError, match="not the data set that the runs were scored on"):
        gather(pair, 1, home / "results", tmp_path)


def test_the_data_set_is_found_below_the_folder_too(pair, home):
    assert gather(pair, 1, home / "results", home)


def test_a_data_set_that_is_nowhere_is_asked_for(pair, home, tmp_path):
    with pytest.raises(BenchError, match="--data"):
        gather(pair, 1, home / "results", tmp_path)


def test_a_data_set_that_is_named_by_a_path_is_refused(pair, home):
    facts = {**pair.a.facts, "scored": "../../etc"}
    with pytest.raises(BenchError, match="not a valid name"):
        gather(replace(pair, a=replace(pair.a, facts=facts)), 1, home / "results", home)


# ---- commands --------------------------------------------------------------------------------


def _words(command: str) -> dict[str, str]:
    first, second, *words = shlex.split(command)
    assert (first, second) == ("bench", "run")
    return dict(zip(words[::2], words[1::2], strict=True))


def test_the_command_of_a_run_names_all_that_was_asked(home):
    asked = _asked(home, epochs=2, lr=0.1, batch_size=3, **FEWSHOT)
    words = _words(command_of(run(asked, home).record))
    assert words == {
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
        "--input-px": "32",
    }


ASKED: dict[str, dict[str, Any]] = {
    "folds, a seed and bf16": {
        "folds": 2,
        "seed": 3,
        "precision": "bf16",
    },
    "few shots": FEWSHOT,
    "a fraction of the labels": {"protocol": "labels", "fraction": 0.5, "draws": 2},
    "the untrained twin": {
        "backbone": "cmd-tiny",
        "weights": "random",
        "option": {"timestep": "9"},
    },
    "tiles": {"view": "tiles"},
}


@pytest.mark.parametrize("asked", ASKED)
def test_the_command_of_a_run_runs_it_again(home, monkeypatch, capsys, asked):
    """The command line finds the very run: its identity is that of the record."""
    import sys

    from bench.cli.main import main

    changes = ASKED[asked]
    first = run(_asked(home, **changes), home).record
    words = shlex.split(command_of(first))
    words[words.index("squares")] = str(home / "squares")
    monkeypatch.setenv("BENCH_CACHE", str(home / "cache"))
    monkeypatch.setattr(sys, "argv", [*words, "--results", str(home / "results"), "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert f'"run_id": "{first.run_id}"' in capsys.readouterr().out


def test_a_protocol_that_prescribes_its_head_is_not_told_one(home):
    record: Record = run(_asked(home, protocol="linear-probe", head=None), home).record
    assert "--head" not in command_of(record)


def test_a_request_is_told_as_the_command_that_asks_for_it(home):
    asked = _asked(home, option={"t": "1"}, condition="uni", limit=2, device="cpu")
    words = _words(to_command(asked))
    assert words["--option"] == "t=1"
    assert words["--condition"] == "uni"
    assert (words["--limit"], words["--device"]) == ("2", "cpu")
    assert "--shots" not in words


def test_names_with_spaces_and_quotes_stay_one_word(home):
    asked = _asked(home, backbone="a b'; rm -rf x")
    assert _words(to_command(asked))["--backbone"] == "a b'; rm -rf x"
