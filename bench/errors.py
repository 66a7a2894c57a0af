"""Errors that a user can cure. Every message says what was wrong, what was got, and what to do."""


class BenchError(Exception):
    """Something the user gave or has is wrong; the message names the cure. The command exits with 2."""


class RunFailed(Exception):
    """A run stopped after it began (a loss that is not finite, memory). The command exits with 1."""
