"""VISTA-PATH, first release: nuclei, or whatever else a text names, without any training.

Liang et al. 2026, arXiv:2601.16451; parameters are named as in the released checkpoint. Patch
tokens of PLIP's image tower attend to the tokens of the class prompt, then to those of a box, which
we never give; a transformer follows, and a decoder that brings the grid up to the image's size.
Letters: N images, H their side, L = G x G patches, T tokens of the text, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.interface import FeatureExtractor
from bench.runner import full_precision

from ._clip import Clip, ClipShape

PLIP = ClipShape()
UPSAMPLING = (2, 2, 2, 4)  # after each block of the decoder: from a patch of 32 pixels to one


@dataclass(frozen=True)
class VistaShape:
    """Sizes of the network; those of the release by default."""

    clip: ClipShape = PLIP
    heads: int = 8
    depth: int = 4
    feed_forward: int = 2048
    decoder: tuple[int, ...] = (256, 128, 64, 32)
    box_channels: int = 16


RELEASED = VistaShape()


class CrossAttention(nn.Module):
    """Post-norm attention of image tokens to something else."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Let (N, L, D) attend to (N, T, D)."""
        attended, _ = self.cross_attn(tokens, context, context, need_weights=False)
        return self.norm(tokens + attended)  # (N, L, D)

    def without_context(self, tokens: Tensor) -> Tensor:
        """Let (N, L, D) attend to nothing: what is left is the bias of the output."""
        return self.norm(tokens + self.cross_attn.out_proj.bias)  # (N, L, D)


class Decoder(nn.Module):
    """Four convolutions, each followed by bilinear up-sampling, and a classifier of pixels."""

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
    """The parameters of SAM's prompt encoder (Kirillov et al. 2023, arXiv:2304.02643, section 3).

    Without a box it gives nothing to attend to, so there is no `forward`; it is here because the
    release counts and stores it.
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
    """Logits of background and of what the text names, at the resolution of the input.

    The map is (0, m): m is the log-odds of the class less those of the threshold, so that the
    larger channel is the decision p > threshold, also after rounding to bfloat16.
    """

    channels = (2,)
    strides = (1,)
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    context: Tensor | None

    def __init__(self, text: str, threshold: float, shape: VistaShape = RELEASED) -> None:
        """Build the network with random weights.

        Args:
            text: names the class, as in "an image of {text}".
            threshold: probability above which a pixel is of the class, between 0 and 1.
        """
        super().__init__()
        if not text.strip():
            raise BenchError("vista-path needs a text that names the class, as in text=nuclei.")
        if not 0 < threshold < 1:
            raise BenchError(f"vista-path: threshold={threshold} must lie between 0 and 1.")
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
        context = self._context().expand(len(images), -1, -1)  # (N, T, D)
        tokens = self.base_model.see(self.normalise(images))  # (N, L, D)
        tokens = self.cross_attn_bbx.without_context(self.cross_attn_text(tokens, context))
        tokens = self._refine(tokens)  # (N, L, D)
        side = self.shape.clip.grid
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))  # (N, D, G, G)
        logits = self.decoder(grid).float()  # (N, 2, H, H)
        margin = logits[:, 1] - logits[:, 0] - self.log_odds  # (N, H, H)
        return [torch.stack([torch.zeros_like(margin), margin], dim=1)]  # [(N, 2, H, H)]

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state dict; the prompt is read anew by the text tower that it brings."""
        self.load_state_dict(state, strict=True)
        self.context = None

    def _refine(self, tokens: Tensor) -> Tensor:
        """Run the transformer as the release does on one image, on (N, L, D).

        The release takes the tokens for the batch and the images for the sequence. With one image
        each token so attends to itself alone; more images at once must not see each other either.
        """
        alone = tokens.flatten(0, 1)[None]  # (1, N L, D): a sequence of one
        return self.transformer_encoder(alone)[0].unflatten(0, tokens.shape[:2])  # (N, L, D)

    def _context(self) -> Tensor:
        """Read the prompt once: (1, T, D), in float32 whatever the images run in."""
        if self.context is None:
            device = self.base_model.text_projection.weight.device.type
            with torch.inference_mode(False), torch.no_grad(), full_precision(device):
                self.context = self.base_model.read(self.prompt)
        return self.context

    def _check_size(self, images: Tensor) -> None:
        side = self.shape.clip.image_px
        if tuple(images.shape[-2:]) != (side, side):
            height, width = images.shape[-2:]
            raise BenchError(
                f"vista-path takes images of {side} x {side} pixels alone, got {height} x {width}: "
                f"--input-px {side}."
            )


def released_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring a released state dict to the names of `VistaPath`.

    Every name starts with "model."; the two projections of CLIP stand there a second time, under
    names of their own, and old versions of transformers stored the numbers of the positions.

    Raises:
        BenchError: no name is of the first release.
    """
    if not any(name.startswith("model.base_model.") for name in state):
        raise BenchError(
            "the file is not of VISTA-PATH's first release: no name starts with "
            "'model.base_model.'. A later release has another network under the same file name."
        )
    spare = ("model.image_proj.weight", "model.text_proj.weight", ".position_ids")
    return {
        name.removeprefix("model."): each
        for name, each in state.items()
        if not name.endswith(spare)
    }
