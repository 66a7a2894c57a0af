"""How released files name the parts of a ViT, and the way from there to timm's names.

A layout renames what it knows, drops what is named here (heads, poolers, mask tokens) and lets
everything else through, so that strict loading refuses it.

Letters: L positions, C channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor, nn

_PROJECTION = re.compile(r"(blocks\.\d+\.attn)\.([qkv])\.(weight|bias)")


@dataclass(frozen=True)
class Layout:
    """The names in a file, as a function from its state dict to one in timm's names.

    Attributes:
        tower: what the names of the image tower start with; the rest of the file is left aside.
        dropped: a pattern of names that the maps do not need.
        renames: patterns and what stands for them in timm's names, applied in this order.
        spare_positions: rows of the position embedding that belong to no token.
    """

    tower: str = ""
    dropped: str = r"^(mask_token$|head\.)"
    renames: tuple[tuple[str, str], ...] = ()
    spare_positions: int = 0

    def __call__(self, state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
        """Give the image tower in timm's names.

        Raises:
            BenchError: the file holds no such tower.
        """
        named = {
            self._renamed(name.removeprefix(self.tower)): each
            for name, each in state.items()
            if name.startswith(self.tower) and not self._drops(name.removeprefix(self.tower))
        }
        if not named:
            raise BenchError(
                f"the file holds no such image tower: no name starts with {self.tower!r}."
            )
        folds = any(name.endswith("register_tokens") for name in state)
        return _folded(self._shaped(_fused(named)), folds)

    def _drops(self, name: str) -> bool:
        return re.search(self.dropped, name) is not None

    def _renamed(self, name: str) -> str:
        for pattern, new in self.renames:
            name = re.sub(pattern, new, name)
        return name

    def _shaped(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give the class token and the positions timm's shapes, (1, 1, C) and (1, L, C)."""
        if "cls_token" in named:
            named["cls_token"] = named["cls_token"].reshape(1, 1, -1)
        if "pos_embed" in named and named["pos_embed"].ndim == 2:
            named["pos_embed"] = named["pos_embed"][None, self.spare_positions :]
        return named


def _fused(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack the projections to queries, keys and values; timm has them as one."""
    import torch

    for name in [each for each in named if _PROJECTION.fullmatch(each)]:
        found = _PROJECTION.fullmatch(name)
        assert found is not None
        parts = [f"{found[1]}.{each}.{found[3]}" for each in "qkv"]
        if all(part in named for part in parts):
            named[f"{found[1]}.qkv.{found[3]}"] = torch.cat([named.pop(part) for part in parts])
    return named


def _folded(named: dict[str, Tensor], folds: bool) -> dict[str, Tensor]:
    """Add the class token's position to it: beside registers, timm's has none of its own."""
    if folds and "cls_token" in named and "pos_embed" in named:
        named["cls_token"] = named["cls_token"] + named["pos_embed"][:, :1]
        named["pos_embed"] = named["pos_embed"][:, 1:]
    return named


_TRANSFORMERS = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.(q)uery\.", r".attn.\1."),
    (r"\.attention\.attention\.(k)ey\.", r".attn.\1."),
    (r"\.attention\.attention\.(v)alue\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
)

TRANSFORMERS_VIT = Layout(  # ViTModel, in the names of its files (transformers 4)
    dropped=r"^pooler\.",
    renames=(
        *_TRANSFORMERS,
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    ),
)

TRANSFORMERS_DINOV2 = Layout(  # Dinov2Model and Dinov2WithRegistersModel
    dropped=r"^embeddings\.mask_token$",
    renames=(
        *_TRANSFORMERS,
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    ),
)

TRANSFORMERS_CLIP = Layout(  # CLIPModel and CLIPVisionModel
    tower="vision_model.",
    dropped=r"^embeddings\.position_ids$",
    renames=(
        (r"^embeddings\.class_embedding$", "cls_token"),
        (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^pre_layrnorm\.", "norm_pre."),  # so spelt in the files
        (r"^post_layernorm\.", "norm."),
        (r"^encoder\.layers\.", "blocks."),
        (r"\.layer_norm([12])\.", r".norm\1."),
        (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
        (r"\.self_attn\.out_proj\.", ".attn.proj."),
    ),
)

DINOV2 = Layout(  # the authors' own code; files in timm's names pass through
    renames=(
        (r"^register_tokens$", "reg_token"),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
)

DINOV3 = Layout(  # the authors' own code
    dropped=r"^(mask_token|rope_embed\.periods)$",
    renames=(
        (r"^storage_tokens$", "reg_token"),
        (r"\.ls([12])\.gamma$", r".gamma_\1"),
        (r"\.mlp\.w1\.", ".mlp.fc1_g."),
        (r"\.mlp\.w2\.", ".mlp.fc1_x."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
)

BEIT3 = Layout(  # branch A of its transformer is vision, branch B text
    tower="beit3.",
    dropped=r"^text_embed\.|^vision_embed\.mask_token$|\.B\.",
    renames=(
        (r"^vision_embed\.cls_token$", "cls_token"),
        (r"^vision_embed\.proj\.", "patch_embed.proj."),
        (r"\.A\.", "."),
        (r"^encoder\.embed_positions\.weight$", "pos_embed"),
        (r"^encoder\.layer_norm\.", "norm."),
        (r"^encoder\.layers\.", "blocks."),
        (r"\.self_attn_layer_norm\.", ".norm1."),
        (r"\.final_layer_norm\.", ".norm2."),
        (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
        (r"\.self_attn\.inner_attn_ln\.", ".attn.norm."),
        (r"\.self_attn\.out_proj\.", ".attn.proj."),
        (r"\.ffn\.ffn_layernorm\.", ".mlp.norm."),
        (r"\.ffn\.", ".mlp."),
    ),
    spare_positions=2,  # torchscale keeps the first two rows for padding
)

TRUNK = Layout(tower="trunk.")  # a timm model inside a tower
VISUAL_TRUNK = Layout(tower="visual.trunk.")  # and that inside a CLIP
