"""The ranking of a leaderboard: tiers, ranks, chance baselines and verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from small_runs import FACTS, SPEC, changed_spec

from bench import registry
from bench.api.board import Block, BoardOptions
from bench.api.record import Record, TrialResult
from bench.api.report import p_cell
from bench.board.blocks import chance_rows
from bench.render import boards
from bench.render.csv import block_rows, csv_text
from bench.render.json import groups_json
from bench.render.latex import latex
from bench.render.markdown import markdown
from bench.render.terminal import rich_table

PIXELS = 10_000
PREVALENCE = (0.1, 0.2, 0.3)  # of the images in turn
PATIENTS = [f"p{number // 2:02d}" for number in range(24)]
BOUNDARY = (
    "foreground_predicted",
    "foreground_true",
    "contour_predicted",
    "contour_true",
    "near_predicted",
    "near_true",
    "near_predicted_rel",
    "near_true_rel",
)


def record(
    name: str,
    quality: Sequence[float] | np.ndarray,
    *,
    patients: Sequence[str] | None = None,
    draws: int = 0,
    control: bool = False,
    flags: Sequence[str] = (),
) -> Record:
    """Return a run whose recall, precision and Dice on each image are `quality`, from 0 to 1.

    With `draws`, it is a few-shot run with equal draws.
    """
    images = tuple(f"i{number:03d}" for number in range(len(quality)))
    foreground = PIXELS * np.resize(PREVALENCE, len(images))
    tp = foreground * np.asarray(quality)
    missed = foreground - tp
    pixels = {"tp": tp, "fp": missed, "fn": missed, "tn": PIXELS - foreground - missed}
    contours = {name: tp if name.startswith("near") else foreground for name in BOUNDARY}
    counts = {key: tuple(values.tolist()) for key, values in (pixels | contours).items()}
    tags = [{"draw": draw, "shots": 5} for draw in range(draws)] or [{"fold": 0}]
    trials = tuple(TrialResult(tag, ("t",), 0.5, images, counts) for tag in tags)
    weights = "random" if control else "released"
    return Record(
        spec=changed_spec(SPEC, backbone={"name": name, "weights": weights}),
        facts={**FACTS, "random_twin": control},
        patients=dict(zip(images, patients or images, strict=True)),
        flags=tuple(flags),
        trials=trials,
    )


def board(records: Sequence[Record], **options: object) -> list[Block]:
    return registry.get("leaderboards", "ranking").rows(records, BoardOptions(**options))  # pyright: ignore


def four_models(images: int = 24, **shared: object) -> list[Record]:
    """Return two similar good models, a worse one, and an untrained control."""
    rng = np.random.default_rng(0)
    levels = {"good": 0.8, "better": 0.802, "worse": 0.6}
    noise = rng.normal(scale=0.03, size=(4, images))
    patients = shared.pop("patients", PATIENTS[:images])
    records = [
        record(name, level + own, patients=patients, **shared)  # pyright: ignore
        for (name, level), own in zip(levels.items(), noise, strict=False)
    ]
    return [*records, record("good", 0.3 + noise[3], patients=patients, control=True, **shared)]  # pyright: ignore


def shown(block: Block, width: int = 130) -> str:
    paper = Console(width=width, file=StringIO(), force_terminal=True, color_system="standard")
    paper.print(rich_table(boards.board_table(block)))
    assert isinstance(paper.file, StringIO)
    return paper.file.getvalue()


def test_rows_have_tiers_and_ranks_best_first():
    (block,) = board(four_models())
    standings = [row.standing for row in block.rows]
    assert [each and each.rank for each in standings] == [1, 2, 3, 4]
    assert [each and each.group_letters for each in standings] == ["a", "a", "b", "c"]
    assert [each and each.top for each in standings] == [True, True, False, False]
    assert block.verdict is not None
    assert (block.verdict.models, block.verdict.separated, block.verdict.controls) == (3, 2, 1)
    assert block.verdict.controls_below


def test_the_best_row_is_the_reference_unless_another_is_requested():
    records = four_models()
    (block,) = board(records)
    best = block.rows[0]
    assert (block.reference, block.reference_asked) == (best.backbone, False)
    assert best.standing is not None
    assert best.standing.difference is None
    (asked,) = board(records, reference="worse")
    assert (asked.reference, asked.reference_asked) == ("worse", True)
    minus = asked.rows[0].standing and asked.rows[0].standing.difference
    assert minus
    own, other = (row.scores["dice"].summary.mean for row in (asked.rows[0], asked.rows[2]))
    assert own is not None
    assert other is not None
    assert minus.mean == pytest.approx(own - other)
    assert "minus worse" in shown(asked)


def test_a_missing_reference_is_reported():
    (block,) = board(four_models(), reference="absent")
    assert "no row of the reference absent: no differences" in block.notes
    assert all(row.standing and row.standing.difference is None for row in block.rows)
    assert "minus" not in shown(block)


def test_chance_baselines_use_the_prevalence_of_each_image():
    (block,) = board(four_models())
    means = {row.baseline: row.means for row in block.chance}
    share = np.resize(PREVALENCE, 24)
    assert means["all background"]["dice"] == 0
    assert means["all background"]["dice_macro"] == pytest.approx(
        ((1 - share) / (2 - share)).mean()
    )
    assert means["all foreground"]["dice"] == pytest.approx((2 * share / (1 + share)).mean())
    assert means["random at prevalence"]["dice"] == pytest.approx(share.mean())
    assert all(each["bf1"] is None for each in means.values())


def test_a_row_that_is_not_above_chance_is_marked():
    blind = record("blind", [0.0] * 24, patients=PATIENTS)  # invents as much as it misses
    (block,) = board([*four_models(), blind])
    marks = {row.backbone: row.flags for row in block.rows}
    assert marks["blind"] == ("below chance (dice_macro)", "below chance (precision_macro)")
    assert marks["good"] == ()
    assert PIXELS * max(PREVALENCE) < PIXELS / 2


@pytest.mark.parametrize(
    ("p", "words"), [(None, "–"), (1e-5, "<0.001"), (0.00099, "<0.001"), (0.0104, "0.010")]
)
def test_a_p_value_is_never_shown_as_zero(p: float | None, words: str):
    assert str(p_cell(p)) == words


def test_flags_of_the_run_and_of_its_scores_are_combined():
    blind = record("blind", [0.0] * 24, patients=PATIENTS, flags=["untrained"])
    (block,) = board([blind])
    assert block.rows[0].flags[0] == "untrained"
    assert "below chance (dice_macro)" in block.rows[0].flags
    assert block.verdict
    assert block.verdict.sentence == "One model: there is nothing to rank."


@pytest.mark.parametrize("images", [4, 8])
def test_few_patients_are_reported(images: int):
    (block,) = board(four_models(images))
    assert block.verdict
    assert f"is possible with {images // 2} patients" in block.verdict.sentence
    assert "no interval of ranks below 5 patients" in block.notes
    assert all(row.standing and row.standing.group_letters == "" for row in block.rows)
    assert "Cannot rank" in shown(block)


@pytest.mark.parametrize("images", [4, 24])
def test_without_significant_pairs_no_output_has_bold_rows(images: int):
    patients = PATIENTS[:images]
    level = np.linspace(0.2, 0.8, images)
    runs = [record(name, level, patients=patients) for name in ("one", "two", "three")]
    (block,) = board(runs)
    assert block.verdict
    assert block.verdict.separated == 0
    rows = [line for line in shown(block, 200).splitlines() if "linear (8)" in line]
    assert not ["\x1b[1m" for line in rows if "\x1b[1m" in line]
    table = boards.file_table(block)
    assert r"\textbf" not in latex([table])
    assert r"\mathbf" not in latex([table])
    assert "**" not in markdown([table])
    assert ",no,1," in csv_text(block_rows(block))
    (group,) = json.loads(json.dumps(groups_json([block])))
    assert [row["tier"] for row in group["rows"]] == [""] * 3
    notes = " ".join(boards.board_notes([block]))
    assert "nothing is bold" in notes
    assert "share a letter" not in notes


def test_rows_with_the_same_mean_are_reported():
    same = np.random.default_rng(0).random(24)
    (block,) = board([record(name, same, patients=PATIENTS) for name in ("one", "two")])
    assert "= the same mean as another row: " in " ".join(block.notes)
    assert [row.standing and row.standing.rank for row in block.rows] == [1, 1]
    assert shown(block).count("=1 (1–2)") == 2


def test_few_shot_ranks_are_conditional_on_the_support_sets():
    (block,) = board(four_models(draws=5))
    assert any("these support sets" in note for note in block.notes)
    assert [row.standing and row.standing.group_letters for row in block.rows] == [
        "a",
        "a",
        "b",
        "c",
    ]


def test_runs_on_other_images_are_in_another_block():
    fewer = record("other", [0.5] * 20, patients=PATIENTS[:20])
    blocks = board([*four_models(), fewer])
    assert sorted(len(block.rows) for block in blocks) == [1, 4]


def test_the_top_tier_is_bold_and_chance_is_dim_below_a_rule():
    (block,) = board(four_models())
    lines = shown(block).splitlines()
    rows = [line for line in lines if "linear (8)" in line]
    assert ["\x1b[1m" in line for line in rows] == [True, True, False, False]
    rules = [number for number, line in enumerate(lines) if "────" in line]
    dim = [number for number, line in enumerate(lines) if "all background" in line]
    assert len(rules) == 2
    assert dim[0] == rules[1] + 1
    assert "\x1b[2m" in lines[dim[0]]
    assert "–" in lines[dim[0]]


def test_the_verdict_and_the_meaning_of_a_tier_are_below_the_table():
    (block,) = board(four_models())
    assert "Ranks in part: 2 of 3 pairs of 3 models differ significantly" in shown(block, 200)
    notes = " ".join(boards.board_notes([block]))
    assert "share a letter are not separable" in notes


def test_the_json_of_a_leaderboard_is_complete():
    (block,) = board(four_models())
    (group,) = json.loads(json.dumps(groups_json([block])))
    second = group["rows"][1]
    assert (second["tier"], second["top"], second["rank"]) == ("a", True, 2)
    assert (second["rank_low"], second["rank_high"]) == (1, 2)
    assert second["minus_reference"]["mean"] < 0
    assert second["holm_p"] > 0.05
    assert group["rows"][0]["minus_reference"] is None
    assert group["reference"] == group["rows"][0]["backbone"]
    assert group["verdict"]["pairs"] == 3
    assert group["chance"][0]["baseline"] == "all background"


def test_a_run_without_pixel_counts_has_no_chance_baselines():
    own = four_models()[0]
    trial = own.trials[0]
    others = {name: own for name, own in trial.counts.items() if name not in ("tp", "tn")}
    bare = replace(own, trials=(replace(trial, counts=others),))
    assert chance_rows(bare, ["bf1"]) == []
