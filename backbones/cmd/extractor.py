"""CMD as a frozen dense extractor: the outputs of decoder blocks at one time step (appendix B.3).

Letters: N images, H and W their sides, D width of the condition, P patches of 8 x 8 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.condition import Conditioner
from bench.errors import BenchError
from bench.interface import FeatureExtractor
from bench.pretrain.corruption import MASK_PX, TIMESTEPS, mask_patches, masked_count

from .network import (
    CMD,
    DECODER_LEVELS,
    SIDE_MULTIPLE,
    WIDTHS,
)

NAMES = {64: "cmd-tiny", 128: "cmd-s", 256: "cmd-b", 512: "cmd-l"}  # by base width


@dataclass(frozen=True)
class Reading:
    """How features are read from a network.

    Attributes:
        timestep: t, in 1 .. 1000.
        blocks: decoder blocks, 0 to 9 from coarse to fine.
        mask_seed: None reads the whole image; a seed masks floor(r_t P) of its P patches, the same
            ones in every image of a size, so that a map does not depend on its batch.
    """

    timestep: int = 50
    blocks: tuple[int, ...] = (1, 3, 5, 6, 8, 9)
    mask_seed: int | None = None

    def check(self) -> None:
        """Raise a BenchError where a setting is out of range."""
        if not 1 <= self.timestep <= TIMESTEPS:
            raise BenchError(f"timestep {self.timestep} is not in 1 .. {TIMESTEPS}; 50 is usual.")
        last = len(DECODER_LEVELS) - 1
        out = [each for each in self.blocks if not 0 <= each <= last]
        if out or not self.blocks or len(set(self.blocks)) < len(self.blocks):
            raise BenchError(
                f"blocks {self.blocks} are not different decoder blocks in 0 .. {last} (coarse to "
                "fine); 1,3,5,6,8,9 is usual."
            )


class CMDExtractor(FeatureExtractor):
    """A frozen CMD. Sides that 32 does not divide are padded with edge pixels, and the maps cut."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(
        self, width: int, reading: Reading, condition: str = "none", cond_dim: int | None = None
    ) -> None:
        """Build the network with random weights, and open the backbone that gives its condition.

        Args:
            width: base width of the network.
            reading: how features are read.
            condition: "none", or a frozen backbone: NAME, NAME@FILE or NAME@random. Its description
                of the unmasked image is the condition. On the meta device it is built, not opened.
            cond_dim: width of the condition; by itself it gives a network that can be counted and
                loaded, not run.

        Raises:
            BenchError: a setting is out of range, or the condition cannot be opened.
        """
        super().__init__()
        reading.check()
        self.reading = reading
        self.blocks = tuple(sorted(reading.blocks, reverse=True))  # finest map first
        levels = [DECODER_LEVELS[each] for each in self.blocks]
        self.channels = tuple(width * WIDTHS[level] for level in levels)
        self.strides = tuple(2**level for level in levels)
        self.conditioner = None if condition == "none" else Conditioner(condition)
        if self.conditioner is not None:
            cond_dim = _agreed(self.conditioner, cond_dim)
        self.network = CMD(width, cond_dim)
        self.facts = {
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
        pixels = F.pad(images, (0, -width % SIDE_MULTIPLE, 0, -height % SIDE_MULTIPLE), "replicate")
        pixels = self._masked(self.normalise(pixels))  # (N, 3, H', W') in [-1, 1]
        t = torch.full((len(images),), self.reading.timestep, device=images.device)  # (N,)
        maps = self.network.features(pixels, t, condition, self.blocks)
        cut = zip(maps, self.strides, strict=True)
        return [each[..., : height // s, : width // s] for each, s in cut]  # (N, C_i, H/s_i, W/s_i)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the state dict of a `CMD` network; the condition's backbone has its own weights.

        Raises:
            BenchError: it is a CMD of another width or with another condition.
            RuntimeError: a name or a shape differs otherwise.
        """
        _refuse_another_cmd(state, self.network)
        self.network.load_state_dict(state, strict=True)

    def _condition(self, images: Tensor) -> Tensor | None:
        if self.conditioner is not None:
            return self.conditioner(images)
        if self.network.cond_dim is None:
            return None
        raise BenchError(
            f"this CMD takes a condition of width {self.network.cond_dim}, and none is given: name "
            "the backbone that it was pretrained with, `--condition NAME`."
        )

    def _masked(self, pixels: Tensor) -> Tensor:
        seed = self.reading.mask_seed
        if seed is None:
            return pixels
        patches = pixels.shape[2] * pixels.shape[3] // MASK_PX**2
        count = masked_count(torch.tensor([self.reading.timestep]), patches)  # (1,)
        shown = mask_patches(
            torch.ones_like(pixels[:1]), count, [torch.Generator().manual_seed(seed)]
        )
        return pixels * shown  # (N, 3, H, W)


def _agreed(conditioner: Conditioner, cond_dim: int | None) -> int:
    if cond_dim not in (None, conditioner.width):
        raise BenchError(
            f"the condition {conditioner.facts['condition']!r} has width {conditioner.width}, not "
            f"{cond_dim}: leave --cond-dim out."
        )
    return conditioner.width


def _refuse_another_cmd(state: Mapping[str, Tensor], network: CMD) -> None:
    """Tell in the user's terms how the checkpoint of another CMD differs."""
    if "stem.weight" not in state:
        return
    width, own_width = len(state["stem.weight"]), network.stem.out_channels
    if width != own_width:
        found = NAMES.get(width, "no CMD of ours")
        raise BenchError(
            f"these are weights of base width {width} ({found}), not {own_width} "
            f"({NAMES.get(own_width, 'custom')}): use --backbone {found}."
        )
    cond_dim = _condition_width(state)
    if cond_dim == network.cond_dim:
        return
    if cond_dim is None:
        raise BenchError(
            "these weights were pretrained without a condition: leave --condition out."
        )
    raise BenchError(
        f"these weights take a condition of width {cond_dim}, but the network was built for "
        f"{network.cond_dim or 'none'}: name the backbone that they were pretrained with, "
        "`--condition NAME` (width 1024: uni; 768: h0-mini)."
    )


def _condition_width(state: Mapping[str, Tensor]) -> int | None:
    layers = (each for name, each in state.items() if name.endswith(".feature.first.weight"))
    first: Sequence[Tensor] = [each for each in layers if each.ndim == 2][:1]
    return first[0].shape[1] if first else None
