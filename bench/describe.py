"""What is known of a backbone and its head, counted on the meta device: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bench import registry, weights
from bench.api import Backbone, Dataset, HeadPlugin
from bench.interface import Head


def describe(name: str, head: str | None, options: Mapping[str, str]) -> dict[str, object]:
    """Count a backbone and its head, and tell what its record says.

    Args:
        head: None takes the backbone's default.

    Raises:
        BenchError: an unknown name or option.
    """
    name = name.partition("@")[0]  # where the weights are does not matter here
    backbone: Backbone = registry.get("backbones", name)
    shape = weights.describe(name, options)
    plugin: HeadPlugin = registry.get("heads", head or backbone.default_head)
    with torch.device("meta"):
        built = plugin.build(shape.channels, shape.strides, len(Head.classes))
    return {
        "backbone": backbone.name,
        "parameters": shape.parameters,
        "trainable_parameters": shape.trainable_parameters,
        "head": plugin.name,
        "head_parameters": sum(each.numel() for each in built.parameters()),
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


def _input_size(backbone: Backbone, stride: int) -> int:
    """Give the side of the input: the backbone's own, or what 512-pixel images are resized to."""
    usual = Dataset(name="").input_px
    return backbone.input_px or usual.get(stride) or max(1, round(usual[0] / stride)) * stride


def _weights(backbone: Backbone) -> str:
    if backbone.weights.repo:
        return f"{backbone.weights.repo}/{backbone.weights.file}"
    return "to be given by --checkpoint" if backbone.weights.needed else "none needed"
