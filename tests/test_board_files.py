"""Leaderboards as CSV, LaTeX and Markdown, with the printed scores of the paper."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
from small_runs import FEWSHOT, altered, named, request, run, squares, worse

from bench import registry
from bench.api.board import Block, BoardOptions
from bench.api.record import Record
from bench.api.report import Cell, Table
from bench.paper.lint import suspect
from bench.paper.printed_rows import (
    HEADING,
    csv_rows,
    our_name,
    printed_rows,
    printed_table,
    shots_of,
)
from bench.paper.published import cells
from bench.render.boards import file_table
from bench.render.csv import block_rows, csv_text
from bench.render.latex import escape as escape_latex
from bench.render.latex import latex
from bench.render.markdown import escape as escape_markdown
from bench.render.markdown import markdown

OPTIONS = BoardOptions(resamples=200)
NASTY = r"=1+1|a_b & 50% \x{y} $z$ #1 <b>*bold*</b> `c` ~^" + '"quoted"'


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Record:
    home = tmp_path_factory.mktemp("home")
    return run(request(squares(home / "squares")), home).record


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Record:
    home = tmp_path_factory.mktemp("home")
    return run(request(squares(home / "squares", count=6), **FEWSHOT), home).record


def _blocks(records: list[Record], **changes: object) -> list[Block]:
    return registry.get("leaderboards", "ranking").rows(records, replace(OPTIONS, **changes))


def _csv(*blocks: Block) -> list[dict[str, str]]:
    text = csv_text(line for block in blocks for line in block_rows(block))
    return list(csv.DictReader(io.StringIO(text)))


def _latex(*blocks: Block) -> str:
    return latex([file_table(block) for block in blocks])


def _markdown(*blocks: Block) -> str:
    return markdown([file_table(block) for block in blocks])


def test_the_csv_has_a_line_for_each_run_and_score_with_the_numbers_of_the_board(full):
    (block,) = _blocks([full, worse(named(full, "b"), 0.5)])
    lines = _csv(block)
    assert len(lines) == 2 * 3
    for row in block.rows:
        for name, score in row.scores.items():
            (line,) = [e for e in lines if (e["run_id"], e["metric"]) == (row.record.run_id, name)]
            assert float(line["mean"]) == score.summary.mean
            assert float(line["ci_low"]) == score.summary.interval.low
            assert int(line["n_patients"]) == 7
            assert line["source"] == "run"
            assert line["dataset"] == "squares"
            assert bool(line["tier"]) == (name == "dice")


@pytest.mark.fault(24)
def test_a_name_that_is_a_formula_stays_text_in_the_csv(full):
    lines = _csv(*_blocks([named(full, NASTY)]))
    assert {line["backbone"] for line in lines} == {f"'{NASTY}"}
    assert all(not value.startswith(("=", "+", "@")) for line in lines for value in line.values())


def _latex_rows(text: str) -> list[list[str]]:
    """Read the rows of the tables, split where LaTeX would split them."""
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    return [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in body]


def _balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text.replace(r"\\", "")):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def test_the_latex_has_as_many_cells_in_each_row_as_columns(full):
    (block,) = _blocks([full, worse(named(full, NASTY), 0.9)])
    text = _latex(block)
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    rows = _latex_rows(text)
    assert len(rows) == 1 + 2 + len(block.chance)
    assert {len(row) for row in rows} == {len(columns)}
    assert _balanced(text)
    for rule in ("toprule", "midrule", "bottomrule"):
        assert rf"\{rule}" in text


@pytest.mark.fault(24)
def test_nothing_of_a_name_is_a_command_of_latex(full):
    text = _latex(*_blocks([named(full, NASTY)]))
    assert escape_latex(NASTY) in text
    for letter in "&%$#_":
        assert not re.search(rf"(?<!\\)\{letter}", escape_latex(NASTY).replace(r"\$", ""))
    outside = re.sub(r"(?<!\\)\$.*?(?<!\\)\$", "", text)  # without formulas
    assert not re.search(r"(?<!\\)[_^#]", outside.replace(r"\usepackage", ""))


def test_the_top_tier_is_bold_and_only_that(full):
    (block,) = _blocks([full, worse(named(full, "bad"), 0.9)])
    top = {row.backbone: bool(row.standing and row.standing.top) for row in block.rows}
    assert top == {"rgb": True, "bad": False}
    for text, bold in (
        (_latex(block), r"\textbf{rgb}"),
        (_markdown(block), "**rgb**"),
    ):
        assert bold in text
        assert bold.replace("rgb", "bad") not in text
    row = next(each for each in block.rows if each.backbone == "rgb")
    score = row.scores["dice"].summary
    assert score.interval.low is not None
    small = rf"_{{[{score.interval.low:.3f},\,{score.interval.high:.3f}]}}"
    assert rf"\mathbf{{{score.mean:.3f}}}{small}" in _latex(block)


def test_ties_with_the_best_are_said_in_a_note(full):
    text = _markdown(*_blocks([full, named(full, "twin"), worse(named(full, "bad"), 0.9)]))
    (note,) = re.findall(r"^- tied.*$", text, re.MULTILINE)
    assert "rgb" in note
    assert "twin" in note
    assert "bad" not in note


def _pipes(text: str) -> list[list[str]]:
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in rows]


def test_the_markdown_has_as_many_cells_in_each_row_as_columns(full):
    blocks = _blocks([named(full, NASTY), worse(full, 0.5)])
    rows = _pipes(_markdown(*blocks))
    assert len({len(row) for row in rows}) == 1
    assert set("".join(rows[1])) <= set(" -:")
    assert any(row[2].strip().strip("*") == escape_markdown(NASTY) for row in rows)
    assert "<b>" not in _markdown(*blocks)


def test_few_patients_stand_in_the_place_of_an_interval(few):
    (block,) = _blocks([few])
    means = block.rows[0].scores["dice"].patient_means
    assert len(means) == 3
    assert "{" + ", ".join(f"{each:.3f}" for each in means) + "}" in _markdown(block)
    assert rf"_{{\{{{means[0]:.3f},\,{means[1]:.3f},\,{means[2]:.3f}\}}}}" in _latex(block)
    assert {line["ci_low"] for line in _csv(block)} == {""}


def test_a_missing_row_is_said_in_every_form(full, few):
    blocks = _blocks([full, named(full, "b"), few])
    for text in (_markdown(*blocks), _latex(*blocks)):
        assert len(re.findall("not run: b", text)) == 1


@pytest.mark.fault(24)
def test_a_name_with_a_line_break_stays_on_its_line():
    tables = [Table("t", ["a", "b"], [["x\ny", "z\r\x1b[31m"]])]
    assert len(_pipes(markdown(tables))) == 3
    assert len(_latex_rows(latex(tables))) == 2
    assert "\x1b" not in markdown(tables) + latex(tables)


def _of_paper(record: Record, name: str) -> Record:
    facts = {**record.facts, "dataset": name, "scored": name}
    return replace(altered(record, dataset={"name": name}, scored={"name": name}), facts=facts)


def test_printed_rows_are_those_of_the_data_set_and_of_the_scores_shown(full):
    (block,) = _blocks([_of_paper(full, "cpm17")])
    rows = printed_rows(block)
    shown = {(row.table, row.method) for row in rows}
    assert ("4", "UNI") in shown
    assert ("1", "DiT") in shown
    assert all(shots_of(each) is None for row in rows for each in row.cells.values())
    assert {name for row in rows for name in row.cells} == {"dice_macro", "bf1"}
    assert all(our_name(e.dataset) == "cpm17" for row in rows for e in row.cells.values())


def test_a_few_shot_block_has_the_printed_rows_of_as_many_shots(few):
    for shots, wanted in ((5, 5), (2, 0)):
        (block,) = _blocks([altered(_of_paper(few, "tnbc"), protocol={"shots": shots})])
        rows = printed_rows(block)
        assert len(rows) == wanted
        assert {row.setting for row in rows} <= {f"{shots}-shot"}


def test_printed_numbers_are_as_printed_and_in_doubt_where_the_lint_says_so(full):
    (block,) = _blocks([_of_paper(full, "cpm15")])
    rows = printed_rows(block)
    shown = printed_table(rows)
    assert shown.title == HEADING
    for row, line in zip(rows, shown.rows, strict=True):
        cell, printed = line[3], row.cells["dice_macro"]
        assert isinstance(cell, Cell)
        score = printed.printed
        assert (cell.value, cell.low, cell.high) == (score.mean, score.low, score.high)
        assert bool(cell.mark) == bool(suspect(printed))
    marks = {cell.mark for line in shown.rows for cell in line if isinstance(cell, Cell)}
    assert marks == {"", "?"}


def test_printed_rows_never_pass_for_runs(full):
    (block,) = _blocks([_of_paper(full, "tnbc")])
    lines = list(csv_rows(block, printed_rows(block)))
    assert all("not comparable" in str(line["source"]) and "run_id" not in line for line in lines)
    wanted = [
        cell
        for cell in cells("cmd_paper")
        if cell.dataset == "TNBC" and shots_of(cell) is None and cell.score != "Precision"
    ]
    assert len(lines) == len(wanted)


def test_another_set_has_no_printed_rows(full):
    (block,) = _blocks([full])
    assert printed_rows(block) == []


def test_nothing_is_ever_averaged_over_blocks(full, few):
    blocks = _blocks([full, _of_paper(full, "tnbc"), few])
    means = {line["mean"] for line in _csv(*blocks)}
    own = {str(s.summary.mean) for b in blocks for row in b.rows for s in row.scores.values()}
    assert means == own
