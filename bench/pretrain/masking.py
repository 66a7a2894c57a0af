"""Masking: at time step t, a share r_t of the patches is set to zero.

Equations 1 and 2 of arXiv 2605.08276; patches of 8 x 8 pixels and T = 1000 (its section 4.1.2).
Shapes: N images, K their channels, H and W their sides in pixels, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TIMESTEPS = 1000  # T: t runs from 1 to T
MASK_PX = 8
MASK_LATENTS = 4  # for VAE latents (table B3), which is 32 x 32 pixels of the image
SCHEDULES = {"t/(T+1)": TIMESTEPS + 1, "t/T": TIMESTEPS}  # r_t of equation 1; of section 4.1.2


def masked_count(t: Tensor, patches: int, schedule: str = "t/(T+1)") -> Tensor:
    """Return floor(r_t P), the number of masked patches among P (equation 1).

    Args:
        t: (N,) int64 time steps.
        patches: P.
        schedule: a key of `SCHEDULES`.

    Returns:
        (N,) int64, exact because the arithmetic is in integers.
    """
    return t * patches // SCHEDULES[schedule]


def mask_patches(
    images: Tensor,
    counts: Tensor,
    generators: Sequence[torch.Generator],
    patch: int = MASK_PX,
) -> Tensor:
    """Set random square patches to zero, drawn without replacement (equation 2).

    Args:
        images: (N, K, H, W), H and W divisible by the patch.
        counts: (N,) int64, masked patches per image.
        generators: N CPU generators, so that a mask does not depend on the batch or the device.
        patch: side of a patch in pixels of the images.
    """
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    draws = torch.stack([torch.rand(rows * columns, generator=each) for each in generators])
    visible = draws.argsort(dim=1).to(images.device) >= counts.to(images.device)[:, None]  # (N, P)
    visible = visible.view(-1, 1, rows, columns)  # (N, 1, H / patch, W / patch)
    mask = visible.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)
    return images * mask  # (N, K, H, W)
