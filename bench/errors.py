"""Errors that a user can cure. Every message says what was wrong, what was got, and what to do."""


class BenchError(Exception):
    """Something the user gave or has is wrong; the message names the cure. Exit code 2."""


class Damaged(BenchError):  # noqa: N818 - a state of a file, which a caller may mend
    """A file holds something else than what was written; it may be put aside and made again."""


class RunFailed(Exception):  # noqa: N818 - a state of a run, not a mistake
    """A run stopped after it began, for example at a loss that is not finite. Exit code 1."""
