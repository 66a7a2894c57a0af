"""What is known of a backbone and its head, counted on the meta device: nothing is downloaded."""

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
    """Count a backbone and its head, and tell what its record says.

    Args:
        head: None takes the backbone's default.

    Raises:
        BenchError: an unknown name or option.
    """
    name = name.partition("@")[0]  # where the weights are does not matter here
    shape, plugin, head_parameters = _counted(name, head, options)
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
    """Count every model of a table of arXiv 2605.08276, beside what the paper prints.

    A model that cannot be built here is a row whose note says why.

    Raises:
        BenchError: there are no sizes in that table.
    """
    tables = published.sizes(PAPER)
    if table not in tables:
        known = ", ".join(map(str, tables))
        raise BenchError(f"there are no model sizes of table {table}; --table takes {known}.")
    rows = []
    for size in tables[table]:
        progress("counting", len(rows), len(tables[table]))
        rows.append(beside(size))
    return rows


def beside(size: published.Size) -> dict[str, object]:
    """Count the model of one row of a paper, beside what is printed there."""
    ours, ours_of_head, head = None, None, size.head
    theirs, theirs_of_head = size.frozen_m, size.head_m
    notes = [size.note] if size.note else []
    try:
        shape, plugin, ours_of_head = _counted(size.backbone, size.head or None, size.options)
        ours, head = shape.parameters, plugin.name
    except Exception as error:  # the plug-in's code, and its libraries, which may not be there
        notes.insert(0, str(error).rstrip(".") if isinstance(error, BenchError) else repr(error))
    if size.whole:
        ours = None if ours is None or ours_of_head is None else ours + ours_of_head
        ours_of_head = None
        if theirs == "-":
            theirs, theirs_of_head = theirs_of_head, ""
    return {
        "paper": size.method,
        "backbone": " ".join([size.backbone, *(f"{k}={v}" for k, v in size.options.items())]),
        "parameters": ours,
        "paper_millions": theirs,
        "agrees": _agrees(ours, theirs),
        "head": head,
        "head_parameters": ours_of_head,
        "paper_head_millions": theirs_of_head,
        "head_agrees": _agrees(ours_of_head, theirs_of_head),
        "note": "; ".join(notes),
    }


def _agrees(count: int | None, millions: str) -> bool | None:
    if count is None or not _is_number(millions):
        return None
    return published.rounds_to(count, millions)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _counted(
    name: str, head: str | None, options: Mapping[str, str]
) -> tuple[weights.Description, HeadPlugin, int]:
    """Describe a backbone, and count the head that is named, or its own, on its maps."""
    shape = weights.describe(name, options)
    plugin: HeadPlugin = registry.get("heads", head or shape.backbone.default_head)
    with torch.device("meta"):
        built = plugin.build(shape.channels, shape.strides, len(Head.classes))
    return shape, plugin, sum(each.numel() for each in built.parameters())


def _input_size(backbone: Backbone, stride: int) -> int:
    """Give the side of the input: the backbone's own, or what 512-pixel images are resized to."""
    usual = Dataset(name="").input_px
    return backbone.input_px or usual.get(stride) or nearest_multiple(usual[0], stride)


def _weights(backbone: Backbone) -> str:
    if backbone.weights.package:
        return f"{backbone.weights.file}, which comes with {backbone.weights.package}"
    if backbone.weights.repo:
        return f"{backbone.weights.repo}/{backbone.weights.file}"
    return "to be given by --checkpoint" if backbone.weights.needed else "none needed"
