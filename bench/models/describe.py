"""Describe a backbone and its head on the meta device, without downloading weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bench import registry
from bench.api import Backbone, Dataset, HeadPlugin
from bench.api.nn import Head
from bench.features.views import nearest_multiple
from bench.models import load


def describe(name: str, head: str | None, options: Mapping[str, str]) -> dict[str, object]:
    """Return the parameter counts, shapes, weights and licence of a backbone and its head.

    Args:
        head: None takes the backbone's default.

    Raises:
        BenchError: a name or option is unknown.
    """
    name = name.partition("@")[0]  # the source of the weights does not matter here
    shape, plugin, head_parameters = count_parameters(name, head, options)
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


def count_parameters(
    name: str, head: str | None, options: Mapping[str, str]
) -> tuple[load.Description, HeadPlugin, int]:
    """Describe a backbone, and count the parameters of the named or default head.

    Raises:
        BenchError: a name or option is unknown.
    """
    shape = load.describe(name, options)
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
