"""What the network learns from: L1, and structural similarity where it is asked for.

Equations 6 to 9 of arXiv 2605.08276. Letters: N images, H and W their sides in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW_PX = 5
SIGMA_PX = 1.5  # of the Gaussian window, as in Wang et al. 2004
C1, C2 = 0.01**2, 0.03**2  # for values in [0, 1]


def reconstruction_loss(prediction: Tensor, clean: Tensor, ssim_weight: float) -> Tensor:
    """Give L1 + ssim_weight * (1 - SSIM) / 2, with L1 over all pixels (equation 9, lambda_1 = 1).

    Args:
        prediction, clean: (N, 3, H, W) in [-1, 1]; the prediction may lie outside.
    """
    loss = F.l1_loss(prediction.float(), clean)
    if ssim_weight == 0:
        return loss
    return loss + ssim_weight * (1 - ssim(prediction.float(), clean).mean()) / 2


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Compare the structure of images in Gaussian windows of 5 x 5 pixels (equation 8).

    Windows lie inside the image whole. Equation 8 is not free of an offset, so the images are taken
    to [0, 1], where it is usually computed.

    Args:
        images, others: (N, C, H, W) float32 in [-1, 1].

    Returns:
        (N,) means over windows and channels; 1 for equal images.
    """
    x, y = (images + 1) / 2, (others + 1) / 2
    mean_x, mean_y = _blur(x), _blur(y)  # (N, C, H - 4, W - 4)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    both = _blur(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + C1) * (2 * both + C2)
    return (alike / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))).mean(dim=(1, 2, 3))


def _blur(images: Tensor) -> Tensor:
    """Average over the window, one axis after the other."""
    channels = images.shape[1]
    window = gaussian_window().to(images).expand(channels, 1, -1)  # (C, 1, 5)
    rows = F.conv2d(images, window[:, :, :, None], groups=channels)  # (N, C, H - 4, W)
    return F.conv2d(rows, window[:, :, None, :], groups=channels)  # (N, C, H - 4, W - 4)


def gaussian_window() -> Tensor:
    """Give the window along one axis: (5,) float64, of sum 1."""
    places = torch.arange(WINDOW_PX, dtype=torch.float64) - WINDOW_PX // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA_PX**2))
    return weights / weights.sum()
