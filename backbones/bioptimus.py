"""H-optimus-0, H-optimus-1 and H0-mini by Bioptimus: ViTs with registers, DINOv2.

H-optimus trained on private slides; H0-mini was distilled from H-optimus-0 on TCGA.
Saillard et al., "H-optimus-0", 2024; Filiot et al., "Distilling foundation models for robust and
efficient models in digital pathology", 2025.
"""

from __future__ import annotations

from bench.api import Backbone, Weights

from ._network import SWIGLU, Colours, Network

_COLOURS: Colours = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_H_OPTIMUS = Network(
    "vit_giant_patch14_reg4_dinov2",
    {"img_size": 224, "init_values": 1e-5, "global_pool": "token"},
    _COLOURS,
)
_H0_MINI = Network(
    "vit_base_patch14_reg4_dinov2",
    {
        "img_size": 224,
        "init_values": 1e-5,
        "reg_tokens": 4,
        "mlp_ratio": 5.33334,
        "global_pool": "",
        **SWIGLU,
    },
    _COLOURS,
)

H_OPTIMUS_0 = Backbone(
    name="h-optimus-0",
    build=_H_OPTIMUS.build,
    convert=_H_OPTIMUS.convert,
    weights=Weights(
        repo="bioptimus/H-optimus-0",
        file="pytorch_model.bin",
        revision="b145cc1e6c6b30d3251aa8b1f844e6974188a743",
        sha256="bf47b8467403079798661601b6ab06533be789da48d3f8b510aaefe2fbc55cd3",
    ),
    title="H-optimus-0: ViT-g/14 with 4 registers by DINOv2, 500 thousand slides",
    paper="https://github.com/bioptimus/releases/tree/main/models/h-optimus/v0",
    license="Apache-2.0",
    gated=True,
    params=1_134_774_272,
    patch=14,
    mpp=0.5,
    trained_on=("Bioptimus",),
)

H_OPTIMUS_1 = Backbone(
    name="h-optimus-1",
    build=_H_OPTIMUS.build,
    convert=_H_OPTIMUS.convert,
    weights=Weights(
        repo="bioptimus/H-optimus-1",
        file="model.safetensors",
        revision="3592cb220dec7a150c5d7813fb56e68bd57473b9",
        sha256="c4f1e5b457ddf00679626053b0bf2899be6a19c3a04ad191c87ad1cdfd1abfe1",
    ),
    title="H-optimus-1: ViT-g/14 with 4 registers by DINOv2, 1 million slides",
    paper="https://huggingface.co/bioptimus/H-optimus-1",
    license="CC-BY-NC-ND-4.0",
    gated=True,
    params=1_134_774_272,
    patch=14,
    mpp=0.5,
    trained_on=("Bioptimus",),
)

H0_MINI = Backbone(
    name="h0-mini",
    build=_H0_MINI.build,
    convert=_H0_MINI.convert,
    weights=Weights(
        repo="bioptimus/H0-mini",
        file="model.safetensors",
        revision="5b5cc0505d19ae558270045eb0df8c34df4d9609",
        sha256="5e4de45a6527a8160f7c21fe3105c987757efe30ce581e1f2cf5809476069ade",
    ),
    title="H0-mini: ViT-B/14 with 4 registers, distilled from H-optimus-0",
    paper="https://arxiv.org/abs/2501.16239",
    license="CC-BY-NC-ND-4.0",
    gated=True,
    params=85_739_520,
    patch=14,
    mpp=0.5,
    trained_on=("TCGA", "Bioptimus"),
)
