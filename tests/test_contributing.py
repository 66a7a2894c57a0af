"""The examples of CONTRIBUTING.md and README.md work as they stand there."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small_runs
from PIL import Image

from bench import registry
from bench.api import Backbone, Dataset, PlanOptions, Prediction, Sample, SeriesOptions
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
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the examples to folders that count as the plug-in folders."""
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


def test_there_is_an_example_of_every_kind() -> None:
    assert {Path(name).parent.name for name in EXAMPLES} == set(registry.KINDS)


def test_the_backbone_of_the_guide_keeps_its_promises(dropped_in: Path) -> None:
    assert check_backbone("brightness") == []
    assert registry.get("backbones", "brightness").build(levels=2).strides == (1, 2)


def test_the_backbone_of_the_readme_keeps_its_promises() -> None:
    names: dict[str, object] = {}
    (source,) = (block for block in PYTHON.findall(README.read_text()) if "class MyFM" in block)
    exec(source, names)
    record = names["my_fm"]
    assert isinstance(record, Backbone)
    assert check_backbone(record) == []


def test_the_head_of_the_guide_keeps_its_promises(dropped_in: Path) -> None:
    assert check_head("finest") == []


def test_the_data_set_of_the_guide_reads_its_release(dropped_in: Path, tmp_path: Path) -> None:
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


def test_the_protocol_of_the_guide_plans_one_trial_a_patient(dropped_in: Path) -> None:
    samples = [
        Sample(f"{split}{n}", split, f"{split}-{n // 2}", "", None, "", lambda: None)  # type: ignore[arg-type]
        for split in ("train", "test")
        for n in range(4)
    ]
    trials = registry.get("protocols", "one-patient").plan(samples, PlanOptions())
    assert [each.train for each in trials] == [("train0", "train1"), ("train2", "train3")]
    assert {each.test for each in trials} == {("test0", "test1", "test2", "test3")}


def test_the_metric_of_the_guide_scores(dropped_in: Path) -> None:
    metric = registry.get("metrics", "area")
    empty, half, full = np.zeros((2, 4), bool), np.eye(2, 4, dtype=bool), np.ones((2, 4), bool)
    pairs = ((empty, empty), (half, full), (full, empty))
    rows = [metric.count(Prediction(mask, mask), true.astype(np.int32)) for mask, true in pairs]
    counts = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    assert metric.scores["area"](counts).tolist() == [1, 0.25, 0]
    assert metric.defined["area"](counts).tolist() == [False, True, True]


def test_the_series_of_the_guide_reports_its_runs_and_those_of_a_store(
    dropped_in: Path, tmp_path: Path
) -> None:
    series = registry.get("protocols", "both-views")
    config = small_runs.request(small_runs.squares(tmp_path / "squares"), head="linear")
    requests = series.runs(config, SeriesOptions())
    assert [request.view for request in requests] == ["whole", "tiles"]
    records = [small_runs.run(request, tmp_path).record for request in requests]
    report = series.report(records, records, ReportOptions())
    (row,) = report.tables[0].rows
    assert len(row) == len(report.tables[0].columns)
    means = [np.mean(means_of_images(record, "dice")) for record in records]
    assert report.json[0]["difference"]["mean"] == pytest.approx(means[1] - means[0])
    assert stored_groups(records, series.group_by) == [records]
    assert not series.report(records[:1], records, ReportOptions()).tables


def test_the_board_of_the_guide_sorts_by_the_hardest_patient(
    dropped_in: Path, tmp_path: Path
) -> None:
    folder = small_runs.squares(tmp_path / "squares")
    good = small_runs.run(small_runs.request(folder), tmp_path).record
    bad = small_runs.named(small_runs.worse(good, 0.5), "worse")
    made = registry.get("leaderboards", "hardest")
    (block,) = made.rows([bad, good], BoardOptions())
    assert [row.backbone for row in block.rows] == ["rgb", "worse"]
    hardest = [means_of_images(row.record, "dice").min() for row in block.rows]  # one image each
    assert hardest[0] > hardest[1]
    (block,) = made.rows([bad, good], BoardOptions(metric="hd95"))
    highest = [means_of_images(row.record, "hd95").max() for row in block.rows]
    assert highest == sorted(highest)


def test_the_examples_are_in_house_style(dropped_in: Path) -> None:
    settings = ["--config", str(GUIDE.parent / "pyproject.toml")]
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", *settings, str(dropped_in)]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
