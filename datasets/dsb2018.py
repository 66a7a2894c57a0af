"""Data Science Bowl 2018: the stained-tissue images of its first training stage.

Many images are crops of the same few sources, so training and test images are not independent: use
them for smoke runs only.
"""

from __future__ import annotations

from bench.api import Dataset

dsb2018 = Dataset(
    name="dsb2018",
    title="Data Science Bowl 2018: 107 stained-tissue images, 320x256",
    paper="Caicedo et al. 2019, Nature Methods 16:1247-1253, doi:10.1038/s41592-019-0612-7",
    license="CC0 1.0",
    homepage="https://bbbc.broadinstitute.org/BBBC038",
    sources=("BBBC038",),
    input_px={0: 256, 14: 252},
)
