"""Objectives of pretraining, a corruption and its loss: masked diffusion, and DDPM.

Equations 1 to 3 and 6 to 9 of arXiv 2605.08276; DDPM is Ho et al. 2020 (arXiv 2006.11239). Shapes:
N images, K their channels (pixels in [-1, 1], or latents), H and W their sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.pretrain.masking import MASK_PX, TIMESTEPS, mask_patches, masked_count

FIRST_BETA, LAST_BETA = 1e-4, 0.02  # of DDPM's linear schedule
WINDOW_PX = 5
SIGMA_PX = 1.5  # of the Gaussian window, as in Wang et al. 2004
C1, C2 = 0.01**2, 0.03**2  # for values in [0, 1]


@dataclass(frozen=True)
class Masked:
    """Masked diffusion: set patches to zero, and predict the clean image.

    Attributes:
        schedule: a key of `SCHEDULES`.
        patch: side of a masked patch, in pixels of the network's input.
        ssim_weight: lambda_s of equation 9; if not 0, the images must be pixels in [-1, 1].
    """

    schedule: str = "t/(T+1)"
    patch: int = MASK_PX
    ssim_weight: float = 0.0

    def corrupt(self, clean: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        patches = clean.shape[2] * clean.shape[3] // self.patch**2
        counts = masked_count(t, patches, self.schedule)  # (N,)
        return mask_patches(clean, counts, generators, self.patch)  # (N, K, H, W)

    def loss(self, prediction: Tensor, clean: Tensor, corrupted: Tensor, t: Tensor) -> Tensor:
        return reconstruction_loss(prediction, clean, self.ssim_weight)

    def restored(self, prediction: Tensor, corrupted: Tensor, t: Tensor) -> Tensor:
        return prediction


@dataclass(frozen=True)
class Gaussian:
    """DDPM: mix images with Gaussian noise.

    Attributes:
        epsilon: whether the network predicts the noise, with the squared error of DDPM's equation
            14; otherwise it predicts the clean image, with L1 as in masked diffusion.
    """

    epsilon: bool = False

    def corrupt(self, clean: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        noise = torch.stack([torch.randn(clean.shape[1:], generator=each) for each in generators])
        signal, spread = _shares(t, clean)
        return signal * clean + spread * noise.to(clean)  # (N, K, H, W)

    def loss(self, prediction: Tensor, clean: Tensor, corrupted: Tensor, t: Tensor) -> Tensor:
        if not self.epsilon:
            return F.l1_loss(prediction.float(), clean)
        signal, spread = _shares(t, clean)
        return F.mse_loss(prediction.float(), (corrupted - signal * clean) / spread)

    def restored(self, prediction: Tensor, corrupted: Tensor, t: Tensor) -> Tensor:
        if not self.epsilon:
            return prediction
        signal, spread = _shares(t, corrupted)
        return (corrupted - spread * prediction) / signal  # (N, K, H, W)


def _shares(t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares of signal and noise at (N,) time steps, both (N, 1, 1, 1).

    Their squares add up to 1 (DDPM's equation 4).
    """
    alpha_bar = _alpha_bar()[t.cpu() - 1].to(like)[:, None, None, None]  # (N, 1, 1, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


@cache
def _alpha_bar() -> Tensor:
    """Return the products of (1 - beta) up to each time step: (T,) float64."""
    betas = torch.linspace(FIRST_BETA, LAST_BETA, TIMESTEPS, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


def draw_times(generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one time step per generator, uniform over 1 .. T: (N,) int64."""
    return torch.cat([torch.randint(1, TIMESTEPS + 1, (1,), generator=each) for each in generators])


def reconstruction_loss(prediction: Tensor, clean: Tensor, ssim_weight: float) -> Tensor:
    """Return L1 + ssim_weight * (1 - SSIM) / 2, with L1 over all pixels (equation 9, lambda_1 = 1).

    Args:
        prediction: (N, 3, H, W), not limited to [-1, 1].
        clean: (N, 3, H, W) in [-1, 1].
    """
    loss = F.l1_loss(prediction.float(), clean)
    if ssim_weight == 0:
        return loss
    return loss + ssim_weight * (1 - ssim(prediction.float(), clean).mean()) / 2


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Return the structural similarity in Gaussian windows of 5 x 5 pixels (equation 8).

    Windows do not cross the border. Equation 8 depends on the offset of the values, so images are
    mapped to [0, 1], where it is usually computed.

    Args:
        images, others: (N, C, H, W) float32 in [-1, 1].

    Returns:
        (N,) means over windows and channels; 1 for equal images.
    """
    x, y = (images + 1) / 2, (others + 1) / 2
    mean_x, mean_y = _blur(x), _blur(y)  # (N, C, H - 4, W - 4)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return (similarity / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))).mean(dim=(1, 2, 3))


def _blur(images: Tensor) -> Tensor:
    """Convolve with the Gaussian window, one axis after the other."""
    channels = images.shape[1]
    window = gaussian_window().to(images).expand(channels, 1, -1)  # (C, 1, 5)
    rows = F.conv2d(images, window[:, :, :, None], groups=channels)  # (N, C, H - 4, W)
    return F.conv2d(rows, window[:, :, None, :], groups=channels)  # (N, C, H - 4, W - 4)


def gaussian_window() -> Tensor:
    """Return the window along one axis: (5,) float64, with sum 1."""
    positions = torch.arange(WINDOW_PX, dtype=torch.float64) - WINDOW_PX // 2
    weights = torch.exp(-(positions**2) / (2 * SIGMA_PX**2))
    return weights / weights.sum()
