"""Tables as terminal text, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """Escape what controls a terminal or the direction of text, except line breaks and tabs.

    The names in a record may come from anywhere: an escape sequence in one becomes `\\x1b...`.
    """
    if text.isprintable():
        return text
    return "".join(letter if _is_shown(letter) else _escaped(letter) for letter in text)


def _is_shown(letter: str) -> bool:
    return letter.isprintable() or letter in "\n\t" or unicodedata.category(letter) == "Zs"


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
