"""Random changes of training images and their targets, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bench.errors import BenchError

Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]

AUGMENTATIONS: Mapping[str, Augmentation] = {
    "none": lambda images, target, generator: (images, target),
}


def augmentation(name: str) -> Augmentation:
    """Give the augmentation of that name."""
    if name not in AUGMENTATIONS:
        raise BenchError(f"the augmentation {name!r} is not one of {', '.join(AUGMENTATIONS)}.")
    return AUGMENTATIONS[name]
