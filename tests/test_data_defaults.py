"""Defaults that depend on the data set: folds, view and tile side, and what is said about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import request, run, squares

from bench.api import PlanOptions, Protocol, Sample, Trial
from bench.api.run_config import RunConfig
from bench.board.data_notes import data_notes
from bench.data.find import DatasetHandle, find
from bench.errors import BenchError
from bench.features.views import View
from bench.protocols.full import FULL
from bench.runs.input_size import resized, with_view
from bench.runs.resolve import resolve
from bench.runs.session import Session
from bench.runs.trial_plan import default_folds, planned


def samples(
    train: int, test: int, *, shared: int = 0, size: tuple[int, int] | None = None
) -> list[Sample]:
    """Return one sample per patient; `shared` patients of the test split are in training too."""

    def read() -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("pixels are not read")

    patients = [("train", i) for i in range(train)]
    patients += [("test", i) for i in range(train - shared, train - shared + test)]
    return [
        Sample(f"{split}{i}", split, f"p{i}", "", None, f"{split}{i}", read, size)
        for split, i in patients
    ]


# ---- folds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test", "shared", "folds"),
    [
        (30, 10, 0, 0),
        (30, 9, 0, 5),
        (30, 0, 0, 5),  # there is no test split
        (0, 30, 0, 5),  # there is nothing to train on
        (2, 2, 0, 4),
        (1, 1, 0, 2),
        (1, 1, 1, 0),  # one patient
        (1, 0, 0, 0),
    ],
)
def test_few_test_patients_make_folds_the_default(
    train: int, test: int, shared: int, folds: int
) -> None:
    assert default_folds(samples(train, test, shared=shared)) == folds


def _handle(*images: Sample) -> DatasetHandle:
    return replace(find("synthetic"), samples=images)


def test_folds_that_are_set_replace_the_default() -> None:
    small, large = _handle(*samples(6, 6)), _handle(*samples(6, 12))
    for handle, folds, trials in (
        (small, None, 5),
        (small, 0, 1),
        (small, 3, 3),
        (large, None, 1),
        (large, 5, 5),
    ):
        config, plan = planned(RunConfig(folds=folds), FULL, handle, handle)
        assert (config.folds, len(plan)) == (trials if trials > 1 else 0, trials)


def test_a_run_on_another_data_set_has_no_folds_by_default() -> None:
    handle, target = _handle(*samples(6, 6)), _handle(*samples(4, 4))
    config, (trial,) = planned(RunConfig(target_dataset="other"), FULL, handle, target)
    assert (config.folds, len(trial.train), len(trial.test)) == (0, 6, 4)
    with pytest.raises(BenchError, match="leave --folds out"):
        planned(RunConfig(target_dataset="other", folds=5), FULL, handle, target)


def test_a_protocol_without_folds_uses_the_official_split() -> None:
    def plan(images: Sequence[Sample], options: PlanOptions) -> list[Trial]:
        return [Trial((images[0].id,), (images[-1].id,), options.seed)]

    protocol, handle = Protocol("first", plan), _handle(*samples(2, 2))
    config, _ = planned(RunConfig(), protocol, handle, handle)
    assert config.folds == 0
    with pytest.raises(BenchError, match="'first' plans no folds"):
        planned(RunConfig(folds=2), protocol, handle, handle)


def test_the_identity_has_the_resolved_folds(tmp_path: Path) -> None:
    folder = squares(tmp_path / "squares")
    default, five, official = (resolve(request(folder, folds=folds)).spec for folds in (None, 5, 0))
    assert default == five
    assert (default.protocol.folds, official.protocol.folds) == (5, 0)


# ---- views -----------------------------------------------------------------------------------


def test_tiles_are_the_default_of_a_folder_that_is_no_registered_data_set(tmp_path: Path) -> None:
    own, copy = squares(tmp_path / "slides"), squares(tmp_path / "tnbc")
    views = [
        resolve(request(folder, view=None, input_px=16)).spec.view.kind for folder in (own, copy)
    ]
    assert views == ["tiles", "whole"]


@pytest.mark.parametrize(
    ("changes", "px"),
    [
        ({"view": "tiles"}, 48),  # the longer side of 40 px, as a multiple of 16
        ({"view": "tiles", "input_px": 512}, 512),
        ({"view": "whole"}, 512),
        ({"view": "tiles", "backbone": "rgb"}, 40),
        ({"view": "tiles", "backbone": "all-background"}, 16),  # its fixed side
    ],
)
def test_default_tiles_are_not_larger_than_the_images(
    tmp_path: Path, changes: dict[str, object], px: int
) -> None:
    folder = squares(tmp_path / "squares")
    config = request(folder, backbone="random-vit-s", input_px=None)
    assert resolve(replace(config, **changes)).spec.view.px == px


def test_tiles_of_large_images_have_the_side_of_the_data_set() -> None:
    config, session = RunConfig(backbone="rgb", view="tiles"), Session()
    for size, side in (((600, 300), 512), ((64, 300), 300)):
        handle = _handle(*samples(1, 1, size=size))
        assert with_view(config, handle, handle, session).input_px == side


# ---- resized images --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "size", "scale", "aspect"),
    [
        (View("whole", 512), (512, 512), None, None),
        (View("whole", 512), (760, 760), None, None),
        (View("whole", 512), (780, 780), 1.52, 1.0),
        (View("whole", 512), (256, 256), 2.0, 1.0),
        (View("whole", 512), (500, 540), None, None),
        (View("whole", 512), (488, 643), 1.26, 1.32),
        (View("whole", 512), (512, 3072), 6.0, 6.0),
        (View("whole", 512), (3072, 512), 6.0, 6.0),
        (View("tiles", 512), (512, 3072), None, None),
        (View("whole", 512), None, None, None),
    ],
)
def test_changes_of_scale_and_aspect_ratio_are_facts(
    view: View, size: tuple[int, int] | None, scale: float | None, aspect: float | None
) -> None:
    change = resized(view, samples(2, 1, size=size))
    expected = scale and {"images": 3, "of": 3, "px": 512, "scale": scale, "aspect": aspect}
    assert change == expected


def test_notes_are_said_once_per_data_set() -> None:
    wide = {"images": 2, "of": 3, "px": 512, "scale": 6.0, "aspect": 6.0}
    square = {**wide, "px": 504, "scale": 6.1, "aspect": 1.0}
    facts = {"official_test_patients": 3}
    notes = data_notes(
        [
            ("a", 5, {**facts, "resized": {"a": wide}}),
            ("a", 5, {**facts, "resized": {"a": square}}),
            ("b", 0, {**facts, "resized": {"b": wide}}),
            ("c", 5, {"official_test_patients": 0}),
            ("d", 5, {"official_test_patients": 14}),
            ("e", 5, {}),
        ]
    )
    assert notes == [
        "a: 5 folds by patient, since the official test split has 3 patients, fewer than 10; "
        "`--folds 0` uses it.",
        "c: 5 folds by patient, since the official test split has no images.",
        "a: resizing to 504 x 504 px changes the scale of 2 of 3 images by a factor of up to 6.1; "
        "`--view tiles` uses native resolution.",
        "b: resizing to 512 x 512 px changes the scale of 2 of 3 images by a factor of up to 6 "
        "and distorts them by a factor of up to 6; `--view tiles` uses native resolution.",
    ]


def test_a_record_has_the_facts_of_its_data(tmp_path: Path) -> None:
    folder = squares(tmp_path / "squares")
    record = run(request(folder, input_px=16), tmp_path).record
    assert record.facts["official_test_patients"] == 7
    change = {"images": 14, "of": 14, "px": 16, "scale": 2.5, "aspect": 1.25}
    assert record.facts["resized"] == {"squares": change}
