"""The three heads: parameter counts, shapes, gradients, exact rewrites, and their common loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from torch import Tensor, nn

from bench import registry
from bench.api import Head
from bench.api.nn import cross_entropy_and_dice, loss_of_margin
from bench.heads._decoder import up_factors
from bench.heads._light import ConditionalNorm, embed_time, group_by_resolution
from bench.heads._linear import LinearHead, ProjectMaps, enlarge

CMD_L = ((512, 512, 512, 512, 1024, 1024), (1, 2, 4, 4, 8, 16))
HEADS = ("linear", "light", "decoder")
PYRAMIDS = {
    "one map at 1/16": ((8,), (16,)),
    "one map at 1/14": ((8,), (14,)),
    "one map at 1/1": ((3,), (1,)),
    "a ConvNet's four": ((4, 5, 6, 7), (4, 8, 16, 32)),
    "CMD's six": ((4, 4, 5, 5, 6, 6), (1, 2, 4, 4, 8, 16)),
}
Pyramid = tuple[tuple[int, ...], tuple[int, ...]]


def build(name: str, pyramid: Pyramid, classes: int = 2) -> Head:
    torch.manual_seed(0)
    return registry.get("heads", name).build(*pyramid, classes)


def maps_of(pyramid: Pyramid, size: tuple[int, int], images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    channels, strides = pyramid
    shapes = [(images, c, size[0] // s, size[1] // s) for c, s in zip(*pyramid, strict=True)]
    assert len(channels) == len(strides)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def size_for(pyramid: Pyramid) -> tuple[int, int]:
    coarsest = math.lcm(*pyramid[1])
    unit = coarsest * math.ceil(16 / coarsest)
    return unit, 2 * unit


# ---- counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pyramid", "count"),
    [
        ("decoder", ((768,), (16,)), 5_876_066),
        ("decoder", ((1024,), (14,)), 7_055_714),
        ("decoder", ((1280,), (14,)), 8_235_362),
        ("decoder", ((1536,), (14,)), 9_415_010),
        ("decoder", CMD_L, 21_211_490),
        ("light", CMD_L, 7_147_266),
        ("linear", CMD_L, 4096 * 2 + 2),
        ("linear", ((768,), (16,)), 768 * 2 + 2),
    ],
)
def test_parameter_counts_are_those_of_the_paper(name: str, pyramid: Pyramid, count: int) -> None:
    with torch.device("meta"):
        head = build(name, pyramid)
    assert sum(weight.numel() for weight in head.parameters()) == count


# ---- shapes, gradients, precision ------------------------------------------------------------


@pytest.mark.parametrize("pyramid", PYRAMIDS.values(), ids=PYRAMIDS)
@pytest.mark.parametrize("name", HEADS)
def test_logits_have_the_requested_size_and_every_weight_gets_a_gradient(
    name: str, pyramid: Pyramid
) -> None:
    size = size_for(pyramid)
    head = build(name, pyramid, classes=3)
    logits = head(maps_of(pyramid, size), size)
    assert logits.shape == (2, 3, *size)
    head.loss(logits, torch.randint(3, (2, *size))).backward()
    for weight in head.parameters():
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
    silent = {n for n, w in head.named_parameters() if w.grad is not None and not w.grad.any()}
    assert not silent


@pytest.mark.parametrize("name", HEADS)
def test_the_output_size_is_independent_of_the_maps(name: str) -> None:
    for pyramid in PYRAMIDS.values():
        head = build(name, pyramid).eval()
        maps = maps_of(pyramid, size_for(pyramid))
        for size in ((37, 50), (5, 9)):
            assert head(maps, size).shape == (2, 2, *size)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_works_under_bfloat16_autocast(name: str) -> None:
    pyramid = PYRAMIDS["CMD's six"]
    head = build(name, pyramid)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(maps_of(pyramid, (16, 32)), (16, 32))
    loss = head.loss(logits.float(), torch.randint(2, (2, 16, 32)))
    loss.backward()
    assert loss.isfinite()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_to_segment_a_square(name: str) -> None:
    torch.manual_seed(0)
    target = torch.zeros(2, 16, 16, dtype=torch.long)
    target[:, 4:12, 4:12] = 1
    signal = target[:, None].float() + 0.1 * torch.randn(2, 3, 16, 16)
    maps = [signal, F.avg_pool2d(signal, 4)]
    head = build(name, ((3, 3), (1, 4)))
    head.observe([maps])
    optimiser = torch.optim.AdamW(head.parameters(), lr=0.05)
    for _ in range(20):
        optimiser.zero_grad()
        head.loss(head(maps, (16, 16)), target).backward()
        optimiser.step()
    predicted = head.decode(head(maps, (16, 16)))
    assert (predicted == target).float().mean() > 0.95


# ---- linear ----------------------------------------------------------------------------------


def classify_upsampled(layer: ProjectMaps, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Upsample all maps, concatenate, apply one Conv1x1."""
    resized = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
    return layer.conv(torch.cat(resized, dim=1))


def standardised(head: LinearHead, maps: Sequence[Tensor]) -> list[Tensor]:
    """Shift and divide the features themselves, as the folded weights do in effect."""
    means, deviations = (each.split(head.classify.channels) for each in (head.mean, head.deviation))
    return [
        (level - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
        for level, mean, deviation in zip(maps, means, deviations, strict=True)
    ]


@pytest.mark.parametrize("standardise", [False, True])
def test_the_linear_head_equals_upsample_concatenate_classify(standardise: bool) -> None:
    pyramid = PYRAMIDS["CMD's six"]
    maps = [5 + 3 * level.double() for level in maps_of(pyramid, (32, 48))]
    head = LinearHead(pyramid[0], 2, standardise=standardise).double()
    nn.init.normal_(head.classify.conv.weight)
    nn.init.normal_(head.classify.bias)
    head.observe([maps])
    scaled = standardised(head, maps)
    for size in ((32, 48), (16, 16), (37, 29)):
        difference = head(maps, size) - classify_upsampled(head.classify, scaled, size)
        assert difference.abs().max() < 1e-10


def test_observed_features_have_zero_mean_and_unit_variance() -> None:
    batches = [[10 + 4 * torch.randn(n, 3, 8, 8), 1e-3 * torch.randn(n, 2, 4, 4)] for n in (1, 3)]
    head = LinearHead((3, 2), 2)
    head.observe(iter(batches))
    whole = [torch.cat(level) for level in zip(*batches, strict=True)]
    for level in standardised(head, whole):
        ones = torch.ones(level.shape[1])
        torch.testing.assert_close(level.mean((0, 2, 3)), 0 * ones, atol=1e-5, rtol=0)
        torch.testing.assert_close(level.std((0, 2, 3), correction=0), ones)


def test_a_constant_channel_stays_finite_and_carries_nothing() -> None:
    head = LinearHead((3,), 2)
    flat = torch.tensor([0.0, 1e-9, 1e6]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    head.observe([[flat]])
    assert standardised(head, [flat])[0].abs().max() < 1e-6


def test_standardisation_adds_no_weight_and_is_part_of_the_state() -> None:
    head, other = LinearHead((3,), 2), LinearHead((3,), 2)
    maps = maps_of(((3,), (1,)), (16, 16))
    nn.init.normal_(head.classify.conv.weight)
    head.observe([maps])
    assert {name for name, _ in head.named_parameters()} == {
        "classify.conv.weight",
        "classify.conv.bias",
    }
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(head(maps, (16, 16)), other(maps, (16, 16)))


# ---- decoder ---------------------------------------------------------------------------------


def test_the_blocks_of_the_decoder_share_the_stride() -> None:
    for stride, factors in {
        16: [2, 2, 2, 2],
        14: [2, 2, 2, 1.75],
        32: [2, 2, 2, 4],
        8: [2, 2, 2, 1],
        6: [2, 2, 1.5, 1],
        1: [1, 1, 1, 1],
    }.items():
        assert up_factors(stride) == factors
        assert math.prod(factors) == stride


@pytest.mark.parametrize("stride", [1, 14, 32])
def test_a_single_map_has_full_size_before_the_last_block(stride: int) -> None:
    head = build("decoder", ((2,), (stride,)))
    sizes: list[torch.Size] = []
    last = head.get_submodule("blocks")[-1]  # type: ignore[index]
    last.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-2:]))
    size = (2 * stride, 3 * stride)
    head(torch.randn(2, 2, 2, 3).split(2), size)
    assert sizes == [size]


def test_the_decoder_over_several_maps_equals_resize_concatenate_convolve() -> None:
    pyramid, size = PYRAMIDS["CMD's six"], (32, 48)
    head = build("decoder", pyramid).double().eval()
    maps = [each.double() for each in maps_of(pyramid, size)]
    stack = torch.cat([F.interpolate(m, size, mode="bilinear") for m in maps], dim=1)
    plain = build("decoder", ((sum(pyramid[0]),), (1,))).double().eval()
    plain.load_state_dict(head.state_dict())
    assert (head(maps, size) - plain([stack], size)).abs().max() < 1e-10


# ---- light -----------------------------------------------------------------------------------


def test_maps_are_grouped_by_resolution() -> None:
    for strides, groups in {
        (1, 2, 4, 4, 8, 16): [[5], [4], [2, 3], [0, 1]],
        (4, 8, 16, 32): [[3], [2], [1], [0]],
        (14,): [[0]],
        (16, 16, 16, 16): [[0, 1, 2, 3]],
    }.items():
        assert group_by_resolution(strides) == groups


def test_the_light_head_over_one_group_is_two_linear_layers() -> None:
    head = build("light", ((5,), (16,))).double()
    a, b = (torch.randn(1, 5, 4, 6, dtype=torch.float64) for _ in range(2))
    both = head([a + b], (8, 12)) + head([torch.zeros_like(a)], (8, 12))
    torch.testing.assert_close(both, head([a], (8, 12)) + head([b], (8, 12)))


def test_conditional_normalisation_begins_as_plain_batch_normalisation() -> None:
    features = 5 + 2 * torch.randn(4, 256, 6, 6)
    normal = ConditionalNorm()(features, embed_time(50))
    torch.testing.assert_close(normal, F.batch_norm(features, None, None, training=True))


def test_time_is_embedded_as_cosines_then_sines() -> None:
    embedding = embed_time(50)
    assert embedding.shape == (128,)
    assert embedding[0].item() == pytest.approx(math.cos(50), abs=1e-5)
    assert embedding[64].item() == pytest.approx(math.sin(50), abs=1e-5)
    assert embedding[63].item() == pytest.approx(math.cos(50 * 10_000 ** (-63 / 64)), abs=1e-5)
    assert embedding.square().sum().item() == pytest.approx(64, rel=1e-5)


# ---- what all heads share: loss and decoding --------------------------------------------------


def manual_dice_loss(probability: np.ndarray, target: np.ndarray) -> float:
    """One minus the two-class mean of the soft Dice, 1 added above and below; both (N, H, W)."""
    scores = []
    for p, t in ((1 - probability, 1 - target), (probability, target)):
        scores.append((2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    return 1 - float(np.mean(scores))


@pytest.mark.parametrize("foreground", [0.0, 0.3, 1.0])
def test_the_loss_is_cross_entropy_plus_dice(foreground: float) -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.05, 0.95, (2, 4, 5))
    target = (rng.uniform(size=(2, 4, 5)) < foreground).astype(int)
    logits = torch.from_numpy(np.log(np.stack([1 - probability, probability], axis=1)))
    expected = log_loss(target.ravel(), probability.ravel(), labels=[0, 1])
    expected += manual_dice_loss(probability, target)
    loss = build("linear", ((1,), (1,))).loss(logits, torch.from_numpy(target))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def plain_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The loss of two classes by torch's own operations."""
    probability = logits.softmax(dim=1)  # (N, 2, H, W)
    expected = F.one_hot(target, 2).permute(0, 3, 1, 2)
    overlap, total = (
        (probability * expected).sum(dim=(0, 2, 3)),
        (probability + expected).sum(dim=(0, 2, 3)),
    )
    return F.cross_entropy(logits, target) + 1 - ((2 * overlap + 1) / (total + 1)).mean()


@pytest.mark.parametrize("foreground", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("dtype", "scale", "tolerance"), [(torch.float64, 3, 1e-12), (torch.float32, 60, 4e-6)]
)
def test_the_two_class_loss_and_its_gradient_equal_plain_torch_operations(
    foreground: float, dtype: torch.dtype, scale: float, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(3, 2, 16, 20, dtype=dtype, generator=generator)
    target = (torch.rand(3, 16, 20, generator=generator) < foreground).long()
    results = []
    for loss_of in (cross_entropy_and_dice, plain_loss):
        copy = logits.clone().requires_grad_()
        loss = loss_of(copy, target)
        (3 * loss).backward()
        results.append((loss.detach() / scale, copy.grad))
    torch.testing.assert_close(results[0], results[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("margin", [-1e4, 200.0])
def test_the_loss_of_an_extreme_margin_is_finite(margin: float) -> None:
    margins = torch.full((1, 4, 4), margin, requires_grad=True)
    loss = loss_of_margin(margins, torch.arange(16).view(1, 4, 4) % 2)
    loss.backward()
    assert loss.item() == pytest.approx(abs(margin) / 2, rel=0.01)
    assert margins.grad is not None
    assert bool(margins.grad.isfinite().all())
    assert loss_of_margin(torch.tensor([[[0.0, math.nan]]]), torch.zeros(1, 1, 2).long()).isnan()


def test_decoding_takes_the_likeliest_class() -> None:
    logits = torch.tensor([[3.0, -1.0], [2.0, 5.0], [1.0, 4.0]]).view(1, 3, 1, 2)
    labels = build("linear", ((1,), (1,))).decode(logits)
    assert labels.tolist() == [[[0, 1]]]
    assert labels.dtype == torch.int64


# ---- the fast paths of the linear head -------------------------------------------------------


def test_enlarging_far_equals_bilinear_interpolation() -> None:
    maps = torch.randn(2, 3, 4, 7, dtype=torch.float64)
    for size in ((32, 64), (33, 100), (256, 128), (5, 300)):
        expected = F.interpolate(maps, size, mode="bilinear")
        torch.testing.assert_close(enlarge(maps, size), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pyramid", PYRAMIDS.values(), ids=PYRAMIDS.keys())
def test_the_linear_head_trains_on_the_margin_as_on_both_logits(pyramid: Pyramid) -> None:
    size = size_for(pyramid)
    maps = maps_of(pyramid, size)
    head = LinearHead(pyramid[0], 2)
    head.observe([maps])
    torch.nn.init.normal_(head.classify.conv.weight)
    target = (torch.rand(2, *size, generator=torch.Generator().manual_seed(3)) < 0.3).long()
    gradients = []
    for loss in (head.training_loss(maps, target), Head.training_loss(head, maps, target)):
        head.zero_grad()
        loss.backward()
        gradients.append([loss.detach(), *(each.grad.clone() for each in head.parameters())])  # pyright: ignore[reportOptionalMemberAccess]
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
