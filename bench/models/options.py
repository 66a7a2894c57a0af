"""What a user asks of a backbone: NAME@FILE, and its options as text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.api import Backbone
from bench.errors import BenchError


def split_source(name: str, checkpoint: Path | None, random: bool) -> tuple[str, Path | None, bool]:
    """Take NAME@FILE and NAME@random apart."""
    name, at, source = name.partition("@")
    if at and source == "random":
        random = True
    elif at and checkpoint is not None:
        raise BenchError(f"two files of weights: {source} and {checkpoint}. Give one.")
    elif at:
        checkpoint = Path(source)
    if random and checkpoint is not None:
        raise BenchError(f"random weights and the file {checkpoint}: give one of the two.")
    return name, checkpoint, random


def converted(backbone: Backbone, options: Mapping[str, str]) -> dict[str, Any]:
    """Give the value of every option of a backbone, by the annotations of its builder."""
    known = inspect.signature(backbone.build).parameters
    values = {name: each.default for name, each in known.items()}
    for given, text in options.items():
        name = given.replace("-", "_")
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise BenchError(f"{backbone.name} has no option {given!r}; {takes}.")
        kind = _kind(known[name])
        try:
            values[name] = _convert(kind, text)
        except (ValueError, KeyError) as error:
            raise BenchError(f"{backbone.name}: {given}={text!r} is not of type {kind}.") from error
    return values


def _kind(parameter: inspect.Parameter) -> str:
    """Give the annotation of a builder's parameter as text, else the type of its default."""
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
