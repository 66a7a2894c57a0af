"""Draw scale bars; the size of a pixel is from `mpp` or from the nominal magnification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.manifest import MPP, read_table
from bench.errors import BenchError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LENGTHS_UM = (50, 20)
MOST_SHARE = 0.3  # of the width: a longer bar is replaced by a shorter one
WIDEST_SHARE = 0.8  # of the width: largest length of the shortest bar
EDGE_SHARE = 0.05  # of the shorter side: distance from a bar to the edge
MOST_PARENTS = 3  # folders above an image in which a manifest is searched


def bar_um(width_px: float, mpp: float | None) -> int | None:
    """Return the length in micrometres of the bar of an image; None if no bar is possible."""
    if mpp is None:
        return None
    shares = {length: length / mpp / width_px for length in LENGTHS_UM}
    short = LENGTHS_UM[-1]
    fitting = [length for length, share in shares.items() if share <= MOST_SHARE]
    return next(iter(fitting), short if shares[short] <= WIDEST_SHARE else None)


def scale_bar(axes: Axes, shape: tuple[int, ...], mpp: float | None) -> None:
    """Draw a labelled bar at the lower right of an image.

    Args:
        axes: the axes that show the image.
        shape: (H, W) of the image in units of the axes.
        mpp: micrometres per pixel; None draws nothing.
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


def mpp_of(path: Path) -> float | None:
    """Read the micrometres per pixel of an image file from a manifest.csv in a folder above it.

    Returns None if no manifest lists the image with a magnification.
    """
    for folder in path.resolve().parents[:MOST_PARENTS]:
        if (folder / "manifest.csv").is_file():
            return _mpp_in(folder / "manifest.csv", path.resolve().relative_to(folder))
    return None


def _mpp_in(manifest: Path, name: Path) -> float | None:
    try:
        _, rows = read_table(manifest)
    except BenchError:
        return None  # the image is drawn without a scale bar
    names = {row.get("image") or row.get("path"): row.get("magnification") for row in rows}
    return MPP.get(names.get(name.as_posix()) or "")
