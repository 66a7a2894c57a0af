"""A scale bar, where it is known how large a pixel is: from `mpp`, or the nominal one of a lens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.manifest import MPP, read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LENGTHS_UM = (50, 20)
MOST_SHARE = 0.3  # of the width, for the longer bar
WIDEST_SHARE = 0.8  # of the width, for any bar
EDGE_SHARE = 0.05  # of the shorter side: from a bar to the edge
LOOKED_UP = 3  # folders above a picture where its manifest may be


def bar_um(width_px: float, mpp: float | None) -> int | None:
    """Choose the length of a bar in micrometres for a picture of that width; None for no bar."""
    if mpp is None:
        return None
    shares = {length: length / mpp / width_px for length in LENGTHS_UM}
    short = LENGTHS_UM[-1]
    fitting = [length for length, share in shares.items() if share <= MOST_SHARE]
    return next(iter(fitting), short if shares[short] <= WIDEST_SHARE else None)


def scale_bar(axes: Axes, shape: tuple[int, ...], mpp: float | None) -> None:
    """Draw a bar at the lower right of a picture of (H, W) pixels, its length above it.

    Args:
        shape: in the units of the axes, whatever the size at which they are drawn.
        mpp: micrometres a pixel; None draws nothing.
    """
    from matplotlib.patheffects import withStroke

    height, width = shape[:2]
    length = bar_um(width, mpp)
    if length is None or mpp is None:
        return
    edge = EDGE_SHARE * min(height, width)
    right, y = width - edge, height - edge
    ends = [right - length / mpp, right]
    rim: dict[str, Any] = {"solid_capstyle": "butt", "scalex": False, "scaley": False}
    axes.plot(ends, [y, y], color="white", linewidth=3.6, **rim)
    axes.plot(ends, [y, y], color="black", linewidth=1.8, **rim)
    axes.annotate(
        f"{length} µm",
        (sum(ends) / 2, y),
        xytext=(0, 2.5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=6,
        color="black",
        path_effects=[withStroke(linewidth=1.8, foreground="white")],
    )


def mpp_of(picture: Path) -> float | None:
    """Read the micrometres a pixel of a picture from a manifest.csv in a folder above it.

    None where no manifest names the picture with a magnification.
    """
    for folder in picture.resolve().parents[:LOOKED_UP]:
        if (folder / "manifest.csv").is_file():
            return _listed(folder / "manifest.csv", picture.resolve().relative_to(folder))
    return None


def _listed(manifest: Path, name: Path) -> float | None:
    try:
        _, rows = read_table(manifest)
    except BenchError:
        return None  # a picture without its size is drawn without a bar
    names = {row.get("image") or row.get("path"): row.get("magnification") for row in rows}
    return MPP.get(names.get(name.as_posix()) or "")
