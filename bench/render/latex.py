"""Tables as LaTeX, with booktabs. Text from records is escaped."""

from __future__ import annotations

from collections.abc import Sequence

from bench.api.report import Cell, Table

ESCAPES = {
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
    **{letter: f"\\{letter}" for letter in "&%$#_"},
    **{digit: rf"\textsubscript{{{number}}}" for number, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")},
}


def latex(tables: Sequence[Table]) -> str:
    """Format tables as a file to \\input; the preamble needs booktabs."""
    return "\n\n".join([r"% in the preamble: \usepackage{booktabs}", *map(_table, tables)]) + "\n"


def escape(text: str) -> str:
    """Escape text for LaTeX; unprintable characters become spaces."""
    printable = (letter if letter.isprintable() else " " for letter in text)
    return "".join(ESCAPES.get(letter, letter) for letter in printable)


def _table(table: Table) -> str:
    below = [r"\midrule", *(_row(row, False) for row in table.below)] if table.below else []
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape(table.title)}}}",
            rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in table.is_number)}}}",
            r"\toprule",
            f"{' & '.join(map(escape, table.names))} \\\\",
            r"\midrule",
            *(_row(row, number in table.bold) for number, row in enumerate(table.rows)),
            *below,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {escape(note)}" for note in table.notes),
            r"\end{table}",
        ]
    )


def _row(row: Sequence[Cell | str], bold: bool) -> str:
    return f"{' & '.join(_cell(cell, bold) for cell in row)} \\\\"


def _cell(cell: Cell | str, bold: bool) -> str:
    if isinstance(cell, str) or cell.value is None:
        text = escape(str(cell))
        return rf"\textbf{{{text}}}" if bold and text else text
    number = rf"\mathbf{{{cell.number}}}" if bold else cell.number
    bounds = r",\,".join(cell.bounds)
    if bounds:
        bounds = f"_{{[{bounds}]}}" if cell.low is not None else rf"_{{\{{{bounds}\}}}}"
    mark = cell.mark and f"^{{{escape(cell.mark)}}}"
    spread = "" if cell.spread is None else rf" \pm {cell.format(cell.spread)}"
    return f"${number}{bounds}{mark}{spread}$"
