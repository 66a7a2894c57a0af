"""Former name of `tiny`; import from there."""

from tiny import FEWSHOT, SIDE, altered, commit, named, request, run, squares, worse

__all__ = ["FEWSHOT", "SIDE", "altered", "commit", "named", "request", "run", "squares", "worse"]
