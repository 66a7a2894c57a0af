"""NuCLS: tiles of TCGA breast cancer, crowd-sourced outlines supervised by pathologists."""

from __future__ import annotations

from bench.api import Dataset

nucls = Dataset(
    name="nucls",
    title="NuCLS: 256x256 tiles of breast cancer, semi-automatic outlines, 40x",
    paper="Amgad et al. 2022, GigaScience 11:giac037, doi:10.1093/gigascience/giac037",
    license="CC0 1.0",
    homepage="https://nucls.grand-challenge.org/",
    sources=("TCGA",),
    input_px={0: 256, 14: 252},
)
