"""Counts of FLOPs against hand counts and published numbers, and peaks of GPUs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import registry
from bench.pretrain import flops

SIDE = (3, 256, 256)
DENSE_BLOCKS = (1, 3, 5, 6, 8, 9)


def _count(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    inputs = [torch.empty(shape, device="meta") for shape in shapes]
    return flops.count_flops(module, lambda network: network(*inputs))


def test_convolutions_and_linear_layers_cost_two_flops_per_multiplication() -> None:
    assert _count(nn.Conv2d(12, 12, 7, padding=3, groups=12), (1, 12, 10, 10)) == 2 * 49 * 12 * 100
    whole, half = (_count(nn.Conv2d(8, 16, 3, groups=g), (2, 8, 6, 6)) for g in (1, 2))
    assert whole == 2 * half == 2 * 9 * 8 * 16 * 2 * 4 * 4
    assert _count(nn.Linear(5, 7), (2, 3, 5)) == 2 * 5 * 7 * 6


class Attention(nn.Module):
    def forward(self, queries: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(queries, queries, queries)


def test_attention_is_counted() -> None:
    heads, tokens, width = 3, 16, 8
    assert _count(Attention(), (1, heads, tokens, width)) == 2 * 2 * heads * tokens**2 * width


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(4))

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.get_buffer("matrix")


def test_products_with_buffers_are_counted() -> None:
    assert _count(Buffered(), (3, 4)) == 2 * 3 * 4 * 4


@pytest.mark.parametrize(
    ("name", "forward", "features"), [("cmd-b", 446, 368), ("cmd-l", 1768, 1457)]
)
def test_the_flops_of_a_cmd_are_the_published_ones(name: str, forward: int, features: int) -> None:
    with torch.device("meta"):
        network = registry.get("backbones", name).network(cond_dim=None)
    assert round(flops.forward_flops(network, SIDE) / 1e9) == forward
    assert round(flops.feature_flops(network, SIDE, DENSE_BLOCKS) / 1e9) == features


def test_counting_leaves_the_network_unchanged() -> None:
    network = registry.get("backbones", "cmd-tiny").network(cond_dim=None)
    before = {name: (w.data_ptr(), w._version) for name, w in network.named_parameters()}
    few, many = (flops.forward_flops(network, (3, side, side)) for side in (32, 64))
    after = {name: (w.data_ptr(), w._version) for name, w in network.named_parameters()}
    assert after == before
    assert not any(weight.is_meta for weight in network.parameters())
    assert 3.9 < many / few < 4  # the embedding of the time costs the same at every size


PEAKS_TERA = {  # of products in bfloat16 summed in float32; others are in SILICON
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989.4,
    "NVIDIA H200 NVL": 835.5,
    "NVIDIA GH200 480GB": 989.4,
    "NVIDIA A100-SXM4-80GB": 311.9,
    "NVIDIA A100 80GB PCIe": 311.9,
    "NVIDIA A40": 149.7,
    "NVIDIA L4": 121.0,
    "NVIDIA L40": 181.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA GeForce RTX 3090 Ti": 80.0,
}
OTHER_PARTS = (
    "NVIDIA A100-SXM4-40GB MIG 1g.5gb",  # a seventh of the part
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA A10G",
    "NVIDIA A1000",
    "Tesla V100-SXM2-32GB",  # no unit for bfloat16
    "NVIDIA H100 64GB",
    "",
)


def test_a_gpu_is_identified_by_the_name_of_its_driver() -> None:
    assert {name: flops.peak_of(name) for name in PEAKS_TERA} == {
        name: tera * 1e12 for name, tera in PEAKS_TERA.items()
    }


def test_an_unknown_gpu_has_no_peak() -> None:
    assert {name: flops.peak_of(name) for name in OTHER_PARTS} == dict.fromkeys(OTHER_PARTS)
    assert flops.peak_flops(torch.device("cpu")) is None


# Multiprocessors, boost clock in GHz and FLOPs a clock of one of them, from the white papers.
SILICON = {
    "NVIDIA H100 80GB HBM3": (132, 1.83, 4096),
    "NVIDIA H100 PCIe": (114, 1.62, 4096),
    "NVIDIA A100-SXM4-40GB": (108, 1.41, 2048),
    "NVIDIA RTX A6000": (84, 1.80, 1024),
    "NVIDIA A10": (72, 1.695, 1024),
    "NVIDIA GeForce RTX 3090": (82, 1.695, 512),  # halved where the sum is in float32
    "NVIDIA GeForce RTX 4090": (128, 2.52, 512),
    "NVIDIA RTX 6000 Ada Generation": (142, 2.505, 1024),
}


def test_a_peak_is_that_of_the_silicon_without_sparsity() -> None:
    for name, (processors, gigahertz, flops_per_clock) in SILICON.items():
        expected = processors * gigahertz * 1e9 * flops_per_clock
        assert flops.peak_of(name) == pytest.approx(expected, rel=0.01), name


def test_the_utilisation_is_the_share_of_the_peak() -> None:
    assert flops.mfu(images_per_s=100, flops_per_image=2e12, peak=400e12) == 0.5
