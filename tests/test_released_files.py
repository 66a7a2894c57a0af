"""Released checkpoints, in the names of their authors' libraries, give the right maps.

The files are miniatures in the released layouts: some are written by the library, others are
renamed from timm's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import registry
from bench.api import Backbone
from bench.backbones._keys import BEIT3
from bench.errors import BenchError
from bench.models.checkpoints import read_weights

Miniature = Callable[[str], Backbone]
State = dict[str, Tensor]
BLOCK = r"^blocks\.(\d+)\."
WIDTH = 48  # of the miniatures


def _images(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def _randomised(extractor: Any, seed: int = 1) -> Any:
    """Set every weight and running statistic to a random value."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in extractor.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise.abs() + 0.5 if "running_var" in name else 0.2 * noise)
    return extractor


# ---- the layouts, from timm's names to those of a file ---------------------------------------


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class Written:
    """Writes a state dict of timm in the layout of a released file.

    Attributes:
        renames: patterns and replacements; `<qkv>q k v>` splits queries, keys and values.
        tower: prefix of the names of the image tower.
        spare: shapes of weights that are not needed, by full name.
        squeezed: names of weights without the leading dimensions of 1.
    """

    renames: tuple[tuple[str, str], ...] = ()
    tower: str = ""
    spare: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    squeezed: tuple[str, ...] = ()

    def __call__(self, state: State) -> State:
        written: State = {}
        for old, value in state.items():
            name = old
            for pattern, new in self.renames:
                name = re.sub(pattern, new, name)
            if words := re.search(r"<qkv>(\w+) (\w+) (\w+)>", name):
                for word, part in zip(words.groups(), value.chunk(3), strict=True):
                    written[self.tower + name.replace(words[0], word)] = part
            else:
                written[self.tower + name] = value.squeeze() if name in self.squeezed else value
        return written | {name: _noise(*shape) for name, shape in self.spare.items()}


def _as_timm(state: State) -> State:
    width = state["norm.weight"].shape[0]
    return Written(spare={"head.weight": (2, width), "head.bias": (2,)})(state)


TRANSFORMERS = (
    (BLOCK + r"attn\.qkv\.", r"encoder.layer.\1.attention.attention.<qkv>query key value>."),
    (BLOCK + r"attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
)
VIT = Written(
    (
        *TRANSFORMERS,
        (BLOCK + r"norm1\.", r"encoder.layer.\1.layernorm_before."),
        (BLOCK + r"norm2\.", r"encoder.layer.\1.layernorm_after."),
        (BLOCK + r"mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
        (BLOCK + r"mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
    ),
    spare={"pooler.dense.weight": (WIDTH, WIDTH), "pooler.dense.bias": (WIDTH,)},
)


def _unfolded(state: State) -> State:
    """Separate the position of the class token, as DINOv2 does if it has registers."""
    if "reg_token" not in state:
        return state
    position = _noise(1, 1, WIDTH)
    positions = torch.cat([position, state["pos_embed"]], dim=1)
    return {**state, "cls_token": state["cls_token"] - position, "pos_embed": positions}


def _is_gated(state: State) -> bool:
    return state["blocks.0.mlp.fc1.weight"].shape[0] != state["blocks.0.mlp.fc2.weight"].shape[1]


def _as_dinov2_of_transformers(state: State) -> State:
    words = ("weights_in", "weights_out") if _is_gated(state) else ("fc1", "fc2")
    renames = (
        *TRANSFORMERS,
        (r"^reg_token$", "embeddings.register_tokens"),
        (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
        (r"\.mlp\.fc1\.", f".mlp.{words[0]}."),
        (r"\.mlp\.fc2\.", f".mlp.{words[1]}."),
        (BLOCK, r"encoder.layer.\1."),
    )
    return Written(renames, spare={"embeddings.mask_token": (1, WIDTH)})(_unfolded(state))


def _as_dinov2(state: State) -> State:
    swiglu = ((r"\.fc1\.", ".w12."), (r"\.fc2\.", ".w3.")) if _is_gated(state) else ()
    renames = ((r"^reg_token$", "register_tokens"), *swiglu)
    return Written(renames, spare={"mask_token": (1, WIDTH)})(_unfolded(state))


DINOV3 = Written(
    (
        (r"^reg_token$", "storage_tokens"),
        (r"\.gamma_([12])$", r".ls\1.gamma"),
        (r"\.fc1_g\.", ".w1."),
        (r"\.fc1_x\.", ".w2."),
        (r"\.fc2\.", ".w3."),
    ),
    spare={"rope_embed.periods": (6,)},
)
CLIP_OF_TRANSFORMERS = Written(
    (
        (BLOCK + r"attn\.qkv\.", r"encoder.layers.\1.self_attn.<qkv>q_proj k_proj v_proj>."),
        (BLOCK + r"attn\.proj\.", r"encoder.layers.\1.self_attn.out_proj."),
        (BLOCK + r"norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
        (BLOCK, r"encoder.layers.\1."),
        (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
        (r"^norm_pre\.", "pre_layrnorm."),
        (r"^norm\.", "post_layernorm."),
        (r"^pos_embed$", "embeddings.position_embedding.weight"),
        (r"^cls_token$", "embeddings.class_embedding"),
    ),
    tower="vision_model.",
    spare={
        "vision_model.embeddings.position_ids": (1, 50),
        "text_model.embeddings.token_embedding.weight": (4, 8),
        "visual_projection.weight": (8, WIDTH),
        "logit_scale": (),
    },
    squeezed=("embeddings.class_embedding", "embeddings.position_embedding.weight"),
)
OPEN_CLIP = Written(
    (
        (BLOCK + r"attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj_"),
        (BLOCK + r"attn\.proj\.", r"transformer.resblocks.\1.attn.out_proj."),
        (BLOCK + r"mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
        (BLOCK + r"mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
        (BLOCK + r"norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"^pos_embed$", "positional_embedding"),
        (r"^cls_token$", "class_embedding"),
    ),
    tower="visual.",
    spare={
        "transformer.resblocks.0.ln_1.weight": (8,),
        "token_embedding.weight": (4, 8),
        "visual.proj": (WIDTH, 8),
        "logit_scale": (),
    },
    squeezed=("class_embedding", "positional_embedding"),
)
BEIT3_FILE = Written(
    (
        (BLOCK + r"attn\.qkv\.", r"encoder.layers.\1.self_attn.<qkv>q_proj k_proj v_proj>.A."),
        (BLOCK + r"attn\.proj\.", r"encoder.layers.\1.self_attn.out_proj.A."),
        (BLOCK + r"attn\.norm\.", r"encoder.layers.\1.self_attn.inner_attn_ln.A."),
        (BLOCK + r"mlp\.norm\.", r"encoder.layers.\1.ffn.A.ffn_layernorm."),
        (BLOCK + r"mlp\.", r"encoder.layers.\1.ffn.A."),
        (BLOCK + r"norm1\.", r"encoder.layers.\1.self_attn_layer_norm.A."),
        (BLOCK + r"norm2\.", r"encoder.layers.\1.final_layer_norm.A."),
        (r"^patch_embed\.", "vision_embed."),
        (r"^norm\.", "encoder.layer_norm.A."),
        (r"^pos_embed$", "encoder.embed_positions.A.weight"),
        (r"^cls_token$", "vision_embed.cls_token"),
    ),
    tower="beit3.",
    spare={
        "beit3.text_embed.weight": (4, WIDTH),
        "beit3.vision_embed.mask_token": (1, 1, WIDTH),
        "vision_head.weight": (8, WIDTH),
        "language_head.weight": (8, WIDTH),
        "logit_scale": (),
    },
)


def _as_beit3(state: State) -> State:
    written = BEIT3_FILE(state)
    positions = "beit3.encoder.embed_positions.A.weight"
    written[positions] = torch.cat([_noise(2, WIDTH), written[positions][0]])
    texts = {name.replace(".A.", ".B."): 2 * v for name, v in written.items() if ".A." in name}
    return written | texts


def _as_swins_authors(state: State) -> State:
    """Name patch merging by the stage that it ends, and add the buffers."""
    written = {
        re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", n): v
        for n, v in state.items()
    }
    return written | {
        "layers.0.blocks.1.attn_mask": _noise(64, 49, 49),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long),
    }


FILES: dict[str, Callable[[State], State]] = {  # one model of each layout
    "uni2-h": _as_timm,
    "openmidnight": _as_dinov2,  # with registers and SwiGLU
    "gpfm": _as_dinov2,  # without
    "phikon": VIT,
    "midnight-12k": _as_dinov2_of_transformers,
    "hibou-b": _as_dinov2_of_transformers,  # with registers
    "plip": CLIP_OF_TRANSFORMERS,
    "quiltnet": OPEN_CLIP,
    "musk": _as_beit3,
    "conch": Written(tower="visual.trunk.", spare={"text.cls_emb": (8,)}),
    "conch-v1.5": Written(tower="trunk.", spare={"attn_pool_contrast.query": (1, 8)}),
    "genbio-pathfm": DINOV3,
    "ctranspath": _as_swins_authors,
    "sam-b": Written(
        ((r"\.mlp\.fc([12])\.", r".mlp.lin\1."),),
        tower="image_encoder.",
        spare={"prompt_encoder.not_a_point_embed.weight": (1, 256)},
    ),
    "dinov3-convnext-b": Written(),
}


def _file(name: str, layout: Callable[[State], State], miniature: Miniature) -> tuple[Any, State]:
    """Return a miniature with random weights, and its state in the layout of a file."""
    released = _randomised(miniature(name).build())
    return released, layout(dict(released.model.state_dict()))


def _loaded(record: Backbone, state: State) -> Any:
    extractor: Any = record.build()
    assert record.convert is not None
    extractor.load(record.convert(state, extractor))
    return extractor


# ---- loading ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layout"), FILES.items())
def test_a_released_file_gives_its_map_and_every_weight_is_required(
    name: str, layout: Callable[[State], State], miniature: Miniature
) -> None:
    released, state = _file(name, layout, miniature)
    images = _images(1, 3, 224, 224)
    loaded = _loaded(miniature(name), state)
    torch.testing.assert_close(loaded(images)[0], released(images)[0], rtol=1e-4, atol=1e-5)
    assert not any(weight.requires_grad for weight in loaded.parameters())
    start = "beit3." if name == "musk" else getattr(layout, "tower", "")
    tower = re.compile(re.escape(start) + r".*\b1\.(?!.*(\.B\.|attn_mask|num_batches))")
    parts = [key for key in state if tower.match(key)]
    assert parts
    for part in parts[:: max(1, len(parts) // 3)]:
        with pytest.raises(RuntimeError):
            _loaded(miniature(name), {key: v for key, v in state.items() if key != part})
    with pytest.raises(RuntimeError, match="strange"):
        _loaded(miniature(name), state | {f"{start}strange.weight": _noise(3)})


def test_every_layout_is_tested() -> None:
    def layout_of(name: str) -> object:
        build = registry.get("backbones", name).build
        return getattr(getattr(build, "__self__", None), "layout", None)

    names = [name for name in registry.names("backbones") if not name.endswith(":")]
    layouts = {layout_of(name) for name in names}
    assert len(layouts) > 5
    assert layouts == {layout_of(name) for name in FILES}


def test_a_file_without_the_tower_is_refused(miniature: Miniature) -> None:
    for name in ("conch", "plip", "musk"):
        with pytest.raises(BenchError, match="no such image tower"):
            _loaded(miniature(name), {"text.weight": _noise(3)})


def test_a_file_of_another_grid_keeps_its_positions(miniature: Miniature) -> None:
    for name in ("midnight-12k", "hibou-b", "musk", "uni2-h"):
        released = _randomised(miniature(name).build())
        released.model.set_input_size((112, 112))
        state = FILES[name](dict(_randomised(released).model.state_dict()))
        loaded, images = _loaded(miniature(name), state), _images(1, 3, 112, 112)
        torch.testing.assert_close(loaded(images)[0], released(images)[0])


# ---- against the libraries of the authors ----------------------------------------------------

SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def _near(level: Tensor, expected: Tensor) -> bool:
    return bool((level - expected).norm() <= 1e-5 * expected.norm())


def _saved(model: Any, folder: Path) -> State:
    """Save a model with its library and read the file."""
    model.save_pretrained(folder)
    return dict(read_weights(folder / "model.safetensors").tensors)


def _grid(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "kind", "fields", "prefix"),
    [
        ("phikon", "ViT", {"intermediate_size": 192, "layer_norm_eps": 1e-12}, 1),
        ("phikon-v2", "Dinov2", {"patch_size": 16}, 1),
        ("midnight-12k", "Dinov2", {"patch_size": 14, "use_swiglu_ffn": True}, 1),
        ("hibou-b", "Dinov2WithRegisters", {"patch_size": 14, "use_swiglu_ffn": True}, 5),
    ],
)  # fmt: skip
def test_a_file_of_transformers_gives_its_hidden_state(
    name: str, kind: str, fields: dict[str, Any], prefix: int, tmp_path: Path, miniature: Miniature
) -> None:
    library: Any = pytest.importorskip("transformers")
    config = getattr(library, f"{kind}Config")(image_size=224, **SMALL, **fields)
    model = _randomised(getattr(library, f"{kind}Model")(config).eval())
    loaded, images = _loaded(miniature(name), _saved(model, tmp_path)), _images(2, 3, 224, 224)
    (level,) = loaded(images)
    expected = model(pixel_values=loaded.normalise(images)).last_hidden_state
    assert _near(level, _grid(expected[:, prefix:], level))
    assert _near(loaded.embed(images), expected[:, 0])


@torch.no_grad()
def test_a_file_of_transformers_clip_gives_its_normalised_tokens(
    tmp_path: Path, miniature: Miniature
) -> None:
    library: Any = pytest.importorskip("transformers")
    vision = {**SMALL, "intermediate_size": 192, "image_size": 224, "patch_size": 32}
    text = {**SMALL, "intermediate_size": 64, "vocab_size": 10, "eos_token_id": 9}
    model = _randomised(
        library.CLIPModel(library.CLIPConfig(text_config=text, vision_config=vision)).eval()
    )
    loaded, images = _loaded(miniature("plip"), _saved(model, tmp_path)), _images(2, 3, 224, 224)
    (level,) = loaded(images)
    tower = model.vision_model
    hidden = tower(loaded.normalise(images)).last_hidden_state[:, 1:]
    assert _near(level, _grid(tower.post_layernorm(hidden), level))


@torch.no_grad()
def test_a_file_of_open_clip_gives_its_tokens(miniature: Miniature) -> None:
    import open_clip

    from bench.backbones._open_clip import SMALLEST_TEXT_TOWER

    vision = open_clip.CLIPVisionCfg(
        layers=2, width=48, head_width=24, patch_size=32, image_size=224
    )
    clip = open_clip.CLIP(8, vision, SMALLEST_TEXT_TOWER, quick_gelu=True)  # type: ignore[arg-type]
    tower: Any = _randomised(clip.visual.eval())
    state = {f"visual.{name}": value for name, value in tower.state_dict().items()}
    loaded, images = _loaded(miniature("quiltnet"), state), _images(2, 3, 224, 224)
    expected = tower.forward_intermediates(
        loaded.normalise(images), indices=1, normalize_intermediates=True
    )
    assert _near(loaded(images)[0], expected["image_intermediates"][0])


def test_names_are_converted_as_by_timm(miniature: Miniature) -> None:
    from timm.models.eva import checkpoint_filter_fn
    from timm.models.vision_transformer import _convert_beit3

    released, state = _file("musk", _as_beit3, miniature)
    vision = {name: value for name, value in state.items() if name.startswith("beit3.")}
    beit3 = {
        re.sub(r"^layer_norm\.", "norm.", name): value
        for name, value in _convert_beit3(vision, released.model).items()
    }
    _assert_equal(BEIT3(state, released), beit3)
    released, state = _file("genbio-pathfm", DINOV3, miniature)
    record = miniature("genbio-pathfm")
    assert record.convert is not None
    _assert_equal(
        record.convert(state, released), checkpoint_filter_fn(dict(state), released.model)
    )


def _assert_equal(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
