"""The runs planned for the paper's tables, their obstacles, and the comparison of scores."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tiny import squares

from bench import registry
from bench.api import Backbone
from bench.api.run_config import RunConfig
from bench.errors import BenchError, RunFailed
from bench.models import hub, load
from bench.paper import published, recipes, reproduce
from bench.paper.config import ReproduceConfig
from bench.paper.printed_rows import SCORES
from bench.paper.recipes import TABLES, Attempt, PaperRecipe, attempts, read, weights_name
from bench.runs.execute import Paths


def _cells(table: str) -> list[published.PrintedCell]:
    return [cell for cell in published.cells("cmd_paper") if cell.table == table]


def _attempts(table: str, **options: Any) -> list[Attempt]:
    return attempts(ReproduceConfig(table=table, **options))


@pytest.fixture
def no_weights(monkeypatch) -> None:
    monkeypatch.setattr(hub, "location", lambda backbone: "no")


@pytest.fixture
def light(monkeypatch) -> None:
    """Describe every backbone as a small ViT/16, so that no large model is built."""
    shape = load.describe("random-vit-s")

    def described(name: str, options: object) -> load.Description:
        return replace(shape, backbone=registry.get("backbones", name))

    monkeypatch.setattr(recipes, "_described", described)


@pytest.mark.parametrize("table", TABLES)
def test_every_printed_cell_of_a_table_belongs_to_one_run(table, light, no_weights):
    planned = _attempts(table)
    covered = [cell for attempt in planned for cell in attempt.cells]
    assert sorted(map(repr, covered)) == sorted(map(repr, _cells(table)))


def test_every_name_in_a_recipe_is_registered():
    for recipe in read():
        backbone: Backbone = registry.get("backbones", recipe.backbone)
        protocol = registry.get("protocols", recipe.protocol)
        assert recipe.table in TABLES
        assert not (recipe.head and protocol.head)
        assert recipe.head or protocol.head or backbone.default_head
        if recipe.head:
            assert registry.get("heads", recipe.head)
        if condition := recipe.options.get("condition"):
            assert registry.get("backbones", condition)


def test_the_recipes_of_table_4_match_the_models_with_printed_sizes():
    sizes = {size.method: size for size in published.sizes("cmd_paper_params")[4]}
    by_method = {recipe.method: recipe for recipe in read() if recipe.table == "4"}
    assert by_method.keys() == sizes.keys()
    for method, recipe in by_method.items():
        size = sizes[method]
        assert (recipe.backbone, recipe.options) == (size.backbone, size.options)
        prescribed = registry.get("protocols", recipe.protocol).head
        assert (recipe.head or prescribed or "") in (size.head, prescribed)


PAPERS_INPUTS = {  # the heading of Table 4: ViT/16, ViT/14 and CMD
    "uni": (384, 496, 512),
    "virchow": (392, 490, 504),
    "transunet": (384, 496, 512),
}


@pytest.mark.parametrize("backbone", PAPERS_INPUTS)
def test_inputs_have_the_sizes_of_the_paper(backbone, no_weights):
    method = next(e.method for e in read() if (e.table, e.backbone) == ("4", backbone))
    planned = _attempts("4", only=(method,))
    sides = {attempt.dataset: attempt.request.input_px for attempt in planned}
    assert tuple(sides[name] for name in ("cpm15", "cpm17", "tnbc")) == PAPERS_INPUTS[backbone]
    assert not any("not a multiple" in note for attempt in planned for note in attempt.notes)


def test_an_incompatible_input_size_is_replaced_by_the_nearest_one_with_a_note(no_weights):
    planned = _attempts("4", only=("ViT-Adapter",))
    (attempt,) = [attempt for attempt in planned if attempt.dataset == "cpm17"]
    assert attempt.request.input_px == 512
    assert any("496 is not a multiple of 32" in note for note in attempt.notes)


def test_shots_and_test_time_training_match_the_table(light, no_weights):
    shots = {attempt.setting: attempt.request.plan.shots for attempt in _attempts("5")}
    assert shots == {"1-shot": 1, "5-shot": 5, "10-shot": 10}
    assert "--shots 5" in _attempts("5")[1].command
    with_ttt = {attempt.recipe.method for attempt in _attempts("C1") if attempt.request.ttt}
    assert with_ttt == {"CMD-L + TTT + SegHead: Fig. B2(B)"}


def test_a_checkpoint_is_named_by_model_and_steps():
    by_key = {(recipe.table, recipe.method): recipe for recipe in read()}
    assert weights_name(by_key["6", "CMD-L"], "10k steps") == "cmd-l-10k"
    assert weights_name(by_key["7", "CMD-B"], "70k steps") == "cmd-b-70k"
    assert weights_name(by_key["C1", "CMD-L + SegHead: Fig. B2(A)"], "full") == "cmd-l-80k"
    assert weights_name(by_key["4", "UNI"], "full") == "uni"
    assert weights_name(by_key["5", "TransUNet"], "1-shot") == "uni2-h"


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_checkpoint_removes_an_obstacle(tmp_path, light, no_weights, form):
    options = {"checkpoints": tmp_path, "only": ("CMD-B",)}
    before = _attempts("7", **options)
    assert all("no cmd-b" in [o.short for o in attempt.obstacles] for attempt in before)
    assert all(attempt.command.endswith("--checkpoint DIR/cmd-b-70k") for attempt in before)
    path = tmp_path / ("cmd-b-70k.safetensors" if form == "file" else "cmd-b-70k")
    if form == "folder":
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"")
    else:
        path.write_bytes(b"")
    for attempt in _attempts("7", **options):
        assert [o.short for o in attempt.obstacles if "cmd-b" in o.short] == []
        assert attempt.request.checkpoint == path
        assert shlex.quote(str(path)) in attempt.command


def test_missing_weights_and_libraries_are_obstacles(light, no_weights, tmp_path, monkeypatch):
    for attempt in _attempts("4", data=tmp_path, only=("UNI",)):
        fixes = {obstacle.short: obstacle.fix for obstacle in attempt.obstacles}
        assert "huggingface.co/MahmoodLab/UNI" in fixes["no uni"]
        assert "accept" in fixes["no uni"]

    def fails(name: str, options: object) -> load.Description:
        raise BenchError("pip install 'cmd-bench[nnunet]'")

    monkeypatch.setattr(recipes, "_described", fails)
    planned = _attempts("4", only=("nnUNet",))
    assert all("pip install" in attempt.obstacles[-1].fix for attempt in planned)


def test_an_unknown_table_or_method_raises():
    for table in ("1", "8", "c2"):
        with pytest.raises(BenchError, match="bench study"):
            _attempts(table)
    with pytest.raises(BenchError, match="H-optimus-1"):
        _attempts("5", only=("UNI",))


# ---- running ---------------------------------------------------------------------------------


@pytest.fixture
def planned(tmp_path) -> list[Attempt]:
    """Three attempts on a small data set: one succeeds, one has an obstacle, one fails."""
    folder = squares(tmp_path / "squares")
    recipe = PaperRecipe("4", "UNI", "rgb", {}, "linear", "full", "", False, "a remark")
    cells = tuple(e for e in _cells("4") if (e.method, e.dataset) == ("UNI", "TNBC"))
    request = RunConfig(
        backbone="rgb",
        dataset=str(folder),
        protocol="full",
        head="linear",
        epochs=2,
        folds=0,
        input_px=32,
    )
    good = Attempt(recipe, "full", "tnbc", cells, request, notes=("a remark",))
    bad = replace(good, request=replace(request, head="nothing"))
    stopped = replace(good, obstacles=(recipes.Obstacle("no data", "get it"),))
    return [good, stopped, bad]


def _silent(*_: object) -> None: ...


def test_a_failed_run_does_not_stop_the_others(planned, tmp_path):
    good, stopped, bad = reproduce.run(planned[::-1], Paths(tmp_path / "r"), _silent)[::-1]
    assert good.record is not None
    assert [score.metric for score in good.scores] == ["dice_macro", "precision_macro"]
    assert (stopped.record, stopped.failure) == (None, "")
    assert bad.record is None
    assert "nothing" in bad.failure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "execute", Mock(side_effect=RunFailed("the loss is not finite")))
        (result,) = reproduce.run(planned[:1], Paths(tmp_path / "r"), _silent)
    assert result.failure == "the loss is not finite"


def test_tables_and_json_show_our_scores_beside_the_printed_ones(planned, tmp_path):
    plan = reproduce.plan_table("4", planned)
    assert plan.notes == ["missing: get it"]
    assert "2 of 3" in plan.title
    results = reproduce.run(planned, Paths(tmp_path / "r"), _silent)
    table = reproduce.result_table("4", results)
    assert table.notes
    assert len(table.rows) == 6
    scored = "not converged; a remark"
    for row, cell, state in zip(
        table.rows,
        planned[0].cells * 3,
        [scored, scored, "not run", "not run", "failed", "failed"],
        strict=True,
    ):
        values: Any = row[3:]
        name, ours, theirs, remark = values
        assert name == SCORES[cell.score]
        assert (theirs.value, theirs.low) == (cell.printed.mean, cell.printed.low)
        assert theirs.mark == "?"  # the intervals of this row are one row too low
        assert isinstance(ours, str) == (state != scored)
        assert remark.startswith(state)
    body = json.loads(json.dumps(reproduce.as_json("4", results)))
    good, stopped, bad = body["rows"]
    assert results[0].record is not None
    assert good["run_id"] == results[0].record.run_id
    assert good["scores"]["dice_macro"]["paper"]["mean"] == 0.833
    assert good["scores"]["dice_macro"]["ours"]["n_patients"] == 7
    assert stopped["obstacles"] == [{"short": "no data", "fix": "get it"}]
    assert bad["failure"]


def test_a_dry_run_runs_nothing(tmp_path: Path, command, light, no_weights):
    folder = str(tmp_path / "r")
    code, out, _ = command("reproduce", "--table", "c1", "--dry-run", "--json", "--results", folder)
    body = json.loads(out)
    assert code == 0
    assert {row["run_id"] for row in body["rows"]} == {None}
    assert len(body["rows"]) == 6
    assert not (tmp_path / "r").exists()
