"""Errors that a user can cure. Every message says what was wrong, what was got, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class BenchError(Exception):
    """Something the user gave or has is wrong; the message names the cure. Exit code 2."""


class Damaged(BenchError):  # noqa: N818 - a state of a file, which a caller may mend
    """A file holds something else than what was written; it may be put aside and made again."""


class RunFailed(Exception):  # noqa: N818 - a state of a run, not a mistake
    """A run stopped after it began, for example at a loss that is not finite. Exit code 1."""


def did_you_mean(word: str, there: Iterable[str]) -> str:
    """Suggest the names that are like a word, for the end of a complaint; empty where none is."""
    close = get_close_matches(word, list(there), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""
