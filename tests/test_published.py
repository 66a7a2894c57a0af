"""Reading printed numbers, and the checks for inconsistencies in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bench.errors import BenchError
from bench.paper import lint
from bench.paper.lint import find_shift
from bench.paper.published import Printed, PrintedCell, cells, printed

PAPER = cells("cmd_paper")
FINDINGS = lint.lint(PAPER)


def of_kind(kind: str) -> list[lint.LintFinding]:
    return [finding for finding in FINDINGS if finding.kind == kind]


def cell(table: str, method: str, dataset: str, score: str, setting: str = "") -> PrintedCell:
    key = (table, method, dataset, score)
    (match,) = [
        c
        for c in PAPER
        if (c.table, c.method, c.dataset, c.score) == key and setting in ("", c.setting)
    ]
    return match


# ---- reading ---------------------------------------------------------------------------------


def test_all_cells_of_the_paper_are_read():
    per_table = {"1": 30, "2": 30, "3": 20, "4": 138, "5": 60, "6": 24, "7": 12, "C1": 12}
    assert Counter(c.table for c in PAPER) == per_table
    assert len(PAPER) == 326
    places = {(c.table, c.setting, c.method, c.dataset, c.score) for c in PAPER}
    assert len(places) == 326


def test_percents_and_fractions_are_converted_to_fractions():
    assert printed("cmd_paper", 1)["DiT", "CPM-15", "Dice"] == Printed(0.4439, 0.3874, 0.5004)
    assert printed("cmd_paper", 4)["UNI", "TNBC", "Dice"] == Printed(0.833, 0.79, 0.85)
    assert cell("1", "DiT", "CPM-15", "Dice").digit == pytest.approx(0.0001)
    assert cell("4", "UNI", "TNBC", "Dice").digit == pytest.approx(0.001)
    assert all(0 <= c.printed.low <= c.printed.high <= 1 for c in PAPER)


def test_a_table_with_several_settings_must_be_read_by_cell():
    with pytest.raises(BenchError, match="10-shot"):
        printed("cmd_paper", 5)
    one_shot = cell("5", "CMD-L", "TNBC", "Dice", "1-shot")
    assert one_shot.printed == Printed(0.714, 0.618, 0.817)


def test_the_error_for_an_unknown_paper_lists_the_valid_names():
    with pytest.raises(BenchError, match="cmd_paper"):
        cells("no_paper")
    with pytest.raises(BenchError, match="no scores"):
        cells("cmd_paper_params")


# ---- inconsistencies of the paper ------------------------------------------------------------


def test_eighteen_intervals_of_table_4_exclude_their_mean():
    counts = {finding.cells[0].method: len(finding.cells) for finding in of_kind(lint.EXCLUDED)}
    assert counts == {"Kaiko": 5, "Midnight-12k": 5, "MUSK": 6, "Virchow": 2}
    assert {finding.table for finding in of_kind(lint.EXCLUDED)} == {"4"}


def test_the_intervals_from_h_optimus_0_to_virchow_are_one_row_too_low():
    (shift,) = of_kind(lint.SHIFTED)
    assert (shift.table, len(shift.cells)) == ("4", 60)
    assert (shift.cells[0].method, shift.cells[-1].method) == ("H-Optimus-0", "Virchow")
    assert "60 of 60 contain their mean; as printed, 42" in shift.description


def test_virchow_and_virchow2_have_identical_means():
    (finding,) = of_kind(lint.SAME_MEANS)
    assert {cell.method for cell in finding.cells} == {"Virchow", "Virchow2"}
    assert len(finding.cells) == 12


def test_all_means_on_cpm15_in_the_rows_of_the_papers_method_are_midpoints():
    counts = {finding.table: len(finding.cells) for finding in of_kind(lint.MIDPOINT)}
    assert counts == {"1": 6, "2": 6, "3": 4, "4": 4, "6": 8, "7": 4}
    midpoints = [cell for finding in of_kind(lint.MIDPOINT) for cell in finding.cells]
    assert {cell.dataset for cell in midpoints} == {"CPM-15"}
    of_table_4 = {cell.method for cell in midpoints if cell.table == "4"}
    assert of_table_4 == {"CMD-L linear probe", "CMD-L + SegHead: Fig. B2(A)"}


def test_twenty_precisions_are_at_chance_level():
    findings = of_kind(lint.AT_CHANCE)
    assert {(f.table, f.cells[0].method): len(f.cells) for f in findings} == {
        ("4", "VISTA [40]"): 2,
        ("5", "UNI2-h"): 6,
        ("5", "H-optimus-1"): 6,
        ("5", "TransUNet"): 5,
        ("5", "ViT-Adapter"): 1,
    }
    assert not any(finding.suspect for finding in findings)


def test_rows_printed_in_two_tables_are_reported():
    findings = of_kind(lint.REPEATED)
    pairs = Counter((finding.table, len(finding.cells) // 2) for finding in findings)
    assert pairs == {("1", 10): 1, ("2", 10): 1, ("4", 3): 1, ("4", 4): 2, ("6", 3): 1, ("6", 2): 1}
    assert not any(finding.suspect for finding in findings)


def test_suspect_returns_the_reasons_of_an_inconsistent_cell_only():
    for key, reasons in [
        (("4", "MUSK"), "interval excludes its mean; intervals moved by a row"),
        (("4", "Virchow2"), "identical means"),
        (("4", "ViT-Adapter"), ""),
        (("5", "UNI2-h"), ""),
    ]:
        setting = "1-shot" if key[0] == "5" else ""
        assert lint.suspect(cell(*key, "TNBC", "Dice", setting)) == reasons


# ---- synthetic tables ------------------------------------------------------------------------


def score(mean: float) -> Printed:
    return Printed(round(mean, 3), round(mean - 0.031, 3), round(mean + 0.034, 3))


def rows(moved: slice = slice(0), step: int = 1) -> list[list[PrintedCell]]:
    """Return six rows; those in `moved` have the intervals of the rows `step` above them."""
    means = 0.3 + 0.1 * np.arange(6)[:, None] + 0.01 * np.arange(4)
    source = np.arange(6)
    source[moved] -= step
    table = []
    for i, row in enumerate(means):
        cells = []
        for j, mean in enumerate(row):
            shown = replace(score(means[source[i], j]), mean=round(mean, 3))
            cells.append(PrintedCell("toy", "1", "", f"m{i}", f"s{j}", "Dice", shown, 0.001))
        table.append(cells)
    return table


@pytest.mark.parametrize(("moved", "step"), [(slice(2, 5), 1), (slice(1, 4), -1)])
def test_intervals_shifted_down_or_up_are_found(moved: slice, step: int):
    shift = find_shift(rows(moved, step))
    assert shift is not None
    assert shift.step == step
    assert shift.inside == 4 * len(shift.rows)
    assert shift.inside_as_printed < shift.inside


def test_a_consistent_table_has_no_findings():
    assert find_shift(rows()) is None
    assert lint.lint([c for row in rows() for c in row]) == []
