"""Augmentation policies for training patches: TransUNet's, mmsegmentation's and nnU-Net's.

A policy changes each image of a batch independently. Images are resampled bilinearly, targets by
nearest neighbour; pixels outside of the image have a fill colour and class 0, background.

Shapes: N images, S the side of the square input in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import BenchError
from bench.training.colour import distort, intensities
from bench.training.random_draws import Chance

Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
Policy = Callable[[Tensor, Tensor, Chance], tuple[Tensor, Tensor]]
"""Maps one image (3, S, S), RGB in [0, 1], and its target (S, S) int64 to an augmented pair."""

BLACK = (0.0, 0.0, 0.0)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
MOST_OF_ONE_CLASS = 0.75
TRIES = 10


def augmentation(name: str) -> Augmentation:
    """Return the augmentation with this name.

    It takes images (N, 3, S, S) float RGB in [0, 1], targets (N, S, S) int64 and a CPU generator,
    its only source of randomness. It returns images and targets of the same shapes, dtypes, ranges
    and device, and does not modify its inputs.

    Raises:
        BenchError: unknown name.
    """
    if name not in AUGMENTATIONS:
        raise BenchError(f"the augmentation {name!r} is not one of {', '.join(AUGMENTATIONS)}.")
    return AUGMENTATIONS[name]


# ---- the policies ----------------------------------------------------------------------------


def turns(image: Tensor, target: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Flip and turn by 90 degrees, or rotate slightly (TransUNet, Chen et al., arXiv:2102.04306).

    With probability 0.5: a random number of quarter turns, then a flip along one of the two axes.
    Otherwise with probability 0.5: a rotation by up to 20 degrees, black outside. Unlike here,
    TransUNet rotates by whole degrees and resamples its images by nearest neighbour.
    """
    if chance.happens(0.5):
        quarters, axis = chance.below(4), 1 + chance.below(2)
        image = torch.rot90(image, quarters, (-2, -1))
        target = torch.rot90(target, quarters, (-2, -1))
        return image.flip(-axis), target.flip(-axis)
    if chance.happens(0.5):
        matrix = rotation(chance.between(-20, 20))
        return warp(image, target, matrix, BLACK)
    return image, target


def photometric(image: Tensor, target: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Distort colours, scale by 0.5 to 2, crop or pad to S, and flip (mmsegmentation's recipe).

    An enlarged image is cropped at random; the crop is repeated up to ten times while one class
    covers 75 % of it. A reduced image is at the top left, padded with the mean colour of ImageNet.
    mmsegmentation ignores padding in the loss; here it is background.
    """
    image = distort(image, chance)  # before padding, so that the fill colour stays the same
    factor = chance.between(0.5, 2)
    if factor < 1:
        image, target = warp(image, target, zoom(factor, (0, 0)), IMAGENET_MEAN)
    else:
        image, target = _crop(image, target, factor, chance)
    if chance.happens(0.5):
        return image.flip(-1), target.flip(-1)
    return image, target


def nnunet(image: Tensor, target: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Rotate, scale, change intensities, mirror (nnU-Net, Isensee et al., arXiv:1809.10486).

    The probabilities and ranges are those of nnU-Net v2 for 2D: a rotation by any angle (0.2); a
    scaling that shrinks objects by up to 1.4 or enlarges them by up to 1 / 0.7 (0.2), filled with
    the mean of each channel; `colour.intensities`; mirroring of each axis (0.5). nnU-Net crops its
    patches after the rotation, so it fills less if images are larger than patches.
    """
    degrees = chance.between(-180, 180) if chance.happens(0.2) else 0.0
    shrink = chance.between(0.7, 1.4) if chance.happens(0.2) else 1.0
    if degrees or shrink != 1:
        mean = tuple(image.mean(dim=(1, 2)).tolist())
        image, target = warp(image, target, shrink * rotation(degrees), mean)
    image = intensities(image, chance)
    axes = [axis for axis in (-2, -1) if chance.happens(0.5)]
    return image.flip(axes), target.flip(axes)


# ---- geometry --------------------------------------------------------------------------------


def rotation(degrees: float) -> Tensor:
    """Return the (2, 3) matrix for `warp` of an anticlockwise rotation about the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, -sin, 0], [sin, cos, 0]])


def zoom(factor: float, corner: tuple[float, float]) -> Tensor:
    """Return the (2, 3) matrix for `warp` that scales by a factor, then crops.

    Args:
        corner: top and left of the crop, in units of the side of the scaled image. With (0, 0) an
            image that is smaller than the crop is at its top left.
    """
    top, left = (2 * start + 1 / factor - 1 for start in corner)
    return torch.tensor([[1 / factor, 0, left], [0, 1 / factor, top]])


def warp(
    image: Tensor, target: Tensor, matrix: Tensor, outside: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Resample an image bilinearly and its target by nearest neighbour.

    Args:
        matrix: (2, 3), maps x and y of the result to x and y of the image, both in [-1, 1] from
            edge to edge.
        outside: RGB fill colour of pixels outside of the image.
    """
    size = [1, 1, *target.shape]
    grid = F.affine_grid(matrix[None].to(image), size, align_corners=False)  # (1, S, S, 2)
    colour = image.new_tensor(outside).view(3, 1, 1)
    moved = F.grid_sample((image - colour)[None], grid, "bilinear", "zeros", align_corners=False)
    classes = target[None, None].to(image)  # (1, 1, S, S)
    classes = F.grid_sample(classes, grid, "nearest", "zeros", align_corners=False)
    return (moved[0] + colour).clamp(0, 1), classes[0, 0].round().long()


def _crop(image: Tensor, target: Tensor, factor: float, chance: Chance) -> tuple[Tensor, Tensor]:
    """Enlarge by a factor of at least 1 and crop S x S, preferably with more than one class."""
    room = 1 - 1 / factor
    repeats = 0
    while True:
        corner = chance.between(0, room), chance.between(0, room)
        cropped, labels = warp(image, target, zoom(factor, corner), IMAGENET_MEAN)
        largest_class = float(labels.flatten().bincount().max())
        if largest_class < MOST_OF_ONE_CLASS * labels.numel() or repeats == TRIES:
            return cropped, labels
        repeats += 1


# ---- by name ---------------------------------------------------------------------------------


def _unchanged(
    images: Tensor, targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    return images, targets


def _on_batches(policy: Policy) -> Augmentation:
    """Return the augmentation that applies a policy to every image of a batch."""

    def augment(
        images: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        chance = Chance(generator)
        pairs = [
            policy(image, target, chance) for image, target in zip(images, targets, strict=True)
        ]
        augmented_images, augmented_targets = zip(*pairs, strict=True)
        return torch.stack(augmented_images), torch.stack(augmented_targets)

    return augment


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "none": _unchanged,
    "turns": _on_batches(turns),
    "photometric": _on_batches(photometric),
    "nnunet": _on_batches(nnunet),
}
