"""A network of the study as a frozen dense extractor: block outputs at one time step (B.3).

Letters: N images, H and W their sides in pixels, K channels and h, w sides of what the network
takes (the image, or its latents), D width of the condition, P masked patches of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.condition import Conditioner
from bench.errors import BenchError
from bench.interface import FeatureExtractor, SelfTaught
from bench.latents import Latents
from bench.pretrain.corruption import TIMESTEPS, mask_patches, masked_count
from bench.pretrain.objective import Masked, Objective, draw_times

from .arms import SPACES, Arm
from .diffusion import DiffusionNetwork

USUAL_VAE = "sd-vae"
PARTS = {  # what the names of their parameters hold, in any of the networks
    "adaln": (".modulation.", ".embedding."),
    "decoder": ("ups.", "decoder.", "tail.", "exit"),
    "all": ("",),
}


@dataclass(frozen=True)
class Reading:
    """How features are read from a network.

    Attributes:
        timestep: t, in 1 .. 1000.
        blocks: numbers of blocks, for a U-Net its decoder's from coarse to fine; None takes those
            that are usual for the architecture.
        mask_seed: None reads the whole image; a seed masks floor(r_t P) of its P patches, the same
            ones in every image of a size, so that a map does not depend on its batch.
        vae: what encodes the image for a network in latent space: "sd-vae", "random" or a folder.
    """

    timestep: int = 50
    blocks: tuple[int, ...] | None = None
    mask_seed: int | None = None
    vae: str = USUAL_VAE

    def blocks_of(self, network: DiffusionNetwork) -> tuple[int, ...]:
        """Give the blocks, the last one first: in a U-Net that is the finest map first.

        Raises:
            BenchError: a setting is out of range for that network.
        """
        if not 1 <= self.timestep <= TIMESTEPS:
            raise BenchError(f"timestep {self.timestep} is not in 1 .. {TIMESTEPS}; 50 is usual.")
        usual, last = network.default_blocks, len(network.channels) - 1
        blocks = usual if self.blocks is None else self.blocks
        out = [each for each in blocks if not 0 <= each <= last]
        if out or not blocks or len(set(blocks)) < len(blocks):
            raise BenchError(
                f"blocks {blocks} are not different blocks in 0 .. {last}; "
                f"{','.join(map(str, usual))} is usual."
            )
        return tuple(sorted(blocks, reverse=True))


class CMDExtractor(FeatureExtractor, SelfTaught):
    """A frozen network of the study.

    Images whose sides do not fit it are padded with edge pixels, and the maps are cut.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(
        self, arm: Arm, reading: Reading, condition: str = "none", cond_dim: int | None = None
    ) -> None:
        """Build the network with random weights, and open what gives its condition and latents.

        Args:
            arm: which network.
            reading: how features are read.
            condition: "none", or a frozen backbone: NAME, NAME@FILE or NAME@random. Its description
                of the unmasked image is the condition. On the meta device it is built, not opened.
            cond_dim: width of the condition; by itself it gives a network that can be counted and
                loaded, not run.

        Raises:
            BenchError: a setting is out of range, or the condition or the VAE cannot be opened.
        """
        super().__init__()
        self.arm, self.reading = arm, reading
        self.space = SPACES[arm.space]
        self.conditioner = None if condition == "none" else Conditioner(condition)
        if self.conditioner is not None:
            cond_dim = _agreed(self.conditioner, cond_dim)
        self.network = arm.network(cond_dim)
        self.blocks = reading.blocks_of(self.network)
        self.channels = tuple(self.network.channels[each] for each in self.blocks)
        self.strides = tuple(self.network.strides[b] * self.space.factor for b in self.blocks)
        self.latents = _latents(arm, reading.vae)
        self.facts = {
            "arch": arm.arch,
            "space": arm.space,
            **({"vae": "none"} if self.latents is None else self.latents.facts),
            "timestep": reading.timestep,
            "blocks": list(self.blocks),
            "cond_dim": cond_dim,
            "mask_seed": reading.mask_seed,
            **({"condition": "none"} if self.conditioner is None else self.conditioner.facts),
        }
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        condition = self._condition(images)  # (N, D) or None
        x = self._clean(images, masks=self.reading.mask_seed is not None)  # (N, K, h, w)
        t = torch.full((len(x),), self.reading.timestep, device=x.device)  # (N,)
        maps = self.network.features(self._masked(x), t, condition, self.blocks)
        cut = zip(maps, self.strides, strict=True)
        return [each[..., : height // s, : width // s] for each, s in cut]  # (N, C_i, H/s_i, W/s_i)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the network's state dict; the condition's backbone and the VAE have their own.

        Raises:
            BenchError: it is of another arm of the study, or with another condition.
            RuntimeError: a name or a shape differs otherwise.
        """
        self.arm.refuse_another(state, self.network.cond_dim)
        self.network.load_state_dict(state, strict=True)

    def own_loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mask the images at times of their own, and compare what the network restores.

        The loss is that of masked diffusion whatever objective the weights were trained by.
        """
        with torch.no_grad():
            condition = self._condition(images)  # (N, D) or None
            x = self._clean(images, masks=True)  # (N, K, h, w)
        objective, generators = Masked(patch=self.space.mask), [generator] * len(x)
        t = draw_times(generators).to(x.device)  # (N,)
        corrupted = objective.corrupt(x, t, generators)  # (N, K, h, w)
        return objective.loss(self.network(corrupted, t, condition), x, corrupted, t)

    @torch.no_grad()
    def restore(
        self,
        images: Tensor,
        t: Tensor,
        *,
        objective: Objective,
        generators: Sequence[torch.Generator],
    ) -> tuple[Tensor, Tensor]:
        """Corrupt images at times, and restore them; of latents both are decoded."""
        height, width = images.shape[-2:]
        condition = self._condition(images)  # (N, D) or None
        x = self._clean(images, masks=True)  # (N, K, h, w)
        corrupted = objective.corrupt(x, t, generators)  # (N, K, h, w)
        predicted = self.network(corrupted, t, condition).float()
        seen = [corrupted, objective.restored(predicted, corrupted, t)]
        if self.latents is not None:
            seen = [self.latents.decode(each) for each in seen]
        given, restored = ((each[..., :height, :width] + 1) / 2 for each in seen)
        return given, restored  # (N, 3, H, W) each

    def part(self, name: str) -> Sequence[nn.Parameter]:
        """Give the parameters of "adaln" (the modulations), of the "decoder", or "all"."""
        parts = {each: self._marked(marks) for each, marks in PARTS.items()}
        known = [each for each, found in parts.items() if found]
        if name not in known:
            raise BenchError(
                f"the {self.arm.arch} network has no part {name!r} to train at test time; it has "
                f"{', '.join(known)}."
            )
        return parts[name]

    def _marked(self, marks: Sequence[str]) -> list[nn.Parameter]:
        """Find parameters whose name begins with a mark, or holds one that begins with a dot."""
        return [
            each
            for name, each in self.network.named_parameters()
            if any(mark in name if mark[:1] == "." else name.startswith(mark) for mark in marks)
        ]

    def _clean(self, images: Tensor, *, masks: bool) -> Tensor:
        """Give what the network takes, (N, K, h, w), of images padded as it and masks need it."""
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
            f"this CMD takes a condition of width {self.network.cond_dim}, and none is given: name "
            "the backbone that it was pretrained with, `--condition NAME`."
        )

    def _masked(self, x: Tensor) -> Tensor:
        seed, side = self.reading.mask_seed, self.space.mask
        if seed is None:
            return x
        patches = x.shape[2] * x.shape[3] // side**2
        count = masked_count(torch.tensor([self.reading.timestep]), patches)  # (1,)
        generator = torch.Generator().manual_seed(seed)
        return x * mask_patches(torch.ones_like(x[:1]), count, [generator], side)  # (N, K, h, w)


def _latents(arm: Arm, vae: str) -> Latents | None:
    if arm.space == "latent":
        return Latents(vae)
    if vae != USUAL_VAE:
        raise BenchError(f"vae {vae!r} is read in latent space alone: add --option space=latent.")
    return None


def _agreed(conditioner: Conditioner, cond_dim: int | None) -> int:
    if cond_dim not in (None, conditioner.width):
        raise BenchError(
            f"the condition {conditioner.facts['condition']!r} has width {conditioner.width}, not "
            f"{cond_dim}: leave --cond-dim out."
        )
    return conditioner.width
