"""Words of the command line as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bench.errors import BenchError

Value = TypeVar("Value")


def parsed(flag: str, text: str | None, kind: Callable[[str], Value]) -> tuple[Value, ...]:
    """Read a list, A,B,...; what stands in it twice counts once."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    try:
        values = tuple(dict.fromkeys(kind(word) for word in words))
    except ValueError as error:
        raise BenchError(f"{flag} {text!r} is not a list of numbers, such as 1,5,10.") from error
    if "" in words:
        raise BenchError(f"{flag} {text!r} names nothing between two commas, or at an end.")
    return values


def known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what is not None."""
    return {name: value for name, value in values.items() if value is not None}


def pairs(options: list[str]) -> dict[str, str]:
    """Read KEY=VALUE options."""
    wrong = [each for each in options if "=" not in each]
    if wrong:
        raise BenchError(f"--option {wrong[0]!r}: write KEY=VALUE.")
    return {key: value for key, _, value in (each.partition("=") for each in options)}
