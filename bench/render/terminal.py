"""Plain rows as tables that fit the terminal: no word is broken and no field is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

Fields = Mapping[str, object]
NARROW = 72  # columns; a terminal usually has 80
WIDE = 100


class Sparing(Table):
    """A table that can do without some of its columns.

    Attributes:
        spare: their names, the first to be left out first.
    """

    spare: Sequence[str] = ()


def fields_table(title: str, rows: Sequence[Fields], width: int | None = None) -> Table:
    """Show plain rows; a field that a row lacks is left empty.

    Args:
        width: of the paper, in characters. Where the columns would break words on it, the fields
            of a row are told in words, beside the first one. None: it is wide enough.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    columns = list(zip([name.replace("_", " ") for name in names], *cells, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    if width is not None:
        least = [_longest(each) for each in columns]
        room = width - 3 * len(names) - 1  # what the box and the padding leave
        if sum(least) > room:
            return _told_table(title, rows)
        widths = _narrowed(widths, least, room)
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD)
    for column, wanted in zip(columns, widths, strict=True):
        table.add_column(Text(column[0]), overflow="fold", width=wanted if width else None)
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def fitted(table: Table, width: int) -> Table:
    """Give a table that would break words on a narrow paper as one of a line a fact.

    On wider paper rows stay rows, which can be compared at a glance: columns that are empty or can
    be spared make room for the others, and what is left is folded.
    """
    columns = [Measured(own) for own in table.columns]
    if table.rows and width < WIDE:
        columns = _keep(table, [own for own in columns if any(own.words[1:])])
    if width >= NARROW or _fit(columns, table, width) or not table.show_header or len(columns) < 3:
        if isinstance(table, Sparing):
            columns = _spare(table, columns, width)
        if _fit(columns, table, width):
            _set_widths(table, columns, width)
        return table
    told = Table(
        title=table.title,
        caption=table.caption,
        title_justify="left",
        caption_justify="left",
        box=None,
        show_header=False,
    )
    told.add_column(overflow="fold")
    named = [(" ".join(own.words[0].split()), own.words) for own in columns]
    for number, row in enumerate(table.rows):
        facts = [(name, " ".join(own[number + 1].split())) for name, own in named]
        first, *lines = [f"{name}: {own}" if name else own for name, own in facts if own]
        below = [Padding(Text(line), (0, 0, 0, 3)) for line in lines]
        told.add_row(Group(Text(first), *below), style=row.style)
    return told


class Measured:
    """A column with its words, header first, and the widths of its longest word and line."""

    def __init__(self, column: Column) -> None:
        self.column = column
        self.words = [_plain(each) for each in (column.header, *column.cells)]
        self.least = _longest(self.words)
        self.widest = max(map(cell_len, "\n".join(self.words).splitlines()), default=0)


def _spare(table: Sparing, columns: list[Measured], width: int) -> list[Measured]:
    """Leave out columns until no word has to be broken, and say so below the table."""
    left_out = []
    for name in table.spare:
        if _fit(columns, table, width):
            break
        others = [own for own in columns if own.words[0] != name]
        if len(others) < len(columns):
            columns = _keep(table, others)
            left_out.append(name)
    if left_out:
        own = [_plain(table.caption)] if table.caption else []
        words = f"not shown, for want of room: {', '.join(left_out)}"
        table.caption = Text("\n".join([*own, f"{words} (a wider terminal, --csv, --json)"]))
    return columns


def _keep(table: Table, columns: list[Measured]) -> list[Measured]:
    """Keep some columns; rich pads a column by its number, and so has to have it anew."""
    table.columns = [own.column for own in columns]
    for number, own in enumerate(table.columns):
        own._index = number
    return columns


def plugins_table(title: str, rows: Sequence[Fields], width: int | None = None) -> Table:
    """Show plug-ins; ours need no origin."""
    ours = all(str(row["origin"]).startswith("bench.") for row in rows)
    hidden = {"origin"} if ours else set()
    told = [{name: row[name] for name in row if name not in hidden} for row in rows]
    return fields_table(title, told, width)


def described(rows: Sequence[Fields], width: int | None = None) -> list[Table | str]:
    """Show what is known of several things, and of a single one a line a fact.

    Each note stands below, once, with the names of the rows that it is of.
    """
    if len(rows) == 1:
        name = _cell(next(iter(rows[0].values())))
        facts = [{"": key.replace("_", " "), name: value} for key, value in rows[0].items()]
        return [fields_table("", facts)]
    notes: dict[str, list[str]] = {}
    for row in rows:
        if note := row.get("note"):
            notes.setdefault(str(note), []).append(_cell(next(iter(row.values()))))
    told = [{name: value for name, value in row.items() if name != "note"} for row in rows]
    lines = [f"{', '.join(of)}: {note}." for note, of in notes.items()]
    return [fields_table("", told, width), *lines]


def _narrowed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Take from the widest columns until all fit; none gets narrower than its longest word."""
    narrowed = list(widths)
    while sum(narrowed) > room:
        can = [i for i in range(len(narrowed)) if narrowed[i] > least[i]]
        narrowed[max(can, key=narrowed.__getitem__)] -= 1
    return narrowed


def _told_table(title: str, rows: Sequence[Fields]) -> Table:
    """Show rows in two columns: the first field, and the others in words."""
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, show_header=False)
    table.add_column(overflow="fold", no_wrap=False)
    table.add_column(overflow="fold")
    for row in rows:
        (_, first), *others = row.items()
        told = [f"{name.replace('_', ' ')}: {_cell(v)}" for name, v in others if _cell(v)]
        table.add_row(Text(_cell(first)), Text("; ".join(told)))
    return table


def _fit(columns: Sequence[Measured], table: Table, width: int) -> bool:
    """Tell whether no word has to be broken on a paper."""
    return sum(own.least for own in columns) <= _room(table, width)


def _room(table: Table, width: int) -> int:
    """Say how many characters of a paper are left for words, beside lines and padding."""
    count = len(table.columns)
    return width - (2 * count if table.collapse_padding else 3 * count + 1)


def _set_widths(table: Table, columns: Sequence[Measured], width: int) -> None:
    """Share the paper among the columns; rich, by itself, takes from one as if no word mattered."""
    widths, least = [own.widest for own in columns], [own.least for own in columns]
    narrowed = _narrowed(widths, least, _room(table, width))
    for own, wanted in zip(columns, narrowed, strict=True):
        own.column.width = wanted


def _longest(words: Sequence[str]) -> int:
    return max(map(cell_len, " ".join(words).split()), default=0)


def _plain(cell: RenderableType) -> str:
    """Give the words of a cell, without markup."""
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return " ".join(str(value).split())
