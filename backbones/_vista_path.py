"""VISTA-PATH, first release: zero-shot segmentation of the class that a text names.

Liang et al. 2026, arXiv:2601.16451; parameter names are those of the released checkpoint. Patch
tokens of PLIP's image tower attend to the tokens of the class prompt and then to those of a box,
which is not supported here. A transformer and an upsampling decoder follow.

Letters: N images, H their side, L = G x G patches, T tokens of the text, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.api.nn import FeatureExtractor, full_precision
from bench.errors import BenchError

from ._clip import Clip, ClipShape

PLIP = ClipShape()
UPSAMPLING = (2, 2, 2, 4)  # after each block of the decoder, 32 in total


@dataclass(frozen=True)
class VistaShape:
    """Sizes of the network; the defaults are those of the release."""

    clip: ClipShape = PLIP
    heads: int = 8
    depth: int = 4
    feed_forward: int = 2048
    decoder: tuple[int, ...] = (256, 128, 64, 32)
    box_channels: int = 16


RELEASED = VistaShape()


class CrossAttention(nn.Module):
    """Post-norm attention of image tokens to a context."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Let tokens (N, L, D) attend to the context (N, T, D)."""
        attended, _ = self.cross_attn(tokens, context, context, need_weights=False)
        return self.norm(tokens + attended)  # (N, L, D)

    def without_context(self, tokens: Tensor) -> Tensor:
        """Apply the layer to (N, L, D) with an empty context, which adds only the output bias."""
        return self.norm(tokens + self.cross_attn.out_proj.bias)  # (N, L, D)


class Decoder(nn.Module):
    """Four convolutions, each followed by bilinear upsampling, and a pixel classifier."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, factor in zip(widths, UPSAMPLING, strict=True):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Upsample(scale_factor=factor, mode="bilinear"),
            ]
            channels = width
        self.decoder = nn.Sequential(*layers, nn.Conv2d(channels, 2, 1))

    def forward(self, grid: Tensor) -> Tensor:
        return self.decoder(grid)  # (N, 2, 32 G, 32 G)


class BoxPrompt(nn.Module):
    """Parameters of SAM's prompt encoder (Kirillov et al. 2023, arXiv:2304.02643, section 3).

    Boxes are not supported, so there is no `forward`; the released checkpoint has the parameters.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.pe_layer = nn.Module()
        self.pe_layer.register_buffer(
            "positional_encoding_gaussian_matrix", torch.randn(2, width // 2)
        )
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.no_mask_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, channels // 4, 2, 2),
            nn.LayerNorm(channels // 4),
            nn.GELU(),
            nn.Conv2d(channels // 4, channels, 2, 2),
            nn.LayerNorm(channels),
            nn.GELU(),
            nn.Conv2d(channels, width, 1),
        )


class VistaPath(FeatureExtractor):
    """Logits of background and of the class that the text names, at the input's resolution.

    The map is (0, m), where m is the log-odds of the class minus those of the threshold: the argmax
    is the decision p > threshold, also after rounding to bfloat16.
    """

    channels = (2,)
    strides = (1,)
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    context: Tensor | None

    def __init__(self, text: str, threshold: float, shape: VistaShape = RELEASED) -> None:
        """Build the network with random weights.

        Args:
            text: name of the class, for the prompt "an image of {text}".
            threshold: probability above which a pixel belongs to the class, in (0, 1).
            shape: sizes of the network.

        Raises:
            BenchError: the text is empty, or the threshold out of range.
        """
        super().__init__()
        if not text.strip():
            raise BenchError(
                "vista-path: the text is empty: pass the name of the class, as in text=nuclei."
            )
        if not 0 < threshold < 1:
            raise BenchError(f"vista-path: threshold={threshold} must be between 0 and 1.")
        width = shape.clip.shared
        self.shape, self.prompt = shape, f"an image of {text}"
        self.log_odds = math.log(threshold / (1 - threshold))
        self.base_model = Clip(shape.clip)
        self.cross_attn_text = CrossAttention(width, shape.heads)
        self.cross_attn_bbx = CrossAttention(width, shape.heads)
        layer = nn.TransformerEncoderLayer(width, shape.heads, shape.feed_forward)
        self.transformer_encoder = nn.TransformerEncoder(
            layer, shape.depth, enable_nested_tensor=False
        )
        self.decoder = Decoder(width, shape.decoder)
        self.prompt_encoder = BoxPrompt(width, shape.box_channels)
        self.register_buffer("context", None, persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        self._check_size(images)
        context = self._encode_prompt().expand(len(images), -1, -1)  # (N, T, D)
        tokens = self.base_model.encode_images(self.normalise(images))  # (N, L, D)
        tokens = self.cross_attn_bbx.without_context(self.cross_attn_text(tokens, context))
        tokens = self._refine(tokens)  # (N, L, D)
        side = self.shape.clip.grid
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))  # (N, D, G, G)
        logits = self.decoder(grid).float()  # (N, 2, H, H)
        margin = logits[:, 1] - logits[:, 0] - self.log_odds  # (N, H, H)
        return [torch.stack([torch.zeros_like(margin), margin], dim=1)]  # [(N, 2, H, H)]

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict; the next `forward` encodes the prompt with its text tower."""
        self.load_state_dict(state, strict=True)
        self.context = None

    def _refine(self, tokens: Tensor) -> Tensor:
        """Run the transformer on (N, L, D) as the release does on a single image.

        The release swaps batch and sequence, so that with one image every token attends only to
        itself. Here the sequence has length one, so that images of a batch do not mix either.
        """
        sequence = tokens.flatten(0, 1)[None]  # (1, N L, D)
        return self.transformer_encoder(sequence)[0].unflatten(0, tokens.shape[:2])  # (N, L, D)

    def _encode_prompt(self) -> Tensor:
        """Return the encoded prompt, cached: (1, T, D), in float32 also inside autocast."""
        if self.context is None:
            device = self.base_model.text_projection.weight.device.type
            with torch.inference_mode(False), torch.no_grad(), full_precision(device):
                self.context = self.base_model.encode_text(self.prompt)
        return self.context

    def _check_size(self, images: Tensor) -> None:
        side = self.shape.clip.image_px
        if tuple(images.shape[-2:]) != (side, side):
            height, width = images.shape[-2:]
            raise BenchError(
                f"vista-path takes images of {side} x {side} pixels only, got {height} x {width}: "
                f"--input-px {side}."
            )


def released_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a released state dict to the names of `VistaPath`.

    Every name starts with "model.". Copies of CLIP's two projections, and the position ids that old
    versions of transformers stored, are dropped.

    Raises:
        BenchError: the state dict is not of the first release.
    """
    if not any(name.startswith("model.base_model.") for name in state):
        raise BenchError(
            "the file is not of VISTA-PATH's first release: no name starts with "
            "'model.base_model.'. Later releases have another network under the same file name: "
            "download the file of commit f74f0b2."
        )
    unused = ("model.image_proj.weight", "model.text_proj.weight", ".position_ids")
    return {
        name.removeprefix("model."): weight
        for name, weight in state.items()
        if not name.endswith(unused)
    }
