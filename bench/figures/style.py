"""The matplotlib styles of all figures: the same data give the same bytes on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.errors import BenchError

TITLE_PT, SMALL_PT = 8, 7
METADATA: dict[str, dict[str, Any]] = {  # by file type; without the date
    ".svg": {"Date": None},
    ".png": {},
    ".pdf": {"CreationDate": None},
}
BASE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so it is on every machine
    "svg.fonttype": "path",  # looks the same where that font is missing
    "svg.hashsalt": "bench",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name may contain a $
    "legend.frameon": False,
}
IMAGES = BASE | {"axes.linewidth": 0.6, "font.size": SMALL_PT, "axes.titlesize": TITLE_PT}


def check_kind(path: Path) -> None:
    """Raise a BenchError if a figure cannot be written as this type of file."""
    if path.suffix.lower() not in METADATA:
        raise BenchError(f"cannot draw {path}: use a name that ends in {', '.join(METADATA)}.")


def image_style() -> AbstractContextManager[None]:
    """Return a context in which matplotlib uses the style of figures of images."""
    import matplotlib.style

    return matplotlib.style.context(["default", IMAGES])


def plot_style(
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> AbstractContextManager[None]:
    """Return a context in which matplotlib uses the style of plots; `changes` override it."""
    import matplotlib.style
    import seaborn as sns

    style = {**sns.plotting_context("paper"), **sns.axes_style("ticks"), **BASE, **changes}
    return matplotlib.style.context(["default", style])
