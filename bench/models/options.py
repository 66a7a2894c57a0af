"""Parse the name of a backbone, NAME@FILE, and its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.api import Backbone
from bench.errors import BenchError

SEEDS = 2**63  # torch takes seeds below


def split_source(
    name: str, checkpoint: Path | None, random: bool
) -> tuple[str, Path | None, int | None]:
    """Split NAME@FILE and NAME@random:SEED into name, checkpoint and the seed of random weights.

    Returns:
        The seed is None if the weights are not random, and 0 if none is written.

    Raises:
        BenchError: the seed is no integer of 0 or more, or there are two sources of weights.
    """
    name, at, source = name.partition("@")
    seed = 0 if random else None
    if is_random(source):
        seed = _seed(f"{name}@{source}", source)
    elif at and checkpoint is not None:
        raise BenchError(f"two files of weights: {source} and {checkpoint}. Give one.")
    elif at:
        checkpoint = Path(source)
    if seed is not None and checkpoint is not None:
        raise BenchError(f"random weights and the file {checkpoint}: give one of the two.")
    return name, checkpoint, seed


def is_random(source: str) -> bool:
    """Return whether the text after "@" requests random weights: `random` or `random:SEED`."""
    return source.partition(":")[0] == "random"


def _seed(name: str, source: str) -> int:
    _, colon, text = source.partition(":")
    if not colon:
        return 0
    if not (text.isascii() and text.isdecimal()) or int(text) >= SEEDS:
        raise BenchError(
            f"{name}: {text!r} is not the seed of random weights, an integer from 0 to 2^63 - 1. "
            "Write for example @random:1."
        )
    return int(text)


def converted(backbone: Backbone, options: Mapping[str, str]) -> dict[str, Any]:
    """Return the value of every option of a backbone, by the annotations of its builder.

    Raises:
        BenchError: unknown option, or a value of another type.
    """
    parameters = inspect.signature(backbone.build).parameters
    values = {name: parameter.default for name, parameter in parameters.items()}
    for option, text in options.items():
        name = option.replace("-", "_")
        if name not in parameters:
            takes = f"it takes {', '.join(parameters) or 'none'}"
            raise BenchError(f"{backbone.name} has no option {option!r}; {takes}.")
        kind = _kind(parameters[name])
        try:
            values[name] = _convert(kind, text)
        except (ValueError, KeyError) as error:
            problem = f"{option}={text!r} is not of type {kind}"
            raise BenchError(f"{backbone.name}: {problem}.") from error
    return values


def _kind(parameter: inspect.Parameter) -> str:
    """Return the annotation of a parameter as text, or the type of its default."""
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return type(parameter.default).__name__
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


CONVERTERS: Mapping[str, Callable[[str], object]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
    "tuple[int, ...]": lambda text: tuple(int(part) for part in text.split(",")),
}


def _convert(kind: str, text: str) -> object:
    inner = kind.removesuffix(" | None")
    if inner != kind and text.lower() == "none":
        return None
    return CONVERTERS.get(inner, str)(text)
