"""Segment Anything (SAM): ViTs with windows, by masks of natural images.

The map is the image embedding of 256 channels, after SAM's neck; `layers` gives the trunk's. They
start from masked autoencoders. Kirillov et al., "Segment Anything", ICCV 2023.
"""

from __future__ import annotations

from functools import partial

from bench.api import Backbone

from ._network import Network

_sam = partial(
    Backbone,
    paper="https://arxiv.org/abs/2304.02643",
    license="Apache-2.0",
    trained_on=("SA-1B",),
)
_B = Network("samvit_base_patch16.sa1b")
_L = Network("samvit_large_patch16.sa1b")
_H = Network("samvit_huge_patch16.sa1b")

SAM_B = _sam(
    name="sam-b",
    build=_B.build,
    convert=_B.convert,
    weights=_B.hosted(),
    title="SAM's image encoder ViT-B/16, by masks of natural images",
    params=89_670_912,
    patch=16,
)

SAM_L = _sam(
    name="sam-l",
    build=_L.build,
    convert=_L.convert,
    weights=_L.hosted(),
    title="SAM's image encoder ViT-L/16, by masks of natural images",
    params=308_278_272,
    patch=16,
)

SAM_H = _sam(
    name="sam-h",
    build=_H.build,
    convert=_H.convert,
    weights=_H.hosted(),
    title="SAM's image encoder ViT-H/16, by masks of natural images",
    params=637_026_048,
    patch=16,
)
