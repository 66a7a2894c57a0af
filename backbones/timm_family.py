"""`timm:NAME[.TAG]`: any model of pytorch-image-models; the tag selects released weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import Backbone, BackboneFamily, Weights
from bench.errors import BenchError, did_you_mean

from ._network import Network

if TYPE_CHECKING:
    from ._timm import TimmExtractor


def _expand(name: str) -> Backbone:
    import timm
    import torch

    _check(name)
    released = timm.get_pretrained_cfg(name)
    network = Network(name)
    with torch.device("meta"):
        extractor = network.build()
    repo = (released and released.hf_hub_id) or ""
    file = (released and released.hf_hub_filename) or "model.safetensors"
    return Backbone(
        name=f"timm:{name}",
        build=network.build,
        weights=Weights(repo=repo, file=file if repo else ""),
        convert=network.convert,
        title=f"timm {name}",
        paper=_paper(released),
        license=(released and released.license) or "unknown",
        params=sum(weight.numel() for weight in extractor.parameters()),
        patch=_patch(extractor),
        input_px=extractor.fixed_px,
    )


def _check(name: str) -> None:
    """Raise a BenchError with suggestions if timm has no such model or release."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models())
        raise BenchError(
            f'timm has no model {architecture!r}.{hint} `python -c "import timm; '
            f"print(timm.list_models('*vit*'))\"` lists them."
        )
    tags = [release.partition(".")[2] for release in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        available = ", ".join(tags) or "none"
        raise BenchError(f"timm's {architecture} has no release {tag!r}; it has {available}.")


def _patch(extractor: TimmExtractor) -> int | None:
    """Return the patch side of a plain ViT; None for hierarchical models and CNNs."""
    sides = getattr(getattr(extractor.model, "patch_embed", None), "patch_size", (0,))
    return sides[0] if sides[0] == extractor.strides[-1] else None


def _paper(released: object) -> str:
    papers = getattr(released, "paper_ids", None) or getattr(released, "origin_url", None) or ""
    return papers if isinstance(papers, str) else ", ".join(papers)


TIMM = BackboneFamily(name="timm:", expand=_expand, title="any timm model: timm:NAME[.TAG]")
