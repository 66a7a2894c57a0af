"""CLIP (Radford et al. 2021, arXiv:2103.00020), with the parameter names of transformers.

Two pre-norm transformers with QuickGELU. Both return all tokens, projected to the shared width.

Letters: N sequences, L tokens, C the width of a tower, D the shared width, H side of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError

START, END = 49406, 49407  # tokens around a text; END also pads it


@dataclass(frozen=True)
class TowerShape:
    """Size of one transformer; its MLP is four times as wide."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True)
class ClipShape:
    """Sizes of both towers; the defaults are those of CLIP ViT-B/32."""

    vision: TowerShape = TowerShape(768, 12, 12)
    text: TowerShape = TowerShape(512, 12, 8)
    shared: int = 512
    image_px: int = 224
    patch_px: int = 32
    text_length: int = 77
    vocabulary: int = 49408

    @property
    def grid(self) -> int:
        """Patches along a side of the image."""
        return self.image_px // self.patch_px


class Attention(nn.Module):
    """Self-attention with separate projections to queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Map (N, L, C) to (N, L, C); `mask` (L, L) is True where row may attend to column."""
        q, k, v = (
            projection(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # (N, heads, L, C/heads)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (N, heads, L, C/heads)
        return self.out_proj(y.transpose(1, 2).flatten(2))  # (N, L, C)


class FeedForward(nn.Module):
    """Two linear layers around QuickGELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        wide = self.fc1(tokens)  # (N, L, 4 C)
        return self.fc2(wide * torch.sigmoid(1.702 * wide))  # (N, L, C)


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = FeedForward(width)
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        tokens = tokens + self.self_attn(self.layer_norm1(tokens), mask)  # (N, L, C)
        return tokens + self.mlp(self.layer_norm2(tokens))  # (N, L, C)


class Encoder(nn.Module):
    """A stack of transformer layers."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(shape.width, shape.heads) for _ in range(shape.depth))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, mask)  # (N, L, C)
        return tokens


class PatchEmbeddings(nn.Module):
    """Class token and patches, with position embeddings."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        width, patch = shape.vision.width, shape.patch_px
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=False)
        self.position_embedding = nn.Embedding(1 + shape.grid**2, width)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (N, L, C)
        first = self.class_embedding.expand(len(images), 1, -1).to(patches.dtype)  # (N, 1, C)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight  # (N, 1 + L, C)


class VisionTower(nn.Module):
    """A ViT; its last norm, for the class token, is loaded but not used."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.embeddings = PatchEmbeddings(shape)
        self.pre_layrnorm = nn.LayerNorm(shape.vision.width)
        self.encoder = Encoder(shape.vision)
        self.post_layernorm = nn.LayerNorm(shape.vision.width)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, H) to the patch tokens of the last layer, before any norm."""
        return self.encoder(self.pre_layrnorm(self.embeddings(images)))[:, 1:]  # (N, L, C)


class TextEmbeddings(nn.Module):
    """Token and position embeddings."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(shape.vocabulary, shape.text.width)
        self.position_embedding = nn.Embedding(shape.text_length, shape.text.width)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embedding.weight[: ids.shape[1]]  # (L, C)
        return self.token_embedding(ids) + positions  # (N, L, C)


class TextTower(nn.Module):
    """A causal transformer with a final norm."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(shape)
        self.encoder = Encoder(shape.text)
        self.final_layer_norm = nn.LayerNorm(shape.text.width)

    def forward(self, ids: Tensor, length: int) -> Tensor:
        """Map token ids (N, L) to (N, L, C); no token attends to the padding after `length`."""
        padded = ids.shape[1]
        mask = torch.ones(padded, padded, dtype=torch.bool, device=ids.device).tril()  # (L, L)
        mask[:, length:] = False
        return self.final_layer_norm(self.encoder(self.embeddings(ids), mask))  # (N, L, C)


class Clip(nn.Module):
    """Both towers and their projections to the shared width."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.text_length = shape.text_length
        self.vision_model = VisionTower(shape)
        self.text_model = TextTower(shape)
        self.visual_projection = nn.Linear(shape.vision.width, shape.shared, bias=False)
        self.text_projection = nn.Linear(shape.text.width, shape.shared, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(()))  # loaded, but not used

    def encode_images(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, H) to projected patch tokens (N, L, D)."""
        return self.visual_projection(self.vision_model(images))

    def encode_text(self, text: str) -> Tensor:
        """Map a text to projected tokens (1, L, D), padding included.

        The text is padded to the full length with END, as by the processor of transformers.
        """
        tokens = tokenise(text, self.text_length)
        padded = tokens + [END] * (self.text_length - len(tokens))
        ids = torch.tensor([padded], device=self.text_projection.weight.device)  # (1, L)
        return self.text_projection(self.text_model(ids, len(tokens)))  # (1, L, D)


def tokenise(text: str, length: int) -> list[int]:
    """Return CLIP's token ids of a text, with START and END, truncated to `length`.

    Raises:
        BenchError: open_clip, which contains CLIP's vocabulary, is not installed.
    """
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError as error:
        raise BenchError(
            "CLIP text needs the open_clip tokeniser: `pip install open_clip_torch`."
        ) from error
    return [START, *SimpleTokenizer().encode(text)[: length - 2], END]
