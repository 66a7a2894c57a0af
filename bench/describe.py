"""Describe a backbone and its head on the meta device, without downloading weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bench import published, registry, weights
from bench.api import Backbone, Dataset, HeadPlugin, Progress
from bench.errors import BenchError
from bench.interface import Head
from bench.views import nearest_multiple

PAPER = "cmd_paper_params"


def describe(name: str, head: str | None, options: Mapping[str, str]) -> dict[str, object]:
    """Return the parameter counts, shapes, weights and licence of a backbone and its head.

    Args:
        head: None takes the backbone's default.

    Raises:
        BenchError: a name or option is unknown.
    """
    name = name.partition("@")[0]  # the source of the weights does not matter here
    shape, plugin, head_parameters = _count(name, head, options)
    backbone = shape.backbone
    return {
        "backbone": backbone.name,
        "parameters": shape.parameters,
        "trainable_parameters": shape.trainable_parameters,
        "head": plugin.name,
        "head_parameters": head_parameters,
        "channels": list(shape.channels),
        "strides": list(shape.strides),
        "input_size": _input_size(backbone, max(shape.strides)),
        "mean": list(shape.mean),
        "std": list(shape.std),
        "license": backbone.license,
        "weights": _weights(backbone),
        "gated": backbone.gated,
        "trained_on": list(backbone.trained_on),
    }


def beside_paper(table: int, progress: Progress) -> list[dict[str, object]]:
    """Compare the size of every model of a table of arXiv 2605.08276 with the printed size.

    If a model cannot be built here, the note of its row gives the reason.

    Raises:
        BenchError: the table has no model sizes.
    """
    tables = published.sizes(PAPER)
    if table not in tables:
        numbers = ", ".join(map(str, tables))
        raise BenchError(f"table {table} has no model sizes; --table takes {numbers}.")
    rows = []
    for size in tables[table]:
        progress("counting", len(rows), len(tables[table]))
        rows.append(beside(size))
    return rows


def beside(size: published.Size) -> dict[str, object]:
    """Compare the size of the model of one row with the printed size."""
    count, head_count, head = None, None, size.head
    printed, head_printed = size.frozen_m, size.head_m
    notes = [size.note] if size.note else []
    try:
        shape, plugin, head_count = _count(size.backbone, size.head or None, size.options)
        count, head = shape.parameters, plugin.name
    except Exception as error:  # raised by the plug-in or by a library that is not installed
        notes.insert(0, str(error).rstrip(".") if isinstance(error, BenchError) else repr(error))
    if size.whole:
        count = None if count is None or head_count is None else count + head_count
        head_count = None
        if printed == "-":
            printed, head_printed = head_printed, ""
    return {
        "paper": size.method,
        "backbone": " ".join([size.backbone, *(f"{k}={v}" for k, v in size.options.items())]),
        "parameters": count,
        "paper_millions": printed,
        "agrees": _agrees(count, printed),
        "head": head,
        "head_parameters": head_count,
        "paper_head_millions": head_printed,
        "head_agrees": _agrees(head_count, head_printed),
        "note": "; ".join(notes),
    }


def _agrees(count: int | None, millions: str) -> bool | None:
    if count is None or not _is_number(millions):
        return None
    return published.rounds_to(count, millions)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _count(
    name: str, head: str | None, options: Mapping[str, str]
) -> tuple[weights.Description, HeadPlugin, int]:
    """Describe a backbone, and count the parameters of the named or default head."""
    shape = weights.describe(name, options)
    plugin: HeadPlugin = registry.get("heads", head or shape.backbone.default_head)
    with torch.device("meta"):
        module = plugin.build(shape.channels, shape.strides, len(Head.classes))
    return shape, plugin, sum(parameter.numel() for parameter in module.parameters())


def _input_size(backbone: Backbone, stride: int) -> int:
    """Return the side of the input in pixels: fixed by the backbone, or the default for stride."""
    default_px = Dataset(name="").input_px
    return backbone.input_px or default_px.get(stride) or nearest_multiple(default_px[0], stride)


def _weights(backbone: Backbone) -> str:
    if backbone.weights.package:
        return f"{backbone.weights.file}, part of the package {backbone.weights.package}"
    if backbone.weights.repo:
        return f"{backbone.weights.repo}/{backbone.weights.file}"
    return "required: --checkpoint FILE" if backbone.weights.needed else "none needed"
