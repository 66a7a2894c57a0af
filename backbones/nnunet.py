"""nnU-Net (Isensee et al., Nature Methods 2021, arXiv:1809.10486), trained from scratch.

`nnunet` is the network that the planner of nnU-Net v2 chooses for the side of the input. The CMD
paper compares with an nnU-Net of 12.19 M parameters, which is no default plan of v2; `nnunet-12m`
is a v2 network with that count: seven stages of 40, 80, 160, 256, 256, 256 and 256 channels.

Both train by nnU-Net's recipe, but for 150 epochs, as other networks here, instead of its
1000 x 250 steps.
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
    """Build the network that nnU-Net plans for RGB images of `input_px` x `input_px` pixels.

    Raises:
        BenchError: nnU-Net is not installed, or the images are too small.
    """
    _require("nnunetv2")
    from ._nnunet import build_planned_network

    return build_planned_network(input_px)


def build_12m() -> NnUNet:
    """Build the network of 12,192,044 parameters, including its head for two classes.

    Raises:
        BenchError: the package `dynamic_network_architectures` is not installed.
    """
    _require("dynamic_network_architectures")
    from ._nnunet import build_12m_network

    return build_12m_network()


def _require(package: str) -> None:
    try:
        import_module(package)
    except ImportError as error:
        raise BenchError(
            f"nnU-Net needs the Python package {package} ({error}): "
            "`pip install 'cmd-bench[nnunet]'`, which installs a timm below 1.0.23."
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
    title="nnU-Net v2 as planned for the input; trained from scratch",
)

NNUNET_12M = _nnunet(
    name="nnunet-12m",
    build=build_12m,
    title="nnU-Net of 12.19 M parameters as in the CMD paper; trained from scratch",
    params=12_189_936,
)
