"""The page that figures are drawn on: its size, its look and its file. Same figure, same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.curve_picture import LOOK, WITHOUT_DATE
from bench.errors import BenchError
from bench.store import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE_PT, SMALL_PT = 8, 7
RULES = {"axes.linewidth": 0.6, "font.size": SMALL_PT, "axes.titlesize": TITLE_PT}


@dataclass(frozen=True)
class Canvas:
    """Where a figure goes, and how large it is.

    Attributes:
        path: what it ends in is the kind: .svg, .png or .pdf.
        width: of the figure in inches; a page of two columns has about 7.
        dpi: pixels an inch of a PNG, and of the pictures in other kinds.
    """

    path: Path
    width: float = 7.0
    dpi: int = 200

    def __post_init__(self) -> None:
        """Raise a BenchError where it cannot be drawn on, before any work is done."""
        if self.path.suffix.lower() not in WITHOUT_DATE:
            kinds = ", ".join(WITHOUT_DATE)
            raise BenchError(f"cannot draw {self.path}: the name of a figure ends in {kinds}.")
        if not (1 <= self.width <= 40 and 30 <= self.dpi <= 1200):
            raise BenchError(
                f"a figure of {self.width} inches and {self.dpi} dpi is not drawn: give --width "
                "from 1 to 40 and --dpi from 30 to 1200."
            )

    @contextmanager
    def figure(self, height: float) -> Iterator[Figure]:
        """Give an empty figure of that height in inches, and write it once it is drawn on.

        Raises:
            BenchError: the file cannot be written.
        """
        import matplotlib.style
        from matplotlib.figure import Figure

        kind, file = self.path.suffix.lower(), io.BytesIO()
        with matplotlib.style.context(["default", LOOK | RULES]):
            # No pyplot: no window, no state.
            figure = Figure(figsize=(self.width, height), layout="constrained", dpi=self.dpi)
            gaps = {"w_pad": 0.02, "h_pad": 0.02, "wspace": 0.02, "hspace": 0.02}
            figure.get_layout_engine().set(**gaps)  # pyright: ignore
            yield figure
            metadata = WITHOUT_DATE[kind]
            figure.savefig(file, format=kind[1:], dpi=self.dpi, metadata=metadata)
        write_bytes(self.path, file.getvalue())


def show(axes: Axes, picture: np.ndarray, title: str = "", below: str = "") -> None:
    """Show (H, W, 3) uint8 with a title above and words below, without ticks."""
    axes.imshow(picture, interpolation="antialiased")
    bare(axes)
    axes.set_title(title, fontsize=TITLE_PT, pad=3)
    axes.set_xlabel(below, fontsize=SMALL_PT, labelpad=2)


def bare(axes: Axes) -> None:
    """Take the ticks away."""
    axes.set_xticks([])
    axes.set_yticks([])


def palette(count: int) -> Sequence[tuple[float, float, float]]:
    """Give colours that colour-blind readers tell apart; there are ten, then they come again."""
    import seaborn as sns

    return sns.color_palette("colorblind", count)  # pyright: ignore
