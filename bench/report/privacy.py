"""Format text for a page, and remove local folders from it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from markupsafe import Markup

from bench.render import printable

PATH = re.compile(
    r"""(?<![\w.:/\\<-])            # not inside a word, a URL or a relative path
    (?:file://|~|[A-Za-z]:)?
    [\\/](?=\S)
    (?:[^\\/\n'"<>,;()\[\]{}]*[\\/])+""",
    re.VERBOSE,
)


def without_folders(text: str) -> str:
    """Reduce every absolute path in a text to its file name."""
    return PATH.sub("", text)


def finalize(value: object) -> object:
    """Remove folders and control characters from a template value, except from markup."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return without_folders(printable(value))


def plain(value: object) -> str:
    """Format a value as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "–"
    return str(value) or "–"
