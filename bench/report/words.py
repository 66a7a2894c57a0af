"""Text of a page: nothing of it tells where files lie on the machine of the one who made it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from markupsafe import Markup

PATH = re.compile(
    r"""(?<![\w.:/\\<-])            # not inside of a word, an address or a relative path
    (?:file://|~|[A-Za-z]:)?
    [\\/](?=\S)
    (?:[^\\/\n'"<>,;()\[\]{}]*[\\/])+""",
    re.VERBOSE,
)


def without_folders(text: str) -> str:
    """Leave of every absolute path in a text the name of its file."""
    return PATH.sub("", text)


def finalize(value: object) -> object:
    """Take folders out of everything that a template shows; what is markup stays as it is."""
    if isinstance(value, Markup):
        return value
    return without_folders(value) if isinstance(value, str) else value


def plain(value: object) -> str:
    """Write a fact as words."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(each)}" for key, each in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "–"
    return str(value) or "–"
