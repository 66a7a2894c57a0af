"""Leaderboards as CSV, LaTeX and Markdown, with the printed scores of the paper."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from tiny import altered, named, request, run, squares, worse

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
from bench.render.terminal import rich_table

SPECIAL = r"=1+1|a_b & 50% \x{y} $z$ #1 <b>*bold*</b> `c` ~^" + '"quoted"'


def blocks_of(*records: Record) -> list[Block]:
    return registry.get("leaderboards", "ranking").rows(records, BoardOptions(resamples=200))


def csv_of(*blocks: Block) -> list[dict[str, str]]:
    text = csv_text(line for block in blocks for line in block_rows(block))
    return list(csv.DictReader(io.StringIO(text)))


def latex_of(*blocks: Block) -> str:
    return latex([file_table(block) for block in blocks])


def markdown_of(*blocks: Block) -> str:
    return markdown([file_table(block) for block in blocks])


def latex_rows(text: str) -> list[list[str]]:
    """Return the cells of the rows of all tables, split where LaTeX splits them."""
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    return [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in body]


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]


def test_the_csv_has_a_line_for_each_run_and_score_with_the_numbers_of_the_board(full):
    (block,) = blocks_of(full, worse(named(full, "b"), 0.5))
    lines = {(line["run_id"], line["metric"]): line for line in csv_of(block)}
    assert len(lines) == 2 * 4
    for row in block.rows:
        for name, score in row.scores.items():
            line = lines[row.record.run_id, name]
            assert float(line["mean"]) == score.summary.mean
            assert float(line["ci_low"]) == score.summary.interval.low
            assert (line["n_patients"], line["source"], line["dataset"]) == ("7", "run", "squares")
            assert bool(line["decision"]) == (name == "dice")


@pytest.mark.fault(24)
def test_special_characters_in_a_name_are_escaped_in_every_format(full):
    (block,) = blocks_of(named(full, SPECIAL), worse(full, 0.9))
    lines = csv_of(block)
    assert {line["backbone"] for line in lines} == {f"'{SPECIAL}", "rgb"}
    assert all(not value.startswith(("=", "+", "@")) for line in lines for value in line.values())

    text = latex_of(block)
    escaped = escape_latex(SPECIAL)
    assert escaped in text
    for letter in "&%$#_":
        assert not re.search(rf"(?<!\\)\{letter}", escaped.replace(r"\$", ""))
    outside = re.sub(r"(?<!\\)\$.*?(?<!\\)\$", "", text)  # without formulas
    assert not re.search(r"(?<!\\)[_^#]", outside.replace(r"\usepackage", ""))
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text.replace(r"\\", "")):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0

    rows = markdown_rows(markdown_of(block))
    assert any(row[0].strip().strip("*") == escape_markdown(SPECIAL) for row in rows)
    assert "<b>" not in markdown_of(block)


def test_rows_of_tables_have_one_cell_per_column(full):
    (block,) = blocks_of(named(full, SPECIAL), worse(full, 0.9))
    text = latex_of(block)
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    rows = latex_rows(text)
    assert len(rows) == 1 + 2 + len(block.chance)
    assert {len(row) for row in rows} == {len(columns)}
    assert all(rf"\{rule}" in text for rule in ("toprule", "midrule", "bottomrule"))
    rows = markdown_rows(markdown_of(block))
    assert len({len(row) for row in rows}) == 1
    assert set("".join(rows[1])) <= set(" -:")


@pytest.mark.fault(24)
def test_line_breaks_and_control_characters_are_removed():
    tables = [Table("t", ["a", "b"], [["x\ny", "z\r\x1b[31m"]])]
    assert len(markdown_rows(markdown(tables))) == 3
    assert len(latex_rows(latex(tables))) == 2
    assert "\x1b" not in markdown(tables) + latex(tables)


@pytest.mark.fault(24, 37)
@pytest.mark.parametrize(
    ("name", "in_csv"),
    [
        (" =1+1", "' =1+1"),
        ("\t@x", "'\t@x"),
        ("\u3000＝1", "'\u3000＝1"),
        *[(sign, f"'{sign}") for sign in ("－1", "＋1", "＠x")],
        ("\x1b[2Jx\u202e", r"\x1b[2Jx\u202e"),
        ("ViT－L =1", "ViT－L =1"),
    ],
)
def test_formulas_and_control_characters_are_escaped_in_csv_and_on_a_terminal(name, in_csv):
    (line,) = csv.DictReader(io.StringIO(csv_text([{"backbone": name}])))
    assert line["backbone"] == in_csv
    page = Console(file=io.StringIO())
    with page.capture() as captured:
        page.print(rich_table(Table(name, [name], [[name]], notes=[name])))
    assert not re.search("[\x1b\u202e]", captured.get())


def test_only_the_best_and_the_tied_rows_are_bold(full):
    (block,) = blocks_of(full, worse(named(full, "bad"), 0.9))
    for text, bold in ((latex_of(block), r"\textbf{rgb}"), (markdown_of(block), "**rgb**")):
        assert bold in text
        assert bold.replace("rgb", "bad") not in text
    score = block.rows[0].scores["dice"].summary
    assert score.interval.low is not None
    small = rf"_{{[{score.interval.low:.3f},\,{score.interval.high:.3f}]}}"
    assert rf"\mathbf{{{score.mean:.3f}}}{small}" in latex_of(block)
    rows = markdown_rows(
        markdown_of(*blocks_of(full, named(full, "b"), worse(named(full, "c"), 0.9)))
    )
    bold = {row[0].strip(): "**" in row[0] for row in rows[2:5]}
    assert bold == {"**rgb**": True, "**b**": True, "c": False}


def test_the_means_of_few_patients_replace_the_interval(tmp_path):
    record = run(request(squares(tmp_path / "squares", count=6)), tmp_path).record
    (block,) = blocks_of(record)
    means = block.rows[0].scores["dice"].patient_means
    assert len(means) == 3
    assert "{" + ", ".join(f"{mean:.3f}" for mean in means) + "}" in markdown_of(block)
    assert rf"_{{\{{{means[0]:.3f},\,{means[1]:.3f},\,{means[2]:.3f}\}}}}" in latex_of(block)
    assert {line["ci_low"] for line in csv_of(block)} == {""}


def test_a_missing_run_is_noted(full, few):
    blocks = blocks_of(full, named(full, "b"), few)
    for text in (markdown_of(*blocks), latex_of(*blocks)):
        assert len(re.findall("not run: b", text)) == 1


# ---- printed scores of the paper -------------------------------------------------------------


def on_dataset(record: Record, name: str, **changes: object) -> Block:
    """Return the block of a run on a data set of the paper."""
    facts = {**record.facts, "dataset": name, "scored": name}
    spec = altered(record, dataset={"name": name}, scored={"name": name}, **changes).spec
    (block,) = blocks_of(replace(record, spec=spec, facts=facts))
    return block


def test_printed_rows_have_the_data_set_and_the_scores_of_the_block(full):
    rows = printed_rows(on_dataset(full, "cpm17"))
    assert {("4", "UNI"), ("1", "DiT")} <= {(row.table, row.method) for row in rows}
    printed = [cell for row in rows for cell in row.cells.values()]
    assert {name for row in rows for name in row.cells} == {"dice_macro", "bf1"}
    assert all(shots_of(cell) is None for cell in printed)
    assert all(our_name(cell.dataset) == "cpm17" for cell in printed)
    assert printed_rows(blocks_of(full)[0]) == []  # not a data set of the paper


def test_printed_rows_have_the_number_of_shots_of_the_block(few):
    for shots, count in ((5, 5), (2, 0)):
        rows = printed_rows(on_dataset(few, "tnbc", protocol={"shots": shots}))
        assert len(rows) == count
        assert {row.setting for row in rows} <= {f"{shots}-shot"}


def test_printed_numbers_are_unchanged_and_marked_if_inconsistent(full):
    rows = printed_rows(on_dataset(full, "cpm15"))
    table = printed_table(rows)
    assert table.title == HEADING
    for row, line in zip(rows, table.rows, strict=True):
        cell, printed = line[3], row.cells["dice_macro"]
        assert isinstance(cell, Cell)
        score = printed.printed
        assert (cell.value, cell.low, cell.high) == (score.mean, score.low, score.high)
        assert bool(cell.mark) == bool(suspect(printed))
    marks = {cell.mark for line in table.rows for cell in line if isinstance(cell, Cell)}
    assert marks == {"", "?"}


def test_printed_rows_in_the_csv_are_marked_as_not_comparable(full):
    block = on_dataset(full, "tnbc")
    lines = list(csv_rows(block, printed_rows(block)))
    assert all("not comparable" in str(line["source"]) and "run_id" not in line for line in lines)
    expected = [
        cell
        for cell in cells("cmd_paper")
        if cell.dataset == "TNBC" and shots_of(cell) is None and cell.score != "Precision"
    ]
    assert len(lines) == len(expected)
