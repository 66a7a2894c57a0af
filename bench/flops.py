"""How much arithmetic a network needs, and how much of it a GPU can do at best.

A multiply-add is two FLOPs. Convolutions, matrix products and attention are counted; additions,
norms and activations are not. Letters: K channels of the input, H and W its sides.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

STEP = 3  # a training step over a forward pass: the backward pass does every product twice

# Dense peaks of bfloat16 products summed in float32, in TFLOP/s, by the name that the driver gives;
# the first that fits counts. From NVIDIA's data sheets (which print twice this, for sparse
# matrices) and its white papers on the GA102, AD102, GH100 and Blackwell. V100, T4 and older ones
# have no unit for bfloat16, and parts that are sold under one name at several speeds are left out.
PEAKS_TFLOPS: Sequence[tuple[str, float]] = (
    (r"B200", 2250.0),
    (r"GH200", 989.4),
    (r"H200 NVL", 835.5),
    (r"H200", 989.4),
    (r"H100 NVL", 835.5),
    (r"H100 PCIe", 756.4),
    (r"H100 .*HBM3", 989.4),  # SXM
    (r"A100", 311.9),
    (r"A30", 165.0),
    (r"A40", 149.7),
    (r"A10", 125.0),
    (r"RTX A6000", 154.8),
    (r"RTX 6000 Ada Generation", 364.2),
    (r"L40S", 362.0),
    (r"L40", 181.0),
    (r"L4", 121.0),
    (r"RTX 3090 Ti", 80.0),
    (r"RTX 3090", 71.0),
    (r"RTX 4090", 165.2),
)
OTHER_PARTS = r"Laptop|Mobile|Max-Q|MIG|RTX 4090 D"  # slower, or only a slice of the named GPU


def forward_flops(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Count the FLOPs of the prediction for one image.

    Args:
        network: what a backbone's `network` gives; it is neither run nor changed.
        shape: (K, H, W) of its input.
    """
    return count_flops(network, lambda own: own(*_inputs(own, shape)))


def feature_flops(network: nn.Module, shape: tuple[int, int, int], blocks: Sequence[int]) -> int:
    """Count the FLOPs of the outputs of these blocks for one image; see `forward_flops`."""
    return count_flops(network, lambda own: own.features(*_inputs(own, shape), blocks))


def count_flops(module: nn.Module, run: Callable[[Any], object]) -> int:
    """Count the FLOPs of a call on the meta device: no arithmetic is done, no memory taken.

    Args:
        run: calls the copy of the module that it is given, with tensors on the meta device.
    """
    tensors = [*module.parameters(), *module.buffers()]
    known = {id(each): _on_meta(each) for each in tensors}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(copy.deepcopy(module, known))
    return counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """Give the dense bfloat16 peak of a GPU in FLOP/s; None where it is unknown, and for a CPU."""
    return None if device.type != "cuda" else peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Give the peak of the GPU of that name, in FLOP/s; None where it is unknown."""
    if re.search(rf"\b(?:{OTHER_PARTS})\b", name):
        return None
    peaks = (tera for pattern, tera in PEAKS_TFLOPS if re.search(rf"\b{pattern}\b", name))
    tera = next(peaks, None)
    return None if tera is None else tera * 1e12


def mfu(images_per_s: float, flops_per_image: float, peak: float) -> float:
    """Give the model FLOPs utilisation: the share of the peak that useful arithmetic takes.

    Defined in "PaLM: Scaling Language Modeling with Pathways" (arXiv 2204.02311, appendix B): what
    activation checkpointing computes again does not count.

    Args:
        flops_per_image: of a training step `STEP` times those of the forward pass.
        peak: in FLOP/s, of the precision of the training.
    """
    return images_per_s * flops_per_image / peak


def _inputs(
    network: nn.Module, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Make one image, its time step and its condition, on the meta device."""
    width: Any = network.cond_dim
    condition = None if width is None else torch.empty(1, width, device="meta")  # (1, D)
    image = torch.empty(1, *shape, device="meta")  # (1, K, H, W)
    return image, torch.ones(1, dtype=torch.int64, device="meta"), condition


def _on_meta(tensor: Tensor) -> Tensor:
    bare = tensor.detach().to("meta")
    return nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare
