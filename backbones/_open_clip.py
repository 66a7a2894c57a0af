"""Image towers of open_clip as frozen extractors of one map.

Letters: N images, H and W their sides, s the stride (the patch of a ViT), L = HW / s^2 patches,
C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from bench.api.nn import FeatureExtractor
from bench.errors import BenchError

from ._timm import Colour, TimmExtractor, released_state

SMALLEST_TEXT_TOWER = {"layers": 1, "width": 1, "heads": 1, "vocab_size": 1, "context_length": 1}


class ViTTower(FeatureExtractor):
    """Patch tokens of a ViT after the final norm.

    Projection and attention pooling are dropped. If the final norm belongs to the pooling (CoCa),
    the tokens are those of the last block. timm's function resizes the position embeddings.
    """

    def __init__(self, visual: Any, mean: Colour, std: Colour) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.dropped = {"proj"}
        if visual.attn_pool is not None:
            self.dropped |= {"attn_pool", "attn_pool_contrastive", "ln_post"}
        for name in self.dropped & {*dict(visual.named_children()), "proj"}:
            setattr(visual, name, None)
        self.visual: Any = visual
        self.channels = (visual.class_embedding.shape[0],)
        self.strides = (visual.patch_size[0],)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        rows, columns = (side // self.strides[0] for side in images.shape[-2:])
        patches = self._tokens(images)[:, 1:].transpose(1, 2)  # (N, C, L)
        return [patches.unflatten(2, (rows, columns))]  # [(N, C, H/s, W/s)]

    def embed(self, images: Tensor) -> Tensor:
        """Return the class token after the final norm: (N, C)."""
        return self._tokens(images)[:, 0]  # (N, C)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a tower's state dict; position embeddings keep the grid of the file."""
        positions = state.get("positional_embedding")
        if positions is not None and positions.shape != self.visual.positional_embedding.shape:
            self.visual.positional_embedding = nn.Parameter(
                torch.empty_like(positions, dtype=torch.float32), requires_grad=False
            )
        self.visual.load_state_dict(state, strict=True)

    def _tokens(self, images: Tensor) -> Tensor:
        visual = self.visual
        grid = visual.conv1(self.normalise(images))  # (N, C, H/s, W/s)
        patches = grid.flatten(2).transpose(1, 2)  # (N, L, C)
        first = visual.class_embedding.to(patches.dtype).expand(len(images), 1, -1)  # (N, 1, C)
        tokens = torch.cat([first, patches], dim=1)  # (N, 1 + L, C)
        tokens = tokens + self._positions(*grid.shape[-2:]).to(tokens.dtype)
        tokens = visual.transformer(visual.ln_pre(tokens))  # (N, 1 + L, C)
        return tokens if visual.ln_post is None else visual.ln_post(tokens)

    def _positions(self, rows: int, columns: int) -> Tensor:
        positions = self.visual.positional_embedding[None]  # (1, 1 + L', C)
        side = math.isqrt(positions.shape[1] - 1)
        return resample_abs_pos_embed(positions, [rows, columns], [side, side])  # (1, 1 + L, C)


class ResNetTower(FeatureExtractor):
    """Last map of CLIP's ResNet; its attention pooling is dropped."""

    def __init__(self, visual: Any, mean: Colour, std: Colour) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.channels = (visual.attnpool.k_proj.in_features,)
        self.strides = (32,)
        self.dropped = {"attnpool"}
        visual.attnpool = None
        self.visual: Any = visual
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        visual = self.visual
        x = visual.layer1(visual.stem(self.normalise(images)))  # (N, C/8, H/4, W/4)
        return [visual.layer4(visual.layer3(visual.layer2(x)))]  # [(N, C, H/32, W/32)]

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a tower's state dict."""
        self.visual.load_state_dict(state, strict=True)


def build_tower(model: str, released: Mapping[str, Any]) -> FeatureExtractor:
    """Build the image tower of an open_clip model, with random weights.

    Args:
        model: open_clip's name of the architecture.
        released: open_clip's configuration of the release, for mean, std and activation. A release
            trained with QuickGELU gets it, whether or not the architecture name says so.
    """
    config: dict[str, Any] = open_clip.get_model_config(model) or {}
    vision = config["vision_cfg"]
    mean, std = tuple(released["mean"]), tuple(released["std"])
    if name := vision.get("timm_model_name"):
        return TimmExtractor(name, mean=mean, std=std, options=_timm_options(vision))
    quick = bool(config.get("quick_gelu") or released.get("quick_gelu"))
    # open_clip has no public constructor of the image tower alone.
    clip = open_clip.CLIP(config["embed_dim"], vision, SMALLEST_TEXT_TOWER, quick_gelu=quick)  # type: ignore[arg-type]
    tower = ViTTower if isinstance(clip.visual, VisionTransformer) else ResNetTower
    return tower(clip.visual, mean, std)


def tower_state(state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
    """Return the image tower of a CLIP's state dict, with the names of the extractor.

    Raises:
        BenchError: the state dict has no image tower.
    """
    weights = {name.removeprefix("module."): weight for name, weight in state.items()}
    prefix = "visual.trunk." if isinstance(extractor, TimmExtractor) else "visual."
    tower = {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }
    if not tower:
        raise BenchError(
            f"the file has no such image tower: no name starts with {prefix!r}. "
            "Check that it is a file of this model."
        )
    if isinstance(extractor, TimmExtractor):
        return released_state(tower, extractor)
    assert isinstance(extractor, ViTTower | ResNetTower)
    return {
        name: weight
        for name, weight in tower.items()
        if name.split(".")[0] not in extractor.dropped
    }


def _timm_options(vision: Mapping[str, Any]) -> dict[str, object]:
    """Return the pooling with which open_clip builds its timm tower: it decides the norms."""
    pool, projection = vision.get("timm_pool", "avg"), vision.get("timm_proj", "linear")
    has_custom_head = projection in ("linear", "mlp") or pool in ("abs_attn", "rot_attn")
    return {} if has_custom_head else {"global_pool": pool}
