"""FLOPs of networks, and the peak FLOP/s of GPUs.

A multiply-add is two FLOPs. Convolutions, matrix products and attention are counted; additions,
norms and activations are not. Shapes: K channels of the input, H and W its sides.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

STEP = 3  # FLOPs of a training step per forward pass: the backward pass has two of each product

# Dense peaks of bfloat16 with float32 accumulation in TFLOP/s, by the driver's device name; the
# first match counts. From NVIDIA's data sheets (which print twice the value, for sparse matrices)
# and its white papers on the GA102, AD102, GH100 and Blackwell. V100, T4 and older GPUs have no
# bfloat16 units, and names that cover several speeds are omitted.
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
SLOWER_PARTS = r"Laptop|Mobile|Max-Q|MIG|RTX 4090 D"  # variants, or slices of the named GPU


def forward_flops(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Count the FLOPs of a forward pass for one image.

    Args:
        network: the result of a backbone's `network`; it is neither run nor changed.
        shape: (K, H, W) of its input.
    """
    return count_flops(network, lambda copied: copied(*_inputs(copied, shape)))


def feature_flops(network: nn.Module, shape: tuple[int, int, int], blocks: Sequence[int]) -> int:
    """Count the FLOPs of the outputs of `blocks` for one image; see `forward_flops`."""
    return count_flops(network, lambda copied: copied.features(*_inputs(copied, shape), blocks))


def count_flops(module: nn.Module, run: Callable[[Any], object]) -> int:
    """Count the FLOPs of a call on the meta device, without arithmetic and without memory.

    Args:
        run: calls its argument, a copy of the module, with tensors on the meta device.
    """
    tensors = [*module.parameters(), *module.buffers()]
    memo = {id(tensor): _on_meta(tensor) for tensor in tensors}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(copy.deepcopy(module, memo))
    return counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """Return the dense bfloat16 peak of a GPU in FLOP/s; None if it is unknown, and for a CPU."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Return the peak of a GPU by its device name, in FLOP/s; None if it is unknown."""
    if re.search(rf"\b(?:{SLOWER_PARTS})\b", name):
        return None
    for pattern, tflops in PEAKS_TFLOPS:
        if re.search(rf"\b{pattern}\b", name):
            return tflops * 1e12
    return None


def mfu(images_per_s: float, flops_per_image: float, peak: float) -> float:
    """Return the model FLOPs utilisation, a share of the peak.

    Defined in "PaLM: Scaling Language Modeling with Pathways" (arXiv 2204.02311, appendix B);
    recomputed activations do not count.

    Args:
        flops_per_image: for a training step, `STEP` times those of the forward pass.
        peak: FLOP/s at the precision of the training.
    """
    return images_per_s * flops_per_image / peak


def _inputs(
    network: nn.Module, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Create one image, its time step and its condition on the meta device."""
    width: Any = network.cond_dim
    condition = None if width is None else torch.empty(1, width, device="meta")  # (1, D)
    image = torch.empty(1, *shape, device="meta")  # (1, K, H, W)
    return image, torch.ones(1, dtype=torch.int64, device="meta"), condition


def _on_meta(tensor: Tensor) -> Tensor:
    meta = tensor.detach().to("meta")
    return nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
