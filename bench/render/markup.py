"""Tables for papers and pages: a sheet of cells written as LaTeX (booktabs) or as Markdown.

Names come from records that others made, so everything that either language could take for its own
is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "·": r"\textperiodcentered{}",
    "–": "--",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    **{each: f"\\{each}" for each in "&%$#_"},
    **{digit: rf"\textsubscript{{{number}}}" for number, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")},
}
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")  # in words; the rest needs the start of a line


@dataclass(frozen=True)
class Cell:
    """Words, or a number with what stands small beside it.

    Attributes:
        words: shown as they are.
        value: of the number, in place of words.
        low, high: of its interval.
        parts: in place of an interval, the numbers that the mean is of.
        spread: standard deviation over draws.
        mark: of doubt, "" for none.
    """

    words: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    parts: tuple[float, ...] = ()
    spread: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table of cells.

    Attributes:
        bold: which of `rows` are bold, by number.
        below: rows below a rule, such as those of chance.
        notes: lines below the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    bold: frozenset[int] = frozenset()
    below: Sequence[Sequence[Cell]] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def latex(sheets: Sequence[Sheet]) -> str:
    """Write sheets as a file to \\input; the preamble needs booktabs."""
    return "\n\n".join([r"% in the preamble: \usepackage{booktabs}", *map(_latex_table, sheets)])


def markdown(sheets: Sequence[Sheet]) -> str:
    """Write sheets as a page of tables with pipes."""
    return "\n\n".join(_markdown_table(sheet) for sheet in sheets)


def latex_words(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in _on_one_line(text))


def markdown_words(text: str) -> str:
    """Escape text for Markdown; what looks like HTML stays text too."""
    return MARKDOWN.sub(r"\\\1", _on_one_line(text))


def _on_one_line(text: str) -> str:
    """Keep what is printed, so that no name ends a row or hides a letter."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _latex_table(sheet: Sheet) -> str:
    is_number = [
        any(row[i].value is not None for row in [*sheet.rows, *sheet.below])
        for i in range(len(sheet.columns))
    ]
    ruled = [r"\midrule", *(_latex_row(row, False) for row in sheet.below)] if sheet.below else []
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{latex_words(sheet.title)}}}",
            rf"\begin{{tabular}}{{{''.join('r' if each else 'l' for each in is_number)}}}",
            r"\toprule",
            f"{' & '.join(map(latex_words, sheet.columns))} \\\\",
            r"\midrule",
            *(_latex_row(row, number in sheet.bold) for number, row in enumerate(sheet.rows)),
            *ruled,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {latex_words(note)}" for note in sheet.notes),
            r"\end{table}",
        ]
    )


def _latex_row(row: Sequence[Cell], bold: bool) -> str:
    return f"{' & '.join(_latex_cell(cell, bold) for cell in row)} \\\\"


def _latex_cell(cell: Cell, bold: bool) -> str:
    if cell.value is None:
        words = latex_words(cell.words)
        return rf"\textbf{{{words}}}" if bold and words else words
    mean = rf"\mathbf{{{cell.value:.3f}}}" if bold else f"{cell.value:.3f}"
    spread = "" if cell.spread is None else rf" \pm {cell.spread:.3f}"
    below = r",\,".join(f"{each:.3f}" for each in _small(cell))
    small = below and (f"_{{[{below}]}}" if cell.low is not None else rf"_{{\{{{below}\}}}}")
    mark = cell.mark and f"^{{{latex_words(cell.mark)}}}"
    return f"${mean}{small}{mark}{spread}$"


def _small(cell: Cell) -> tuple[float, ...]:
    if cell.low is not None and cell.high is not None:
        return cell.low, cell.high
    return cell.parts


def _markdown_table(sheet: Sheet) -> str:
    lines = [
        list(map(markdown_words, sheet.columns)),
        ["---"] * len(sheet.columns),
        *([_markdown_cell(c, i in sheet.bold) for c in row] for i, row in enumerate(sheet.rows)),
        *([_markdown_cell(cell, False) for cell in row] for row in sheet.below),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {markdown_words(note)}" for note in sheet.notes)
    return "\n\n".join(filter(None, [f"### {markdown_words(sheet.title)}", table, notes]))


def _markdown_cell(cell: Cell, bold: bool) -> str:
    if cell.value is None:
        words = markdown_words(cell.words)
        return f"**{words}**" if bold and words else words
    mean = f"**{cell.value:.3f}**" if bold else f"{cell.value:.3f}"
    spread = "" if cell.spread is None else f" ± {cell.spread:.3f}"
    small = ", ".join(f"{each:.3f}" for each in _small(cell))
    ends = ("[", "]") if cell.low is not None else ("{", "}")
    shown = small and f" {ends[0]}{small}{ends[1]}"
    return f"{mean}{spread}{shown}" + (cell.mark and f" {markdown_words(cell.mark)}")
