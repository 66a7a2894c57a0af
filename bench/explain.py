"""Draw the images on which two runs differ most, with the masks of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from bench.board import dataset_name, label
from bench.figures.masks import Row, draw_row, first_scores, legend_handles, read_rows
from bench.figures.style import SMALL_PT, image_style
from bench.pairs import Contrast, by_difference

SHEET_DPI = 110
PANEL_INCH = 2.6


def gather(contrast: Contrast, count: int, results: Path, data_dir: Path | None) -> list[Row]:
    """Read the images on which two runs differ most, and their masks.

    Images are ordered by the scores of the first draw, from which the masks are.

    Args:
        contrast: the comparison of the two runs.
        count: number of images.
        results: folder of the runs.
        data_dir: folder of the data set; None for the usual folder.

    Raises:
        BenchError: masks were not saved, or the data set is not found or was changed.
    """
    runs = (contrast.a, contrast.b)
    scores = first_scores(runs, contrast.metric)  # (2, images)
    by_image = dict(zip(contrast.a.images, scores.T.tolist(), strict=True))
    pairs = [
        replace(pair, a=by_image[pair.image][0], b=by_image[pair.image][1])
        for pair in contrast.images
    ]
    images = [pair.image for pair in by_difference(pairs)[:count]]
    return read_rows(runs, images, scores, results, data_dir)


def sheet(contrast: Contrast, rows: Sequence[Row]) -> bytes:
    """Draw image, truth and the masks of two runs, one row per image, as the bytes of a PNG."""
    from matplotlib.figure import Figure

    titles = ["image", "truth", f"A: {label(contrast.a)}", f"B: {label(contrast.b)}"]
    file = BytesIO()
    with image_style():
        figure = Figure(
            figsize=(4 * PANEL_INCH, len(rows) * (PANEL_INCH + 0.35) + 1.2),
            dpi=SHEET_DPI,
            layout="constrained",
        )
        grid = figure.subplots(len(rows), 4, squeeze=False)
        for number, (row, line) in enumerate(zip(rows, grid, strict=True)):
            draw_row(line, row, contrast.metric, titles=[""] * 4 if number else titles)
        figure.suptitle(_sheet_title(contrast), fontsize=SMALL_PT)
        figure.legend(handles=legend_handles(), loc="outside lower center", ncols=3)
        figure.savefig(file, format="png", metadata={"Software": "cmd-bench"})
    return file.getvalue()


def _sheet_title(contrast: Contrast) -> str:
    runs = f"A {contrast.a.run_id}, B {contrast.b.run_id}"
    draw = " ".join(f"{key} {value}" for key, value in contrast.a.draws[0])
    where = f"{dataset_name(contrast.a)}{f', {draw}' if draw else ''}"
    return f"{where}: {runs}; where {contrast.metric} differs most"
