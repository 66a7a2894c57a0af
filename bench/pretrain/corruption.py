"""The corruption of masked diffusion: at time t a share r_t of the patches is set to zero.

Equations 1 and 2 of arXiv 2605.08276; patches of 8 x 8 pixels and T = 1000 (its section 4.1.2).
Letters: N images, H and W their sides in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

TIMESTEPS = 1000  # T: t runs from 1 to T
MASK_PX = 8
SCHEDULES = {"t/(T+1)": TIMESTEPS + 1, "t/T": TIMESTEPS}  # r_t of equation 1; of section 4.1.2


def corrupt(images: Tensor, t: Tensor, schedule: str, generator: torch.Generator) -> Tensor:
    """Set exactly floor(r_t P) of the P patches of each image to zero.

    Args:
        images: (N, 3, H, W), H and W divisible by 8.
        t: (N,) int64 in 1 .. T, on the CPU.
        schedule: a key of `SCHEDULES`.
        generator: of the CPU.
    """
    patches = images.shape[2] * images.shape[3] // MASK_PX**2
    return mask_patches(images, masked_count(t, patches, schedule), generator)  # (N, 3, H, W)


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """Draw time steps, uniform over 1 .. T: (count,) int64."""
    return torch.randint(1, TIMESTEPS + 1, (count,), generator=generator)


def masked_count(t: Tensor, patches: int, schedule: str = "t/(T+1)") -> Tensor:
    """Give floor(r_t N), how many of N patches are masked (equation 1).

    Args:
        t: (N,) int64 time steps.

    Returns:
        (N,) int64; integer arithmetic, so exact.
    """
    return t * patches // SCHEDULES[schedule]


def mask_patches(
    images: Tensor, counts: Tensor, generator: torch.Generator | None, patch: int = MASK_PX
) -> Tensor:
    """Set square patches to zero, drawn without replacement (equation 2).

    Args:
        images: (N, K, H, W), H and W divisible by `patch`: images, or latents.
        counts: (N,) int64, how many patches of each image.
        generator: of the CPU; one seed gives one mask, whatever the device of the images.
        patch: side p of a patch, in pixels of `images`.
    """
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    ranks = torch.rand(len(images), rows * columns, generator=generator).argsort(dim=1)
    kept = ranks.to(images.device) >= counts.to(images.device)[:, None]  # (N, HW / p^2)
    kept = kept.view(-1, 1, rows, columns)  # (N, 1, H / p, W / p)
    whole = kept.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)
    return images * whole  # (N, K, H, W)
