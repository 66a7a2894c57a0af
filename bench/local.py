"""Say which weights this machine holds already: no network, no torch, nothing is hashed."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from bench import hub
from bench.api import Backbone, Weights
from bench.cache_place import cache_root, cache_root_if_any


def users_file(backbone: Backbone) -> Path:
    """Give the place in the user's cache where a file of weights for a backbone is looked for."""
    safe = re.sub(r"[^\w.-]", "-", backbone.weights_name or backbone.name)
    return cache_root() / "weights" / f"{safe}.safetensors"


def held_file(backbone: Backbone) -> Path | None:
    """Give the file of weights for a backbone in the user's cache; None where there is none."""
    if cache_root_if_any() is None:
        return None
    file = users_file(backbone)
    return file if file.is_file() else None


def packaged_file(weights: Weights) -> Path | None:
    """Give the place of weights that a Python package brings; None where it is not installed."""
    try:
        return Path(str(files(weights.package) / weights.file))
    except ModuleNotFoundError:
        return None


def holder(backbone: Backbone) -> str:
    """Name who holds the weights: "cache", "package" or "hub" (its cache), else "no".

    "none needed" where the backbone takes none.
    """
    weights = backbone.weights
    if held_file(backbone) is not None:
        return "cache"
    if weights.package:
        file = packaged_file(weights)
        return "package" if file is not None and file.is_file() else "no"
    if weights.repo:
        return "hub" if hub.cached(weights) else "no"
    return "no" if weights.needed else "none needed"
