"""Feature extractor on a diffusion network: block outputs at one time step (appendix B.3).

Letters: N images, H and W their sides in pixels, K channels and h, w sides of the network's input x
(the image or its latents), P patches of x, D width of the condition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api.nn import FeatureExtractor, Objective, SelfSupervised
from bench.errors import BenchError
from bench.models.conditioner import Conditioner
from bench.models.vae import Latents
from bench.pretrain.masking import TIMESTEPS, mask_patches, masked_count
from bench.pretrain.objective import Masked, draw_times

from .diffusion import DiffusionNetwork
from .variants import SPACES, Variant

DEFAULT_VAE = "sd-vae"
PARTS = {  # prefixes of parameter names, or substrings where they begin with a dot
    "adaln": (".modulation.", ".embedding."),
    "decoder": ("ups.", "decoder.", "tail.", "exit"),
    "all": ("",),
}


@dataclass(frozen=True)
class FeatureOptions:
    """Where and how features are taken from a network.

    Attributes:
        timestep: t, in 1 .. 1000.
        blocks: numbers of blocks, for a U-Net those of its decoder from coarse to fine; None:
            `default_blocks` of the network.
        mask_seed: None: no mask; an integer masks floor(r_t P) patches, the same ones in all images
            of a size, so that a map does not depend on its batch.
        vae: encoder for a network in latent space: "sd-vae", "random" or a folder.
    """

    timestep: int = 50
    blocks: tuple[int, ...] | None = None
    mask_seed: int | None = None
    vae: str = DEFAULT_VAE

    def blocks_of(self, network: DiffusionNetwork) -> tuple[int, ...]:
        """Return the block numbers in descending order: in a U-Net, the finest map first.

        Raises:
            BenchError: an option is out of range for the network.
        """
        if not 1 <= self.timestep <= TIMESTEPS:
            raise BenchError(
                f"timestep {self.timestep} is not in 1 .. {TIMESTEPS}; the default is 50."
            )
        default, last = network.default_blocks, len(network.channels) - 1
        blocks = default if self.blocks is None else self.blocks
        in_range = all(0 <= block <= last for block in blocks)
        if not blocks or not in_range or len(set(blocks)) < len(blocks):
            raise BenchError(
                f"blocks {blocks} are not distinct numbers in 0 .. {last}; "
                f"the default is {','.join(map(str, default))}."
            )
        return tuple(sorted(blocks, reverse=True))


class CMDExtractor(FeatureExtractor, SelfSupervised):
    """A frozen diffusion network.

    Images whose sides it does not take are padded with edge pixels, and the maps are cropped.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(
        self,
        variant: Variant,
        features: FeatureOptions,
        condition: str = "none",
        cond_dim: int | None = None,
    ) -> None:
        """Build the network with random weights; load the conditioning backbone and the VAE.

        Args:
            variant: of the network.
            features: where and how features are taken from it.
            condition: "none", or a frozen backbone: NAME, NAME@FILE or NAME@random. Its embedding
                of the unmasked image is the condition. On the meta device its weights are not read.
            cond_dim: width of the condition. Without `condition` the network can be loaded and its
                parameters counted, but it cannot run.

        Raises:
            BenchError: an option is out of range, or the condition or the VAE cannot be loaded.
        """
        super().__init__()
        self.variant, self.feature_options = variant, features
        self.space = SPACES[variant.space]
        self.conditioner = None if condition == "none" else Conditioner(condition)
        if self.conditioner is not None:
            cond_dim = _width_of(self.conditioner, cond_dim)
        self.network = variant.network(cond_dim)
        self.blocks = features.blocks_of(self.network)
        self.channels = tuple(self.network.channels[block] for block in self.blocks)
        self.strides = tuple(
            self.network.strides[block] * self.space.factor for block in self.blocks
        )
        self.latents = _latents(variant, features.vae)
        self.facts = {
            "arch": variant.arch,
            "space": variant.space,
            **({"vae": "none"} if self.latents is None else self.latents.facts),
            "timestep": features.timestep,
            "blocks": list(self.blocks),
            "cond_dim": cond_dim,
            "mask_seed": features.mask_seed,
            **({"condition": "none"} if self.conditioner is None else self.conditioner.facts),
        }
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        condition = self._condition(images)  # (N, D) or None
        x = self._clean(images, masks=self.feature_options.mask_seed is not None)  # (N, K, h, w)
        t = torch.full((len(x),), self.feature_options.timestep, device=x.device)  # (N,)
        maps = self.network.features(self._masked(x), t, condition, self.blocks)
        return [
            feature_map[..., : height // stride, : width // stride]  # (N, C_i, H/s_i, W/s_i)
            for feature_map, stride in zip(maps, self.strides, strict=True)
        ]

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load the network's state dict, without the conditioning backbone and the VAE.

        Raises:
            BenchError: the weights are of another variant, or with another condition.
            RuntimeError: another name or shape differs.
        """
        self.variant.check_weights(state, self.network.cond_dim)
        self.network.load_state_dict(state, strict=True)

    def self_supervised_loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the masked-diffusion loss of (N, 3, H, W), at a random time step for each image.

        The loss does not depend on the objective that the weights were trained with.
        """
        with torch.no_grad():
            condition = self._condition(images)  # (N, D) or None
            x = self._clean(images, masks=True)  # (N, K, h, w)
        objective, generators = Masked(patch=self.space.mask), [generator] * len(x)
        t = draw_times(generators).to(x.device)  # (N,)
        corrupted = objective.corrupt(x, t, generators)  # (N, K, h, w)
        return objective.loss(self.network(corrupted, t, condition), x, corrupted, t)

    @torch.no_grad()
    def reconstruct(
        self,
        images: Tensor,
        t: Tensor,
        *,
        objective: Objective,
        generators: Sequence[torch.Generator],
    ) -> tuple[Tensor, Tensor]:
        """Corrupt images at time steps `t` and reconstruct them; latents are decoded to images."""
        height, width = images.shape[-2:]
        condition = self._condition(images)  # (N, D) or None
        x = self._clean(images, masks=True)  # (N, K, h, w)
        corrupted = objective.corrupt(x, t, generators)  # (N, K, h, w)
        predicted = self.network(corrupted, t, condition).float()
        reconstructed = objective.restored(predicted, corrupted, t)
        if self.latents is not None:
            corrupted = self.latents.decode(corrupted)
            reconstructed = self.latents.decode(reconstructed)
        corrupted = (corrupted[..., :height, :width] + 1) / 2  # (N, 3, H, W)
        return corrupted, (reconstructed[..., :height, :width] + 1) / 2  # (N, 3, H, W) each

    def parameter_group(self, name: str) -> Sequence[nn.Parameter]:
        """Return the parameters of "adaln" (the modulations), of the "decoder", or "all"."""
        parts = {part: self._parameters_of(patterns) for part, patterns in PARTS.items()}
        available = [part for part, parameters in parts.items() if parameters]
        if name not in available:
            raise BenchError(
                f"the {self.variant.arch} network has no part {name!r} to train at test time; "
                f"it has {', '.join(available)}."
            )
        return parts[name]

    def _parameters_of(self, patterns: Sequence[str]) -> list[nn.Parameter]:
        return [
            parameter
            for name, parameter in self.network.named_parameters()
            if any(
                pattern in name if pattern.startswith(".") else name.startswith(pattern)
                for pattern in patterns
            )
        ]

    def _clean(self, images: Tensor, *, masks: bool) -> Tensor:
        """Return x (N, K, h, w) of images padded to sides that network and masks divide."""
        multiple = self.space.factor * math.lcm(
            self.network.multiple, self.space.mask if masks else 1
        )
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % multiple, 0, -height % multiple), "replicate")
        x = self.normalise(images)  # (N, 3, H', W') in [-1, 1]
        return x if self.latents is None else self.latents.encode(x)  # (N, 4, H' / 8, W' / 8)

    def _condition(self, images: Tensor) -> Tensor | None:
        if self.conditioner is not None:
            return self.conditioner(images)
        if self.network.cond_dim is None:
            return None
        raise BenchError(
            f"this CMD needs a condition of width {self.network.cond_dim}: pass the backbone that "
            "it was pretrained with, `--condition NAME`."
        )

    def _masked(self, x: Tensor) -> Tensor:
        seed, side = self.feature_options.mask_seed, self.space.mask
        if seed is None:
            return x
        patches = x.shape[2] * x.shape[3] // side**2
        count = masked_count(torch.tensor([self.feature_options.timestep]), patches)  # (1,)
        generator = torch.Generator().manual_seed(seed)
        return x * mask_patches(torch.ones_like(x[:1]), count, [generator], side)  # (N, K, h, w)


def _latents(variant: Variant, vae: str) -> Latents | None:
    if variant.space == "latent":
        return Latents(vae)
    if vae != DEFAULT_VAE:
        raise BenchError(f"vae {vae!r} applies to latent space only: add --option space=latent.")
    return None


def _width_of(conditioner: Conditioner, cond_dim: int | None) -> int:
    if cond_dim not in (None, conditioner.width):
        raise BenchError(
            f"the condition {conditioner.facts['condition']!r} has width {conditioner.width}, not "
            f"{cond_dim}: leave --cond-dim out."
        )
    return conditioner.width
