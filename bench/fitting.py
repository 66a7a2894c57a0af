"""Whether what was asked fits a backbone and this machine, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from bench import registry, weights
from bench.adapt import check_adaptable
from bench.api import Dataset, HeadPlugin, Protocol, Recipe
from bench.errors import BenchError
from bench.views import KINDS, nearest_multiple

if TYPE_CHECKING:
    from bench.job import Request

PRECISIONS = ("fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")


def fit_to(
    request: Request, protocol: Protocol, opened: weights.Opened, dataset: Dataset
) -> tuple[Recipe, HeadPlugin, int]:
    """Give the recipe, the head and the side of the input for a backbone.

    Raises:
        BenchError: they do not fit it, or it does not fit what was asked.
    """
    recipe = _recipe(request, opened)
    head: HeadPlugin = registry.get("heads", head_name(request, protocol, opened))
    side = side_of(request, opened, dataset)
    _refuse_what_trains(protocol, opened)
    if request.ttt is not None:
        check_adaptable(opened.extractor, request.ttt, opened.backbone.name)
    return recipe, head, side


def _recipe(request: Request, opened: weights.Opened) -> Recipe:
    """Change the backbone's recipe as asked.

    Raises:
        BenchError: a number is out of range.
    """
    recipe = replace(opened.backbone.recipe, **request.recipe)
    wrong = {
        "--epochs": recipe.epochs < 1,
        "--batch-size": recipe.batch_size < 1,
        "--lr": not 0 < recipe.lr < math.inf,
        "--weight-decay": not 0 <= recipe.weight_decay < math.inf,
    }
    _refuse_numbers(wrong)
    return recipe


def _refuse_numbers(wrong: Mapping[str, bool]) -> None:
    named = [option for option, is_wrong in wrong.items() if is_wrong]
    if named:
        raise BenchError(f"{', '.join(named)}: give a positive number.")


def refuse_bad_words(request: Request) -> None:
    """Raise a BenchError where a choice is none of those that there are."""
    _refuse_numbers(
        {
            "--limit": request.limit is not None and request.limit < 1,
            "--input-px": request.input_px is not None and request.input_px < 1,
        }
    )
    for option, value, allowed in (
        ("--view", request.view, KINDS),
        ("--precision", request.precision, PRECISIONS),
        ("--device", request.device, DEVICES),
    ):
        if value not in allowed:
            raise BenchError(f"{option} {value!r} is not one of {', '.join(allowed)}.")


def _refuse_what_trains(protocol: Protocol, opened: weights.Opened) -> None:
    trains = any(each.requires_grad for each in opened.extractor.parameters())
    if protocol.frozen and trains:
        raise BenchError(
            f"{protocol.name!r} is about frozen features, and {opened.backbone.name} trains its "
            "own: use --protocol full or fewshot."
        )


def head_name(request: Request, protocol: Protocol, opened: weights.Opened) -> str:
    """Name the head of a run: the protocol's, the one asked for, or the backbone's own.

    Raises:
        BenchError: there is no such head, or the protocol prescribes another.
    """
    if request.head and protocol.head and request.head != protocol.head:
        registry.get("heads", request.head)  # a misspelt one is told as that
        raise BenchError(
            f"the protocol {protocol.name!r} prescribes the head {protocol.head!r}; "
            f"for {request.head!r} use --protocol full."
        )
    return protocol.head or request.head or opened.backbone.default_head


def side_of(request: Request, opened: weights.Opened, dataset: Dataset) -> int:
    """Give the side of the square input for a backbone.

    Raises:
        BenchError: the side that was asked for does not fit it.
    """
    stride = max(opened.extractor.strides)
    side = request.input_px or opened.backbone.input_px or dataset.input_px.get(stride)
    if side is None:
        return nearest_multiple(dataset.input_px[0], stride)
    if side % stride:
        fits = nearest_multiple(side, stride)
        raise BenchError(
            f"an input of {side} px does not fit {opened.backbone.name}, whose coarsest map has a "
            f"pixel for {stride} input pixels. Use --input-px {fits}."
        )
    return side


def device_named(name: str) -> torch.device:
    """Give the device of a name in `DEVICES`; a BenchError where there is no CUDA device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise BenchError("--device cuda: torch sees no CUDA device. Use --device cpu.")
    return torch.device(name)
