"""The size and output file of a figure of images, and the panels it consists of."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.api.options import option
from bench.errors import BenchError
from bench.figures.style import METADATA, SMALL_PT, TITLE_PT, check_kind, image_style
from bench.store.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Canvas:
    """The output file and the size of a figure."""

    path: Path = option(MISSING, "Output file: .png, .svg or .pdf.", flag="--out")
    width: float = option(
        7.0, "Width of the figure in inches; a two-column page is about 7 inches wide."
    )
    dpi: int = option(200, "Resolution of a PNG, and of images in other file types.")

    def __post_init__(self) -> None:
        """Raise a BenchError if the file type, the width or the resolution is not supported."""
        check_kind(self.path)
        if not (1 <= self.width <= 40 and 30 <= self.dpi <= 1200):
            raise BenchError(
                f"cannot draw a figure of {self.width} inches and {self.dpi} dpi: use --width from "
                "1 to 40 and --dpi from 30 to 1200."
            )

    @contextmanager
    def figure(self, height: float) -> Iterator[Figure]:
        """Yield an empty figure of `height` inches, and write it when the context ends.

        Raises:
            BenchError: the file cannot be written.
        """
        from matplotlib.figure import Figure

        kind, file = self.path.suffix.lower(), io.BytesIO()
        with image_style():
            # No pyplot: no window, no state.
            figure = Figure(figsize=(self.width, height), layout="constrained", dpi=self.dpi)
            gaps = {"w_pad": 0.02, "h_pad": 0.02, "wspace": 0.02, "hspace": 0.02}
            figure.get_layout_engine().set(**gaps)  # pyright: ignore
            yield figure
            figure.savefig(file, format=kind[1:], dpi=self.dpi, metadata=METADATA[kind])
        write_bytes(self.path, file.getvalue())


def show(axes: Axes, pixels: np.ndarray, title: str = "", below: str = "") -> None:
    """Show an image (H, W, 3) uint8 with a title above and text below, without ticks."""
    axes.imshow(pixels, interpolation="antialiased")
    remove_ticks(axes)
    axes.set_title(title, fontsize=TITLE_PT, pad=3)
    axes.set_xlabel(below, fontsize=SMALL_PT, labelpad=2)


def remove_ticks(axes: Axes) -> None:
    """Remove the ticks of both axes."""
    axes.set_xticks([])
    axes.set_yticks([])


def palette(count: int) -> Sequence[tuple[float, float, float]]:
    """Return `count` colour-blind safe colours; they repeat after ten."""
    import seaborn as sns

    return sns.color_palette("colorblind", count)  # pyright: ignore
