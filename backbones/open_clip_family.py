"""`open_clip:MODEL/PRETRAINED`: the image tower of any open_clip model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.api import Backbone, BackboneFamily, Weights
from bench.errors import BenchError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.api import FeatureExtractor

DEFAULT_FILE = "open_clip_model.safetensors"  # of releases without a file name


def _build(model: str, tag: str) -> FeatureExtractor:
    released = _released(model, tag)  # first, for its error if open_clip is not installed
    from ._open_clip import build_tower

    return build_tower(model, released)


def _convert(state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
    from ._open_clip import tower_state

    return tower_state(state, extractor)


def _expand(name: str) -> Backbone:
    model, _, tag = name.rpartition("/")
    repo, _, file = _released(model, tag).get("hf_hub", "").rpartition("/")
    import torch

    with torch.device("meta"):
        extractor = _build(model, tag)
    return Backbone(
        name=f"open_clip:{name}",
        build=partial(_build, model, tag),
        weights=Weights(repo=repo, file=(file or DEFAULT_FILE) if repo else ""),
        convert=_convert,
        title=f"image tower of open_clip {model}, {tag}",
        params=sum(weight.numel() for weight in extractor.parameters()),
        input_px=getattr(extractor, "fixed_px", None),
    )


def _released(model: str, tag: str) -> dict[str, Any]:
    """Return open_clip's configuration of a release: repository, file, mean, std, activation.

    Raises:
        BenchError: open_clip is not installed, or has no such model or release.
    """
    try:
        import open_clip
    except ImportError as error:
        raise BenchError("open_clip is not installed: `pip install open_clip_torch`.") from error
    models = open_clip.list_models()
    if model not in models:
        hint = did_you_mean(model or tag, models)
        raise BenchError(
            f"open_clip has no model {model!r}.{hint} The format is open_clip:MODEL/PRETRAINED, "
            "for example open_clip:ViT-B-32/laion2b_s34b_b79k."
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        available = ", ".join(tags) or "none"
        raise BenchError(f"open_clip's {model} has no weights {tag!r}; it has: {available}.")
    return open_clip.get_pretrained_cfg(model, tag)


OPEN_CLIP = BackboneFamily(
    name="open_clip:",
    expand=_expand,
    title="the image tower of any open_clip model: open_clip:MODEL/PRETRAINED",
)
