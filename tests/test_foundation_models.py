"""Named frozen models: parameter counts, maps, layers, and marks of their training data."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from bench import registry
from bench.api import Backbone
from bench.backbones._timm_families import SamExtractor, SwinExtractor
from bench.errors import BenchError
from bench.models.load import Description, describe
from bench.runs.resolve import _flags
from bench.testing import check_backbone

Miniature = Callable[[str], Backbone]

COUNTED = {  # name: (parameters, channels, stride, class and register tokens, row of the specs)
    "conch": (86_250_240, 768, 16, 1, "CONCH"),
    "conch-v1.5": (303_952_896, 1024, 16, 1, "CONCHv1.5"),
    "ctranspath": (27_520_038, 768, 32, 0, "CTransPath"),
    "digepath": (303_350_784, 1024, 16, 1, "Digepath"),
    "genbio-pathfm": (1_133_686_784, 4608, 16, 5, "GenBio-PathFM"),
    "gigapath": (1_134_953_984, 1536, 16, 1, "Prov-GigaPath"),
    "gpfm": (303_227_904, 1024, 14, 1, "GPFM"),
    "h-optimus-0": (1_134_774_272, 1536, 14, 5, "H-optimus-0"),
    "h-optimus-1": (1_134_774_272, 1536, 14, 5, "H-optimus-1"),
    "h0-mini": (85_739_520, 768, 14, 5, "H0-mini"),
    "hibou-b": (85_739_520, 768, 14, 5, "Hibou-B"),
    "hibou-l": (303_657_216, 1024, 14, 5, "Hibou-L"),
    "kaiko-b16": (85_798_656, 768, 16, 1, "Kaiko ViT-B/16"),
    "kaiko-b8": (85_807_872, 768, 8, 1, "Kaiko ViT-B/8"),
    "kaiko-l14": (304_370_688, 1024, 14, 5, "Kaiko ViT-L/14"),
    "kaiko-s16": (21_665_664, 384, 16, 1, "Kaiko ViT-S/16"),
    "kaiko-s8": (21_670_272, 384, 8, 1, "Kaiko ViT-S/8"),
    "lunit-s16": (21_665_664, 384, 16, 1, "Lunit DINO ViT-S/16"),
    "lunit-s8": (21_670_272, 384, 8, 1, "Lunit DINO ViT-S/8"),
    "midnight-12k": (1_134_769_664, 1536, 14, 1, "Midnight-12k"),
    "musk": (303_936_512, 1024, 16, 1, "MUSK"),
    "openmidnight": (1_134_774_272, 1536, 14, 5, "OpenMidnight"),
    "pathorchestra": (303_350_784, 1024, 16, 1, "PathOrchestra"),
    "phikon": (85_798_656, 768, 16, 1, "Phikon"),
    "phikon-v2": (303_350_784, 1024, 16, 1, "Phikon-v2"),
    "plip": (87_456_000, 768, 32, 1, "PLIP"),
    "quiltnet": (87_456_000, 768, 32, 1, "QuiltNet-B-32"),
    "stainnet-b": (85_798_656, 768, 16, 1, "StainNet-Base (ViT-B/16)"),
    "stainnet-s": (21_665_664, 384, 16, 1, "StainNet-Small (ViT-S/16)"),
    "uni": (303_350_784, 1024, 16, 1, "UNI"),
    "uni2-h": (681_394_176, 1536, 14, 9, "UNI2-h"),
    "virchow": (631_229_184, 1280, 14, 1, "Virchow"),
    "virchow2": (631_239_424, 1280, 14, 5, "Virchow2"),
    "dinov2-s": (22_056_192, 384, 14, 1, ""),
    "dinov2-b": (86_579_712, 768, 14, 1, ""),
    "dinov2-l": (304_367_616, 1024, 14, 1, "DINOv2-L/14"),
    "dinov2-l-reg": (304_370_688, 1024, 14, 5, "DINOv2-L/14 reg4"),
    "dinov3-s": (21_586_944, 384, 16, 5, "DINOv3 ViT-S/16"),
    "dinov3-b": (85_641_216, 768, 16, 5, "DINOv3 ViT-B/16"),
    "dinov3-l": (303_079_424, 1024, 16, 5, "DINOv3 ViT-L/16"),
    "dinov3-h": (840_509_440, 1280, 16, 5, "DINOv3 ViT-H+/16"),
    "dinov3-convnext-b": (87_566_464, 1024, 32, 0, "DINOv3 ConvNeXt-B"),
    "dinov3-convnext-l": (196_230_336, 1536, 32, 0, "DINOv3 ConvNeXt-L"),
    "convnextv2-b": (87_692_800, 1024, 32, 0, "ConvNeXt-V2-B"),
    "convnextv2-l": (196_419_840, 1536, 32, 0, "ConvNeXt-V2-L"),
    "mae-l": (303_301_632, 1024, 16, 1, "MAE ViT-L/16"),
    "sam-b": (89_670_912, 256, 16, 0, "SAM ViT-B encoder"),
    "sam-l": (308_278_272, 256, 16, 0, "SAM ViT-L encoder"),
    "sam-h": (637_026_048, 256, 16, 0, "SAM ViT-H encoder"),
    "random-vit-s": (21_665_664, 384, 16, 1, ""),
}
NETWORKS = {  # one model per kind of network: its peculiarity
    "uni": "a plain ViT of patch 16",
    "kaiko-s8": "patch 8",
    "uni2-h": "patch 14, registers, SwiGLU",
    "dinov3-l": "rotary positions",
    "plip": "a norm before the blocks, patch 32",
    "musk": "norms inside the blocks",
    "genbio-pathfm": "one channel at a time",
    "ctranspath": "a Swin transformer",
    "sam-b": "windows and a neck",
    "dinov3-convnext-b": "convolutions, a norm in the head",
    "convnextv2-b": "convolutions, global response normalisation",
}
VITS = ("uni", "kaiko-s8", "uni2-h", "dinov3-l", "plip", "musk", "genbio-pathfm")
SIZES = {8: (224,), 14: (224, 392, 490, 504), 16: (224, 384, 496, 512), 32: (224, 384, 512)}


def _images(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def _randomised(extractor: Any) -> Any:
    """Set every weight to a random value, so that zeros and ones hide nothing."""
    generator = torch.Generator().manual_seed(1)
    for weight in extractor.parameters():
        weight.copy_(0.2 * torch.randn(weight.shape, generator=generator) + (weight.ndim == 1))
    return extractor


# ---- records ---------------------------------------------------------------------------------


def _descriptions(names: Iterable[str]) -> dict[str, Description]:
    """Describe models; models with the same network are built once."""
    by_network: dict[str, Description] = {}
    descriptions = {}
    for name in names:
        record: Any = registry.get("backbones", name)
        network = repr(record.build.__self__)
        if network not in by_network:
            by_network[network] = describe(name)
        descriptions[name] = replace(by_network[network], backbone=record)
    return descriptions


def _names() -> list[str]:
    return [name for name in registry.names("backbones") if not name.endswith(":")]


@pytest.mark.parametrize(
    "names",
    [
        ["kaiko-s8", "plip", "ctranspath", "convnextv2-b"],
        pytest.param([*COUNTED], marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_records_have_the_published_counts_and_fields(
    names: list[str], request: pytest.FixtureRequest
) -> None:
    builds = {name: registry.get("backbones", name).build for name in _names()}
    assert set(COUNTED) == {name for name, build in builds.items() if hasattr(build, "__self__")}
    for name, (parameters, *_) in COUNTED.items():
        assert registry.get("backbones", name).params == parameters, name
    descriptions = _descriptions(names)
    for name, shown in descriptions.items():
        parameters, channels, stride, prefix, _ = COUNTED[name]
        assert shown.parameters == shown.backbone.params == parameters, name
        assert shown.trainable_parameters == 0, name
        assert (shown.channels, shown.strides) == ((channels,), (stride,)), name
        is_transformer = prefix or name.startswith("sam")
        assert shown.backbone.patch == (stride if is_transformer else None), name
    specs: Path = request.getfixturevalue("specs_dir")  # skips the rest where there are none
    with (specs / "pfm_specs.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    for name, shown in descriptions.items():
        if row := COUNTED[name][-1]:
            _assert_published(name, shown, rows[row])


def _assert_published(name: str, shown: Description, row: dict[str, str]) -> None:
    millions = row["params_M_backbone"]
    decimals = len(millions.partition(".")[2])
    assert round(COUNTED[name][0] / 1e6, decimals) == float(millions), name
    record: Any = shown.backbone
    assert record.gated == row["gated"].startswith("yes"), name
    assert record.weights.repo.lower() in row["hf_repo"].lower() or not row["hf_repo"], name
    if name != "conch-v1.5":  # whose row gives TITAN's file
        assert (record.weights.sha256 or "") in row["sha256"] + row["gotchas"], name
        assert (record.weights.revision or "") in row["revision"] + row["gotchas"], name
        assert not row["sha256"] or record.weights.sha256, name
    assert list(shown.mean) == [float(value) for value in row["mean"].split()], name
    assert list(shown.std) == [float(value) for value in row["std"].split()], name


# ---- the maps --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_miniature_passes_the_checks_and_accepts_the_sizes_of_the_paper(
    name: str, miniature: Miniature
) -> None:
    torch.manual_seed(0)
    extractor = miniature(name).build()
    assert check_backbone(extractor) == []
    (channels,), (stride,) = extractor.channels, extractor.strides
    for side in SIZES[stride]:
        grid = side // stride
        assert extractor(_images(1, 3, side, side))[0].shape == (1, channels, grid, grid)
    if name in ("uni", "sam-b", "ctranspath", "genbio-pathfm", "convnextv2-b"):
        assert check_backbone(miniature(name).build(layers=(0, 1))) == []


@pytest.mark.parametrize("name", VITS)
def test_a_map_is_the_normalised_patch_tokens(name: str, miniature: Miniature) -> None:
    extractor: Any = _randomised(miniature(name).build())
    stride, prefix = COUNTED[name][2:4]
    images = _images(2, 3, 4 * stride, 6 * stride)
    pixels = extractor.normalise(images)
    views = pixels.split(1, dim=1) if name == "genbio-pathfm" else [pixels]
    tokens = torch.cat([extractor.model.forward_features(each) for each in views], dim=2)
    assert tokens.shape[1] == prefix + 4 * 6
    expected = tokens[:, prefix:].transpose(1, 2).unflatten(2, (4, 6))
    torch.testing.assert_close(extractor(images)[0], expected)
    torch.testing.assert_close(extractor.embed(images), tokens[:, 0])


def test_a_model_of_one_channel_separates_the_colours(miniature: Miniature) -> None:
    extractor = _randomised(miniature("genbio-pathfm").build())
    images = _images(1, 3, 48, 32)
    greener = images.clone()
    greener[:, 1] = 1 - greener[:, 1]
    red, green, blue = (
        (extractor(images)[0] - extractor(greener)[0]).abs().amax((0, 2, 3)).split(48)
    )
    assert red.max() < 1e-5 < green.min()
    assert blue.max() < 1e-5


# ---- several layers --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in VITS if name != "genbio-pathfm"])
def test_layers_of_a_vit_are_its_normalised_blocks(name: str, miniature: Miniature) -> None:
    record = miniature(name)
    extractor: Any = _randomised(record.build(layers=(0, 1)))
    images = _images(1, 3, 64, 64) if COUNTED[name][2] != 14 else _images(1, 3, 56, 56)
    seen: list[Tensor] = []
    extractor.model.blocks[0].register_forward_hook(lambda *args: seen.append(args[-1]))
    first, last = extractor(images)
    tokens = extractor.model.norm(seen[0])[:, COUNTED[name][3] :].transpose(1, 2)
    torch.testing.assert_close(first, tokens.unflatten(2, first.shape[2:]))
    alone: Any = _randomised(record.build())
    torch.testing.assert_close(last, alone(images)[0])
    torch.testing.assert_close(extractor.embed(images), alone.embed(images))
    assert (len(extractor.channels), len(set(extractor.strides))) == (2, 1)


def test_layers_are_an_option() -> None:
    for name, layers, channels, strides in (
        ("uni", "5,11,17,23", (1024,) * 4, (16,) * 4),
        ("timm:vit_tiny_patch16_224", "3,7", (192, 192), (16, 16)),
        ("dinov3-convnext-b", "0,1,2,3", (128, 256, 512, 1024), (4, 8, 16, 32)),
    ):
        info = describe(name, {"layers": layers})
        assert (info.channels, info.strides) == (channels, strides), name
    for layers in ("24", "5,3"):
        with pytest.raises(BenchError, match=f"has layers 0 to 23.*ascending.*got {layers}"):
            describe("uni", {"layers": layers})


def test_only_the_last_stage_of_a_convolutional_model_is_normalised(miniature: Miniature) -> None:
    extractor: Any = miniature("dinov3-convnext-b").build(layers=(2, 3))
    images = _images(1, 3, 64, 64)
    middle, last = extractor(images)
    assert last.mean(dim=1).abs().max() < 1e-4 < middle.mean(dim=1).abs().max()


# ---- other image sizes -----------------------------------------------------------------------


def test_ctranspath_equals_a_model_built_for_the_image_size(miniature: Miniature) -> None:
    from bench.backbones._timm import conv_stem

    record: Any = miniature("ctranspath")
    extractor = _randomised(record.build(layers=(0, 1, 2, 3)))
    assert isinstance(extractor, SwinExtractor)
    options = {**record.build.__self__.options, "embed_layer": conv_stem, "num_classes": 0}
    for size in ((448, 512), (224, 224)):  # the second must not depend on the first
        built: Any = timm.create_model("swin_tiny_patch4_window7_224", img_size=size, **options)
        built.eval().load_state_dict(extractor.model.state_dict(), strict=True)
        images = _images(1, 3, *size)
        last, maps = built.forward_intermediates(extractor.normalise(images))
        expected = [*maps[:3], last.permute(0, 3, 1, 2)]
        for level, other in zip(extractor(images), expected, strict=True):
            torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [224, 384])
def test_sam_equals_a_model_built_for_the_image_size(side: int, miniature: Miniature) -> None:
    from timm.layers.pos_embed import resample_abs_pos_embed_nhwc

    record: Any = miniature("sam-b")
    extractor = _randomised(record.build())
    assert isinstance(extractor, SamExtractor)
    options = {**record.build.__self__.options, "num_classes": 0, "img_size": side}
    built: Any = timm.create_model("samvit_base_patch16", **options).eval()
    state, grid = extractor.model.state_dict(), side // 16
    state["pos_embed"] = resample_abs_pos_embed_nhwc(state["pos_embed"], [grid, grid])
    for axis in "hw":
        name = f"blocks.1.attn.rel_pos_{axis}"  # block 0 has windows, of 14 x 14 at every size
        resized = torch.nn.functional.interpolate(state[name].T[None], 2 * grid - 1, mode="linear")
        state[name] = resized[0].T
    built.load_state_dict(state, strict=True)
    images = _images(1, 3, side, side)
    expected = built.forward_features(extractor.normalise(images))
    torch.testing.assert_close(extractor(images)[0], expected, rtol=1e-4, atol=1e-4)


def test_the_map_of_sam_is_the_necks_and_its_layers_are_the_trunks(miniature: Miniature) -> None:
    images = _images(1, 3, 96, 64)
    record = miniature("sam-b")
    neck, trunk = _randomised(record.build()), _randomised(record.build(layers=(0, 1)))
    assert (neck.channels, trunk.channels) == ((256,), (48, 48))
    torch.testing.assert_close(trunk.model.neck(trunk(images)[-1]), neck(images)[0])


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", ["uni2-h", "virchow2", "musk", "genbio-pathfm", "ctranspath", "sam-b"]
)
def test_a_miniature_gives_the_same_maps_on_a_gpu(name: str, miniature: Miniature) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    extractor = _randomised(miniature(name).build())
    side = 504 if COUNTED[name][2] == 14 else 512
    images = _images(2, 3, side, side)
    (expected,) = extractor(images)
    (level,) = extractor.cuda()(images.cuda())
    assert (level.cpu() - expected).norm() < 1e-3 * expected.norm()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        (rough,) = extractor(images.cuda())
    assert rough.isfinite().all()
    assert (rough.float().cpu() - expected).norm() < 0.2 * expected.norm()


# ---- training data ---------------------------------------------------------------------------


def _marks(name: str, dataset: str) -> tuple[str, ...]:
    opened: Any = SimpleNamespace(backbone=registry.get("backbones", name), untrained=False)
    request: Any = SimpleNamespace(limit=None)
    handle: Any = SimpleNamespace(
        dataset=registry.get("datasets", dataset), has_accepted_labels=False
    )
    return _flags(request, opened, handle, handle)


def test_models_trained_on_tcga_are_marked_on_kumar_and_no_others() -> None:
    for name in ("phikon", "kaiko-s8", "midnight-12k", "musk", "gpfm", "ctranspath", "h0-mini"):
        assert _marks(name, "kumar") == ("trained on TCGA",), name
        assert _marks(name, "tnbc") == (), name
    for name in ("uni", "virchow2", "gigapath", "h-optimus-1", "hibou-l", "conch", "plip"):
        assert _marks(name, "kumar") == (), name
