"""Former name of `tiny`; import from there."""

from tiny import (
    FACTS,
    FEWSHOT,
    SIDE,
    SPEC,
    altered,
    changed_spec,
    commit,
    named,
    request,
    run,
    squares,
    worse,
)

__all__ = [
    "FACTS",
    "FEWSHOT",
    "SIDE",
    "SPEC",
    "altered",
    "changed_spec",
    "commit",
    "named",
    "request",
    "run",
    "squares",
    "worse",
]
