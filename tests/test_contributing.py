"""The plug-ins shown in CONTRIBUTING.md and README.md work."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import named, run, squares, worse
from tiny import request as tiny_request

from bench import registry
from bench.api import Dataset, PlanOptions, Prediction, Sample, SeriesOptions
from bench.api.board import BoardOptions
from bench.api.report import ReportOptions
from bench.board.reporting import means_of_images, stored_groups
from bench.data import folder as data_folder
from bench.data.download import prepare
from bench.testing import check_backbone, check_head

GUIDE = Path(__file__).parent.parent / "CONTRIBUTING.md"
README = GUIDE.parent / "README.md"
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
EXAMPLES = dict(re.findall(r"### `(.*?)`\n\n```python\n(.*?)```", GUIDE.read_text(), re.DOTALL))


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the examples into folders that the registry searches."""
    for name, source in EXAMPLES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        kind = file.parent.name
        package = importlib.import_module(f"bench.{kind}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
    registry.catalogue.cache_clear()
    yield tmp_path
    registry.catalogue.cache_clear()
    for name in EXAMPLES:
        sys.modules.pop(f"bench.{Path(name).parent.name}.{Path(name).stem}", None)


def test_the_backbones_and_the_head_pass_the_checks(plugins: Path) -> None:
    assert {Path(name).parent.name for name in EXAMPLES} == set(registry.KINDS)
    assert check_backbone("brightness") == []
    assert registry.get("backbones", "brightness").build(levels=2).strides == (1, 2)
    assert check_head("finest") == []
    names: dict[str, Any] = {}
    (source,) = (block for block in PYTHON.findall(README.read_text()) if "class MyFM" in block)
    exec(source, names)
    assert check_backbone(names["my_fm"]) == []


def test_the_data_set_reads_its_release(plugins: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for part in ("images", "labels"):
        (raw / part).mkdir(parents=True)
    labels = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100
    for shade, name in enumerate(("p01_a", "p01_b", "p03_a")):
        Image.fromarray(np.full((3, 4, 3), 200 + shade, np.uint8)).save(
            raw / "images" / f"{name}.png"
        )
        Image.fromarray(labels).save(raw / "labels" / f"{name}.png")
    record: Dataset = registry.get("datasets", "pairs")
    assert record.release is not None
    read = list(record.release(raw))
    assert [(each.id, each.patient, each.split) for each in read] == [
        ("p01_a", "p01", "train"),
        ("p01_b", "p01", "train"),
        ("p03_a", "p03", "test"),
    ]
    assert read[0].image.shape == (3, 4, 3)
    assert (read[0].instances == labels).all()
    prepare(record, raw, tmp_path / "pairs")
    assert data_folder.check(tmp_path / "pairs") == []


def test_the_protocol_plans_one_trial_per_patient(plugins: Path) -> None:
    samples = [
        Sample(f"{split}{n}", split, f"{split}-{n // 2}", "", None, "", lambda: None)  # type: ignore[arg-type]
        for split in ("train", "test")
        for n in range(4)
    ]
    trials = registry.get("protocols", "one-patient").plan(samples, PlanOptions())
    assert [each.train for each in trials] == [("train0", "train1"), ("train2", "train3")]
    assert {each.test for each in trials} == {("test0", "test1", "test2", "test3")}


def test_the_metric_scores(plugins: Path) -> None:
    metric = registry.get("metrics", "area")
    empty, half, full = np.zeros((2, 4), bool), np.eye(2, 4, dtype=bool), np.ones((2, 4), bool)
    pairs = ((empty, empty), (half, full), (full, empty))
    rows = [metric.count(Prediction(mask, mask), true.astype(np.int32)) for mask, true in pairs]
    counts = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    assert metric.scores["area"](counts).tolist() == [1, 0.25, 0]
    assert metric.defined["area"](counts).tolist() == [False, True, True]


def test_the_series_reports_its_runs_and_those_of_a_store(plugins: Path, tmp_path: Path) -> None:
    series = registry.get("protocols", "both-views")
    requests = series.runs(tiny_request(squares(tmp_path / "squares")), SeriesOptions())
    assert [request.view for request in requests] == ["whole", "tiles"]
    records = [run(request, tmp_path).record for request in requests]
    report = series.report(records, records, ReportOptions())
    (row,) = report.tables[0].rows
    assert len(row) == len(report.tables[0].columns)
    means = [np.mean(means_of_images(record, "dice")) for record in records]
    assert report.json[0]["difference"]["mean"] == pytest.approx(means[1] - means[0])
    assert stored_groups(records, series.group_by) == [records]
    assert not series.report(records[:1], records, ReportOptions()).tables


def test_the_board_sorts_by_the_hardest_patient(plugins: Path, tmp_path: Path) -> None:
    good = run(tiny_request(squares(tmp_path / "squares")), tmp_path).record
    bad = named(worse(good, 0.5), "worse")
    board = registry.get("leaderboards", "hardest")
    for metric, hardest, sign in (("dice", np.min, -1), ("hd95", np.max, 1)):
        (group,) = board.rows([bad, good], BoardOptions(metric=metric))
        scores = [hardest(means_of_images(row.record, metric)) for row in group.rows]
        assert scores == sorted(scores, key=lambda score: sign * score)
    assert [row.backbone for row in board.rows([bad, good], BoardOptions())[0].rows] == [
        "rgb",
        "worse",
    ]
