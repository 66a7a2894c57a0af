"""The ranking of a leaderboard: decisions, seeds of controls, chance baselines and verdict."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from tiny import FACTS, SPEC, changed_spec

from bench import registry
from bench.api.board import BEST, TIED, WORSE, Block, BoardOptions, Standing
from bench.api.record import Record, TrialResult
from bench.api.report import p_cell
from bench.board.blocks import chance_rows
from bench.board.scores import scores_of_images
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
    control: int | None = None,
    flags: Sequence[str] = (),
) -> Record:
    """Return a run whose recall, precision and Dice on each image are `quality`, from 0 to 1.

    With `draws`, it is a few-shot run with equal draws; `control` is the seed of random weights.
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
    weights = "released" if control is None else f"random:{control}"
    flags = [*flags, *(["untrained"] if control is not None else [])]
    return Record(
        spec=changed_spec(SPEC, backbone={"name": name, "weights": weights}),
        facts={**FACTS, "random_twin": control is not None},
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
        record(name, level + deviations, patients=patients, **shared)  # pyright: ignore
        for (name, level), deviations in zip(levels.items(), noise, strict=False)
    ]
    return [*records, record("good", 0.3 + noise[3], patients=patients, control=0, **shared)]  # pyright: ignore


def shown(block: Block, width: int = 130) -> str:
    paper = Console(width=width, file=StringIO(), force_terminal=True, color_system="standard")
    paper.print(rich_table(boards.board_table(block)))
    assert isinstance(paper.file, StringIO)
    return paper.file.getvalue()


def model_rows(text: str) -> list[str]:
    """Return the first line of each row of a model: those with 8 weights and an input of 32 px."""
    lines = text.splitlines()
    return [line for line in lines if re.search(r" 8 +32 ", re.sub(r"\x1b\[\d*m", " ", line))]


def standings(block: Block) -> list[Standing]:
    return [row.standing for row in block.rows if row.standing]


def decisions(block: Block) -> list[str]:
    return [standing.decision for standing in standings(block)]


def test_rows_have_a_rank_and_one_decision_best_first():
    for draws in (0, 5):
        (block,) = board(four_models(draws=draws))
        assert [standing.rank for standing in standings(block)] == [1, 2, 3, 4]
        assert decisions(block) == [BEST, TIED, WORSE, WORSE]
        conditional = [note for note in block.notes if "these support sets" in note]
        assert bool(conditional) == bool(draws)  # differences do not vary over few-shot draws
    assert block.verdict is not None
    assert (block.verdict.models, block.verdict.separated, block.verdict.controls) == (3, 2, 1)
    assert block.verdict.controls_below


def test_the_best_row_is_the_reference_unless_another_is_requested():
    records = four_models()
    (block,) = board(records)
    assert block.reference == ""
    assert standings(block)[0].difference is None
    assert "minus the best" in " ".join(shown(block, 200).split())
    (block,) = board(records, reference="worse")
    assert block.reference == "worse"
    minus = standings(block)[0].difference
    means = [row.scores["dice"].summary.mean or np.nan for row in block.rows]
    assert minus
    assert minus.mean == pytest.approx(means[0] - means[2])
    assert "minus worse" in " ".join(shown(block, 200).split())
    assert decisions(block) == [BEST, TIED, WORSE, WORSE]  # about the best, not the reference
    (block,) = board(records, reference="absent")
    assert "no row of the reference absent: differences to the best row" in block.notes
    (block,) = board(records, reference="good")  # the label of the trained row, not of the control
    assert block.rows[[row.backbone for row in block.rows].index("good")].standing == Standing(
        rank=2, decision=TIED, difference=None, holm_p=None
    )


def test_several_seeds_of_an_untrained_control_are_one_row():
    records = four_models()
    rng = np.random.default_rng(1)
    levels = [0.3, 0.32, 0.34]
    runs = [
        record("good", level + rng.normal(scale=0.02, size=24), patients=PATIENTS, control=seed)
        for seed, level in enumerate(levels)
    ]
    (single,) = board(records[:3] + runs[:1])
    (block,) = board(records[:3] + runs)
    row = block.rows[-1]
    assert row.backbone == "good (random, 3 seeds)"
    assert [run.run_id for run in row.runs] == [run.run_id for run in runs]
    means = [scores_of_images(run, "dice").mean() for run in runs]
    summary = row.scores["dice"].summary
    assert summary.mean == pytest.approx(np.mean(means))
    assert summary.spread == pytest.approx(np.std(means, ddof=1))
    # Holm counts the control once: the p values of the others are those with a single seed
    assert [each.holm_p for each in standings(block)[:3]] == [
        each.holm_p for each in standings(single)[:3]
    ]
    assert block.verdict
    assert (block.verdict.controls, block.verdict.control_pairs) == (1, 3)
    (group,) = json.loads(json.dumps(groups_json([block])))
    assert group["rows"][-1]["runs"] == [run.run_id for run in runs]
    assert group["rows"][-1]["scores"]["dice"]["spread_over_draws"] == pytest.approx(summary.spread)
    assert " ± " in shown(block, 200)
    assert len(board([runs[0], record("good", [0.5] * 24, patients=PATIENTS)])[0].rows) == 2
    for reference in (row.backbone, "good@random", "good@random:2", "good (random:1)"):
        assert board(records[:3] + runs, reference=reference)[0].reference == row.backbone


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


def test_rows_not_above_chance_are_marked_and_keep_the_flags_of_the_run():
    blind = record("blind", [0.0] * 24, patients=PATIENTS, flags=["untrained"])
    (block,) = board([*four_models(), blind])
    flags = {row.backbone: row.flags for row in block.rows}
    assert flags["blind"] == (
        "untrained",
        "below chance (dice_macro)",
        "below chance (precision_macro)",
    )
    assert flags["good"] == ()
    (block,) = board([blind])
    assert decisions(block) == [""]
    assert block.verdict
    assert block.verdict.sentence == "One model: there is nothing to rank."


def test_a_p_value_is_never_shown_as_zero():
    for p, text in [(None, "–"), (1e-5, "<0.001"), (0.00099, "<0.001"), (0.0104, "0.010")]:
        assert str(p_cell(p)) == text


@pytest.mark.parametrize("images", [4, 8])
def test_few_patients_are_reported(images: int):
    (block,) = board(four_models(images))
    assert block.verdict
    assert f"is possible with {images // 2} patients" in block.verdict.sentence
    assert decisions(block) == [""] * 4
    assert "Cannot rank" in shown(block)


@pytest.mark.parametrize("images", [4, 24])
def test_without_significant_pairs_no_output_has_bold_rows(images: int):
    patients = PATIENTS[:images]
    level = np.linspace(0.2, 0.8, images)
    runs = [record(name, level, patients=patients) for name in ("one", "two", "three")]
    (block,) = board(runs)
    assert block.verdict
    assert block.verdict.separated == 0
    rows = model_rows(shown(block, 200))
    assert len(rows) == 3
    assert not ["\x1b[1m" for line in rows if "\x1b[1m" in line]
    table = boards.file_table(block)
    assert r"\textbf" not in latex([table])
    assert r"\mathbf" not in latex([table])
    assert "**" not in markdown([table])
    expected = ["", "", ""] if images == 4 else [BEST, TIED, TIED]
    assert decisions(block) == expected
    assert [standing.rank for standing in standings(block)] == [1, 1, 1]  # the same mean


def test_runs_on_other_images_are_in_another_block():
    fewer = record("other", [0.5] * 20, patients=PATIENTS[:20])
    blocks = board([*four_models(), fewer])
    assert sorted(len(block.rows) for block in blocks) == [1, 4]


def test_the_best_and_tied_rows_are_bold_and_chance_is_dim_below_a_rule():
    (block,) = board(four_models())
    lines = shown(block, 200).splitlines()
    rows = model_rows(shown(block, 200))
    assert ["\x1b[1m" in line for line in rows] == [True, True, False, False]
    rules = [number for number, line in enumerate(lines) if "────" in line]
    dim = [number for number, line in enumerate(lines) if "all background" in line]
    assert len(rules) == 2
    assert dim[0] == rules[1] + 1
    assert "\x1b[2m" in lines[dim[0]]
    assert "–" in lines[dim[0]]
    assert "2 of 3 pairs of 3 models differ significantly" in "\n".join(lines)


def test_every_format_states_the_same_decisions_and_the_rule():
    (block,) = board(four_models())
    (group,) = json.loads(json.dumps(groups_json([block])))
    lines = list(csv.DictReader(io.StringIO(csv_text(block_rows(block)))))
    in_csv = [line["decision"] for line in lines if line["metric"] == "dice"]
    table = boards.file_table(block)
    in_table = [str(row[table.names.index("decision")]) for row in table.rows]
    assert decisions(block) == in_csv == in_table == [row["decision"] for row in group["rows"]]
    texts = latex([table]), markdown([table]), " ".join(boards.board_notes([block]))
    assert all("tied with the best unless the adjusted p" in text for text in texts)
    assert all(text.count("tied with the best") == 2 for text in texts[:2])
    second = group["rows"][1]
    line = next(line for line in lines if line["run_id"] == second["run_id"])
    assert float(line["minus_reference"]) == second["minus_reference"]["mean"] < 0
    assert float(line["holm_p"]) == second["holm_p"] > 0.05
    assert group["rows"][0]["minus_reference"] is None
    assert (group["reference"], second["rank"]) == (group["rows"][0]["backbone"], 2)
    assert (group["view"], group["recipe"]["epochs"]) == ({"kind": "whole", "px": 32}, 150)
    assert group["verdict"]["pairs"] == 3
    assert group["chance"][0]["baseline"] == "all background"


def test_a_run_without_pixel_counts_has_no_chance_baselines():
    run = four_models()[0]
    (trial,) = run.trials
    counts = {name: values for name, values in trial.counts.items() if name not in ("tp", "tn")}
    assert chance_rows(replace(run, trials=(replace(trial, counts=counts),)), ["bf1"]) == []
