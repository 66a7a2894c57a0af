"""State dict layouts of released ViTs, and their conversion to timm's names.

A layout renames the names it lists, drops heads, poolers and mask tokens, and passes every other
name through, so that strict loading reports it.

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
    """A callable that converts a state dict to timm's names.

    Attributes:
        tower: prefix of the image tower's names; other names are ignored.
        dropped: pattern of names that the maps do not need.
        renames: pairs of a pattern and its replacement, applied in this order.
        spare_positions: leading rows of the position embedding that belong to no token.
    """

    tower: str = ""
    dropped: str = r"^(mask_token$|head\.)"
    renames: tuple[tuple[str, str], ...] = ()
    spare_positions: int = 0

    def __call__(self, state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
        """Return the image tower with timm's names.

        Raises:
            BenchError: no name has the prefix `tower`.
        """
        tower = {
            name.removeprefix(self.tower): weight
            for name, weight in state.items()
            if name.startswith(self.tower)
        }
        renamed = {
            self._renamed(name): weight
            for name, weight in tower.items()
            if not re.search(self.dropped, name)
        }
        if not renamed:
            raise BenchError(
                f"the file has no such image tower: no name starts with {self.tower!r}. "
                "Check that it is a file of this model."
            )
        renamed = self._reshaped(_fuse_qkv(renamed))
        if any(name.endswith("register_tokens") for name in state):
            _fold_class_position(renamed)
        return renamed

    def _renamed(self, name: str) -> str:
        for pattern, new in self.renames:
            name = re.sub(pattern, new, name)
        return name

    def _reshaped(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give class token and positions timm's shapes, (1, 1, C) and (1, L, C), in place."""
        if "cls_token" in state:
            state["cls_token"] = state["cls_token"].reshape(1, 1, -1)
        if "pos_embed" in state and state["pos_embed"].ndim == 2:
            state["pos_embed"] = state["pos_embed"][None, self.spare_positions :]
        return state


def _fuse_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack the projections to queries, keys and values, which timm has in one layer, in place."""
    import torch

    for match in [_PROJECTION.fullmatch(name) for name in state]:
        if match is None:
            continue
        parts = [f"{match[1]}.{projection}.{match[3]}" for projection in "qkv"]
        if all(part in state for part in parts):
            state[f"{match[1]}.qkv.{match[3]}"] = torch.cat([state.pop(part) for part in parts])
    return state


def _fold_class_position(state: dict[str, Tensor]) -> None:
    """Add the class token's position to it, in place: with registers, timm has none for it."""
    if "cls_token" in state and "pos_embed" in state:
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]


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

TRANSFORMERS_VIT = Layout(  # ViTModel of transformers 4
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


def transformers_layout(state: Mapping[str, Tensor]) -> Layout | None:
    """Return the layout of a ViT of transformers; None if the names are others."""
    if "embeddings.cls_token" not in state:
        return None
    is_plain = any(".layernorm_before." in name for name in state)
    return TRANSFORMERS_VIT if is_plain else TRANSFORMERS_DINOV2


TRANSFORMERS_CLIP = Layout(  # CLIPModel and CLIPVisionModel
    tower="vision_model.",
    dropped=r"^embeddings\.position_ids$",
    renames=(
        (r"^embeddings\.class_embedding$", "cls_token"),
        (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^pre_layrnorm\.", "norm_pre."),  # the spelling of the files
        (r"^post_layernorm\.", "norm."),
        (r"^encoder\.layers\.", "blocks."),
        (r"\.layer_norm([12])\.", r".norm\1."),
        (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
        (r"\.self_attn\.out_proj\.", ".attn.proj."),
    ),
)

DINOV2 = Layout(  # DINOv2's reference code; files with timm's names pass through
    renames=(
        (r"^register_tokens$", "reg_token"),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
)

DINOV3 = Layout(  # DINOv3's reference code
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
    spare_positions=2,  # torchscale reserves the first two rows for padding
)

TRUNK = Layout(tower="trunk.")  # a timm model in an image tower
VISUAL_TRUNK = Layout(tower="visual.trunk.")  # the same in a CLIP
