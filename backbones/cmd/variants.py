"""Variants of the CMD network: every combination of size, architecture and space of table B2.

Letters: K channels of x, D width of the condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from bench.errors import BenchError
from bench.pretrain.masking import MASK_PX

from .attention_unet import AttentionUNet
from .diffusion import DiffusionNetwork
from .dit import DiT
from .network import CMD


@dataclass(frozen=True)
class Size:
    """Widths of one model size in every architecture, chosen for similar parameter counts.

    Attributes:
        name: of the backbone.
        cmd: base width of the ConvNeXt U-Net.
        dit: width and number of blocks of the DiT.
        unet: base width of the Attention U-Net.
    """

    name: str
    cmd: int
    dit: tuple[int, int]
    unet: int


@dataclass(frozen=True)
class Space:
    """The space that the network's input x is in.

    Attributes:
        channels: K.
        factor: pixels of the image per pixel of x.
        mask: side of a masked patch, in pixels of x.
    """

    channels: int
    factor: int
    mask: int


@dataclass(frozen=True)
class Architecture:
    """A type of network.

    Attributes:
        entry: state dict name of the first layer, a convolution; unique to the architecture.
        width: returns the output channels of that layer.
        build: builds the network from a size, D or None, and K.
    """

    entry: str
    width: Callable[[Size], int]
    build: Callable[[Size, int | None, int], DiffusionNetwork]


SIZES = {
    "cmd-tiny": Size("cmd-tiny", 64, (192, 12), 48),
    "cmd-s": Size("cmd-s", 128, (384, 12), 96),
    "cmd-b": Size("cmd-b", 256, (768, 12), 192),
    "cmd-l": Size("cmd-l", 512, (1024, 24), 384),
}
SPACES = {"pixel": Space(3, 1, MASK_PX), "latent": Space(4, 8, 4)}
ARCHITECTURES = {
    "convnext": Architecture(
        "stem", lambda size: size.cmd, lambda size, cond_dim, k: CMD(size.cmd, cond_dim, k)
    ),
    "dit": Architecture(
        "patches", lambda size: size.dit[0], lambda size, cond_dim, k: DiT(*size.dit, cond_dim, k)
    ),
    "attention-unet": Architecture(
        "entry",
        lambda size: size.unet,
        lambda size, cond_dim, k: AttentionUNet(size.unet, cond_dim, k),
    ),
}
FIRST_OF_CONDITION = ("feature.weight", "feature.first.weight")


@dataclass(frozen=True)
class Variant:
    """A size, an architecture and a space.

    Raises:
        BenchError: the architecture or the space does not exist.
    """

    size: Size
    arch: str = "convnext"
    space: str = "pixel"

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("arch", self.arch, ARCHITECTURES),
            ("space", self.space, SPACES),
        ):
            if value not in choices:
                raise BenchError(f"{option} {value!r} is not one of {', '.join(choices)}.")

    def network(self, cond_dim: int | None) -> DiffusionNetwork:
        """Build the network with random weights; `cond_dim` None builds it without a condition."""
        return ARCHITECTURES[self.arch].build(self.size, cond_dim, SPACES[self.space].channels)

    def check_weights(self, state: Mapping[str, Tensor], cond_dim: int | None) -> None:
        """Raise if a state dict belongs to another variant, and name the options that fit it.

        A state dict of no known architecture passes: strict loading reports it.

        Args:
            state: of the network, without prefix.
            cond_dim: D of the network that is to load it.

        Raises:
            BenchError: the weights have another architecture, space, size or condition.
        """
        matches = [name for name, arch in ARCHITECTURES.items() if f"{arch.entry}.weight" in state]
        if len(matches) != 1:
            return
        arch = matches[0]
        entry = state[f"{ARCHITECTURES[arch].entry}.weight"]
        channels = entry.shape[1]
        spaces = [name for name, space in SPACES.items() if space.channels == channels]
        self._check_form(arch, spaces[0] if spaces else self.space)
        self._check_size(len(entry))
        _check_condition(_condition_width(state), cond_dim)

    def _check_form(self, arch: str, space: str) -> None:
        options = []
        if arch != self.arch:
            options.append(f"--option arch={arch}")
        if space != self.space:
            options.append(f"--option space={space}")
        if options:
            raise BenchError(
                f"these are weights of arch {arch} in {space} space, not of {self.arch} in "
                f"{self.space} space: add {' '.join(options)}."
            )

    def _check_size(self, width: int) -> None:
        width_of = ARCHITECTURES[self.arch].width
        expected = width_of(self.size)
        if width == expected:
            return
        names = [size.name for size in SIZES.values() if width_of(size) == width]
        match = names[0] if names else "no CMD size"
        fix = f": use --backbone {match}." if names else "."
        raise BenchError(
            f"these are weights of base width {width} ({match}), "
            f"not {expected} ({self.size.name}){fix}"
        )


def _check_condition(cond_dim: int | None, expected: int | None) -> None:
    if cond_dim == expected:
        return
    if cond_dim is None:
        raise BenchError(
            "these weights were pretrained without a condition: leave --condition out."
        )
    raise BenchError(
        f"these weights take a condition of width {cond_dim}, but the network was built for "
        f"{expected or 'none'}: pass the backbone that they were pretrained with, "
        "`--condition NAME` (width 1024: uni; 768: h0-mini)."
    )


def _condition_width(state: Mapping[str, Tensor]) -> int | None:
    weights = [weight for name, weight in state.items() if name.endswith(FIRST_OF_CONDITION)]
    return weights[0].shape[1] if weights else None
