"""The network of all packages: a timm ViT whose last map is taken after the final norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

MEAN = STD = (0.5, 0.5, 0.5)  # timm's, for the network that is the default


class Network(nn.Module):
    """The last map, (N, C, h, w), of a ViT with the weights of a file."""

    def __init__(self, name: str, weights: str) -> None:
        super().__init__()
        self.model: Any = timm.create_model(name, pretrained=False, num_classes=0)
        self.model.load_state_dict(safetensors.torch.load_file(Path(weights)))
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map normalised images (N, 3, H, W)."""
        maps = self.model.forward_intermediates(
            images, indices=1, norm=True, intermediates_only=True
        )
        return [maps[-1]]
