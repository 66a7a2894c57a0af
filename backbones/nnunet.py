"""nnU-Net (Isensee et al., Nature Methods 2021, arXiv:1809.10486) as backbones that train whole.

`nnunet` is the network that the planner of nnU-Net v2 plans for the side of the input. The paper of
CMD compares with an nnU-Net of 12.19 M parameters, which is no default plan of v2; `nnunet-12m` is
the network of v2's kind that has this count: seven stages of 40, 80, 160, 256, 256, 256 and 256
channels.

Both train by nnU-Net's own recipe but for its length: 150 epochs, as every network here, where
nnU-Net takes 1000 x 250 steps.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from bench.api import Backbone, Recipe, Weights
from bench.errors import BenchError

if TYPE_CHECKING:
    from ._nnunet import NnUNet


def build_planned(*, input_px: int = 512) -> NnUNet:
    """Build what nnU-Net plans for RGB images of `input_px` x `input_px` pixels.

    Raises:
        BenchError: nnU-Net is not installed, or the images are too small for it.
    """
    _need("nnunetv2")
    from ._nnunet import planned

    return planned(input_px)


def build_12m() -> NnUNet:
    """Build the network that has 12,192,044 parameters with its head of two classes.

    Raises:
        BenchError: the library of nnU-Net's networks is not installed.
    """
    _need("dynamic_network_architectures")
    from ._nnunet import of_12m

    return of_12m()


def _need(library: str) -> None:
    try:
        import_module(library)
    except ImportError as error:
        raise BenchError(
            f"nnU-Net needs the Python package {library} ({error}): "
            "pip install 'cmd-bench[nnunet]'. It brings timm below 1.0.23."
        ) from error


_RECIPE = Recipe(
    epochs=150,
    lr=0.01,
    batch_size=12,
    weight_decay=3e-5,
    optimiser="sgd",
    momentum=0.99,
    nesterov=True,
    schedule="poly",
    power=0.9,
    clip=12.0,
    augment="nnunet",
    foreground=1 / 3,
    mirror=True,
)

_nnunet = partial(
    Backbone,
    weights=Weights(needed=False),
    paper="https://arxiv.org/abs/1809.10486",
    license="none needed",
    default_head="deep-supervision",
    recipe=_RECIPE,
)

NNUNET = _nnunet(
    name="nnunet",
    build=build_planned,
    title="nnU-Net v2 as its own planner plans it for the input; trained from scratch",
)

NNUNET_12M = _nnunet(
    name="nnunet-12m",
    build=build_12m,
    title="nnU-Net of the paper's 12.19 M parameters, no default plan of v2; trained from scratch",
    params=12_189_936,
)
