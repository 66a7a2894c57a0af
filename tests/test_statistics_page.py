"""The page on statistics holds what is measured and computed, and the script that measures runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from bench.stats.tiers import most_models

CHECKOUT = Path(__file__).parent.parent
PAGE = (CHECKOUT / "docs" / "statistics.md").read_text("utf-8")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("intervals")


def test_the_page_tells_how_many_runs_so_many_patients_separate():
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    (runs,) = [line[1:] for line in lines if line[0].startswith("runs in a group")]
    assert list(map(int, runs)) == [most_models(patients) for patients in range(5, 17)]


def test_the_tables_are_put_into_the_page_and_nothing_else_changes(
    script: ModuleType, tmp_path: Path
):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    script.main(experiments=20, rank_experiments=5, page=page)
    new = page.read_text()
    for name in ("coverage", "ranks"):
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        old_table, new_table = (text.split(start)[1].split(end)[0] for text in (PAGE, new))
        assert old_table.count("\n") == new_table.count("\n") > 3
        assert old_table != new_table
        new = new.replace(new_table, old_table)
    assert new == PAGE


def test_simulated_scores_have_the_mean_the_variance_and_the_patients_they_claim(
    script: ModuleType,
):
    for draw in (script.normal, script.skewed):
        values = script.scores(draw, 4000, 6, seed=0)
        assert values.mean() == pytest.approx(0, abs=0.02)
        assert values.var() == pytest.approx(1, abs=0.05)
        assert (values[:, 0] * values[:, 1]).mean() == pytest.approx(script.SHARED, abs=0.06)
        assert (values[:, 0] * values[:, 3]).mean() == pytest.approx(0, abs=0.06)
