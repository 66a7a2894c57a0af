"""Augmentation of training patches, as the trainers that are compared with do it.

A policy changes each image of a batch on its own. Images are resampled bilinearly, targets by the
nearest pixel; what lies outside of an image has a colour that the policy names, and the class 0,
background.

Letters: N images, S the side of the square input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.chance import Chance
from bench.colour import distort, intensities
from bench.errors import BenchError

Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
Policy = Callable[[Tensor, Tensor, Chance], tuple[Tensor, Tensor]]
"""One image (3, S, S), RGB in [0, 1], and its target (S, S) int64 in; the same out."""

BLACK = (0.0, 0.0, 0.0)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
MOST_OF_ONE_CLASS = 0.75
TRIES = 10


def augmentation(name: str) -> Augmentation:
    """Give the augmentation of that name.

    It takes images (N, 3, S, S) float RGB in [0, 1], targets (N, S, S) int64 and a CPU generator,
    from which alone it draws; it gives images and targets of the same shapes, dtypes, ranges and
    device, and leaves its input as it is.

    Raises:
        BenchError: there is none of that name.
    """
    if name not in AUGMENTATIONS:
        raise BenchError(f"the augmentation {name!r} is not one of {', '.join(AUGMENTATIONS)}.")
    return AUGMENTATIONS[name]


# ---- the policies ----------------------------------------------------------------------------


def turns(image: Tensor, target: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Turn and flip, or rotate a little, or neither, as TransUNet (Chen et al., arXiv:2102.04306).

    Half of the images: quarter turns, any number, then a flip along one of the two axes. Half of
    the others: a rotation within 20 degrees, black outside. TransUNet rotates by whole degrees and
    takes the nearest pixel for its images too.
    """
    if chance.happens(0.5):
        quarters, axis = chance.below(4), 1 + chance.below(2)
        image, target = (torch.rot90(each, quarters, (-2, -1)) for each in (image, target))
        return image.flip(-axis), target.flip(-axis)
    if chance.happens(0.5):
        matrix = rotation(chance.between(-20, 20))
        return warp(image, target, matrix, BLACK)
    return image, target


def photometric(image: Tensor, target: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Distort colours, scale by 0.5 to 2 and cut or fill to S, flip (mmsegmentation's recipe).

    A large image is cut at random, again up to ten times while one class covers 75 % of the cut; a
    small one lies at the top left of the mean colour of ImageNet. mmsegmentation ignores what it
    fills; here it is background.
    """
    image = distort(image, chance)  # before anything is filled, which keeps its colour
    factor = chance.between(0.5, 2)
    if factor < 1:
        image, target = warp(image, target, zoom(factor, (0, 0)), IMAGENET_MEAN)
    else:
        image, target = _cut(image, target, factor, chance)
    return (image.flip(-1), target.flip(-1)) if chance.happens(0.5) else (image, target)


def nnunet(image: Tensor, target: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Rotate, scale, change intensities, mirror (nnU-Net, Isensee et al., arXiv:1809.10486).

    Probabilities and ranges of version 2 for 2D: with 0.2 a rotation by any angle, with 0.2 a
    scaling in which objects shrink by up to 1.4 or grow by up to 1 / 0.7, with the mean of each
    channel outside; `colour.intensities`; each of the two axes mirrored with 0.5. nnU-Net cuts its
    patches after the rotation, so it fills less where images are larger than patches.
    """
    turn = chance.between(-180, 180) if chance.happens(0.2) else 0.0
    shrink = chance.between(0.7, 1.4) if chance.happens(0.2) else 1.0
    if turn or shrink != 1:
        mean = tuple(image.mean(dim=(1, 2)).tolist())
        image, target = warp(image, target, shrink * rotation(turn), mean)
    image = intensities(image, chance)
    axes = [axis for axis in (-2, -1) if chance.happens(0.5)]
    return image.flip(axes), target.flip(axes)


# ---- geometry --------------------------------------------------------------------------------


def rotation(degrees: float) -> Tensor:
    """Give the (2, 3) matrix for `warp` that turns about the centre, anticlockwise if positive."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, -sin, 0], [sin, cos, 0]])


def zoom(factor: float, corner: tuple[float, float]) -> Tensor:
    """Give the (2, 3) matrix for `warp` that enlarges by a factor, then cuts.

    Args:
        corner: top and left of what is cut, in sides of the enlarged image. From 0, 0 on, an image
            that is smaller than the cut lies at its top left.
    """
    top, left = (2 * start + 1 / factor - 1 for start in corner)
    return torch.tensor([[1 / factor, 0, left], [0, 1 / factor, top]])


def warp(
    image: Tensor, target: Tensor, matrix: Tensor, outside: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Resample an image and its target.

    Args:
        matrix: (2, 3), takes x and y in the result to x and y in the image, both in [-1, 1] from
            edge to edge.
        outside: the colour of what lies outside of the image.
    """
    size = [1, 1, *target.shape]
    grid = F.affine_grid(matrix[None].to(image), size, align_corners=False)  # (1, S, S, 2)
    colour = image.new_tensor(outside).view(3, 1, 1)
    moved = F.grid_sample((image - colour)[None], grid, "bilinear", "zeros", align_corners=False)
    classes = target[None, None].to(image)  # (1, 1, S, S)
    classes = F.grid_sample(classes, grid, "nearest", "zeros", align_corners=False)
    return (moved[0] + colour).clamp(0, 1), classes[0, 0].round().long()


def _cut(image: Tensor, target: Tensor, factor: float, chance: Chance) -> tuple[Tensor, Tensor]:
    """Enlarge by a factor of 1 or more and cut S x S, if possible not of one class alone."""
    room = 1 - 1 / factor

    def cut() -> tuple[Tensor, Tensor]:
        corner = chance.between(0, room), chance.between(0, room)
        return warp(image, target, zoom(factor, corner), IMAGENET_MEAN)

    found = cut()
    for _ in range(TRIES):
        if _varies(found[1]):
            break
        found = cut()
    return found


def _varies(target: Tensor) -> bool:
    return float(target.flatten().bincount().max()) < MOST_OF_ONE_CLASS * target.numel()


# ---- by name ---------------------------------------------------------------------------------


def _as_they_are(
    images: Tensor, targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    return images, targets


def _each(policy: Policy) -> Augmentation:
    """Apply a policy to every image of a batch."""

    def augment(
        images: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        chance = Chance(generator)
        pairs = [policy(*pair, chance) for pair in zip(images, targets, strict=True)]
        changed, moved = zip(*pairs, strict=True)
        return torch.stack(changed), torch.stack(moved)  # (N, 3, S, S), (N, S, S)

    return augment


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "none": _as_they_are,
    "turns": _each(turns),
    "photometric": _each(photometric),
    "nnunet": _each(nnunet),
}
