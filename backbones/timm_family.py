"""`timm:NAME[.TAG]`: any model of pytorch-image-models, with the release that the tag names."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

from bench.api import Backbone, BackboneFamily, Weights
from bench.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ._timm import TimmExtractor


def build_timm(architecture: str) -> TimmExtractor:
    """Build the extractor of a timm model, with random weights."""
    from ._timm import TimmExtractor

    return TimmExtractor(architecture)


def convert_timm(state: Mapping[str, Tensor], extractor: nn.Module) -> Mapping[str, Tensor]:
    """Bring a state dict that was released for timm to the names of the extractor."""
    from ._timm import released_state

    return released_state(state, extractor)


def _expand(name: str) -> Backbone:
    import timm
    import torch

    _check(name)
    released = timm.get_pretrained_cfg(name)
    with torch.device("meta"):
        extractor = build_timm(name)
    repo = (released and released.hf_hub_id) or ""
    file = (released and released.hf_hub_filename) or "model.safetensors"
    return Backbone(
        name=f"timm:{name}",
        build=partial(build_timm, name),
        weights=Weights(repo=repo, file=file if repo else ""),
        convert=convert_timm,
        title=f"timm {name}",
        paper=_paper(released),
        license=(released and released.license) or "unknown",
        params=sum(each.numel() for each in extractor.parameters()),
        input_px=extractor.fixed_px,
    )


def _check(name: str) -> None:
    """Raise a BenchError, with suggestions, where timm has no such model or release."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise BenchError(
            f'timm has no model {architecture!r}.{hint} `python -c "import timm; '
            f"print(timm.list_models('*vit*'))\"` lists them."
        )
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        known = f"it has {', '.join(tags)}" if tags else "it has none"
        raise BenchError(f"timm's {architecture} has no release {tag!r}; {known}.")


def _paper(released: object) -> str:
    named = getattr(released, "paper_ids", None) or getattr(released, "origin_url", None) or ""
    return named if isinstance(named, str) else ", ".join(named)


TIMM = BackboneFamily(name="timm:", expand=_expand, title="any timm model: timm:NAME[.TAG]")
