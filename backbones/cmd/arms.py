"""The arms of the study: which network a name, an architecture and a space stand for (table B2).

Letters: K channels of x, D width of the condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from bench.errors import BenchError
from bench.pretrain.corruption import MASK_PX

from .attention_unet import AttentionUNet
from .diffusion import DiffusionNetwork
from .dit import DiT
from .network import CMD


@dataclass(frozen=True)
class Size:
    """The widths of one size in each architecture, of about equal counts.

    Attributes:
        cmd, unet: base widths.
        dit: width, and the number of blocks.
    """

    name: str
    cmd: int
    dit: tuple[int, int]
    unet: int


@dataclass(frozen=True)
class Space:
    """What a network's x is.

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
    """A form of network.

    Attributes:
        entry: the name of its first layer, a convolution, in a state dict; no other form has it.
        width: how wide the output of that layer is.
        build: makes the network of a size, given D or None, and K.
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
class Arm:
    """A size, an architecture and a space.

    Raises:
        BenchError: there is no such architecture or space.
    """

    size: Size
    arch: str = "convnext"
    space: str = "pixel"

    def __post_init__(self) -> None:
        for option, value, known in (
            ("arch", self.arch, ARCHITECTURES),
            ("space", self.space, SPACES),
        ):
            if value not in known:
                raise BenchError(f"{option} {value!r} is not one of {', '.join(known)}.")

    def network(self, cond_dim: int | None) -> DiffusionNetwork:
        """Make the network with random weights, for a condition of that width or for none."""
        return ARCHITECTURES[self.arch].build(self.size, cond_dim, SPACES[self.space].channels)

    def refuse_another(self, state: Mapping[str, Tensor], cond_dim: int | None) -> None:
        """Tell in the user's terms how the weights of another arm differ; nothing where none do.

        Args:
            cond_dim: width of the condition that this arm's network was built for.

        Raises:
            BenchError: they are of another architecture, space, size or condition.
        """
        found = [arch for arch, each in ARCHITECTURES.items() if f"{each.entry}.weight" in state]
        if len(found) != 1:
            return
        entry = state[f"{ARCHITECTURES[found[0]].entry}.weight"]
        spaces = [name for name, each in SPACES.items() if each.channels == entry.shape[1]]
        self._refuse_another_form(found[0], spaces[0] if spaces else self.space)
        self._refuse_another_size(len(entry))
        _refuse_another_condition(_condition_width(state), cond_dim)

    def _refuse_another_form(self, arch: str, space: str) -> None:
        here, there = (self.arch, self.space), (arch, space)
        pairs = zip(("arch", "space"), here, there, strict=True)
        options = [f"--option {name}={right}" for name, own, right in pairs if own != right]
        if options:
            raise BenchError(
                f"these are weights of arch {arch} in {space} space, not of {self.arch} in "
                f"{self.space} space: add {' '.join(options)}."
            )

    def _refuse_another_size(self, width: int) -> None:
        width_of = ARCHITECTURES[self.arch].width
        own = width_of(self.size)
        if width == own:
            return
        names = [size.name for size in SIZES.values() if width_of(size) == width]
        found = names[0] if names else "no CMD of ours"
        cure = f": use --backbone {found}." if names else "."
        raise BenchError(
            f"these are weights of base width {width} ({found}), not {own} ({self.size.name}){cure}"
        )


def _refuse_another_condition(cond_dim: int | None, own: int | None) -> None:
    if cond_dim == own:
        return
    if cond_dim is None:
        raise BenchError(
            "these weights were pretrained without a condition: leave --condition out."
        )
    raise BenchError(
        f"these weights take a condition of width {cond_dim}, but the network was built for "
        f"{own or 'none'}: name the backbone that they were pretrained with, "
        "`--condition NAME` (width 1024: uni; 768: h0-mini)."
    )


def _condition_width(state: Mapping[str, Tensor]) -> int | None:
    first = [each for name, each in state.items() if name.endswith(FIRST_OF_CONDITION)]
    return first[0].shape[1] if first else None
