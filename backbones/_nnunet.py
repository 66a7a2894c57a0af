"""nnU-Net's networks as extractors, either fixed or planned by nnU-Net.

The networks are `PlainConvUNet`s of the package `dynamic_network_architectures`. The head
`deep-supervision` replaces their segmentation layers and completes their parameter count.

Letters: N images, H and W their sides; C_i and s_i the channels and stride of map i, finest first.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bench.api.nn import FeatureExtractor
from bench.errors import BenchError

SMALLEST_PX = 8  # the coarsest map of the planner has 4 to 7 pixels
PLANNED_IMAGES = 1_000_000  # large: the planner limits the batch to 5 % of the data set
DATASET = "Dataset001_RGB"


class NnUNet(FeatureExtractor):
    """Decoder maps at every resolution, of images that are standardised individually.

    nnU-Net by default standardises every channel of every image, RGB included, once before
    augmentation; this extractor standardises the augmented images.

    Images of any side above the minimum are accepted: up-sampled maps are cropped to the skip
    connection that they join.
    """

    mean = (0.0, 0.0, 0.0)  # `forward` standardises every image instead
    std = (1.0, 1.0, 1.0)

    def __init__(self, network: Any, facts: Mapping[str, object]) -> None:
        """Take the modules of a network.

        Args:
            network: a `PlainConvUNet` in which every stage but the first halves its input.
            facts: settings of the plan, for the record.
        """
        super().__init__()
        self.encode: nn.Module = network.encoder.stages
        self.enlarge: nn.Module = network.decoder.transpconvs
        self.blend: nn.Module = network.decoder.stages
        self.channels = tuple(network.encoder.output_channels[:-1])
        self.strides = tuple(2**level for level in range(len(self.channels)))
        self.facts = {"normalisation": "mean and deviation of each image and channel", **facts}

    def forward(self, images: Tensor) -> list[Tensor]:
        self._check_size(images)
        features, encoded = standardise(images), []  # (N, 3, H, W)
        for stage in self.encode.children():
            features = stage(features)  # (N, C_i, H/s_i, W/s_i)
            encoded.append(features)
        maps, features = [], encoded.pop()
        for enlarge, blend in zip(self.enlarge.children(), self.blend.children(), strict=True):
            skip = encoded.pop()  # (N, C_i, H/s_i, W/s_i)
            height, width = skip.shape[-2:]
            grown = enlarge(features)[..., :height, :width]  # (N, C_i, H/s_i, W/s_i)
            features = blend(torch.cat([grown, skip], 1))  # (N, C_i, H/s_i, W/s_i)
            maps.append(features)
        return maps[::-1]  # finest first

    def _check_size(self, images: Tensor) -> None:
        coarsest = 2 * self.strides[-1]  # instance norm needs two pixels in the coarsest stage
        if max(images.shape[-2:]) <= coarsest:
            height, width = images.shape[-2:]
            raise BenchError(
                f"this nnU-Net takes images of more than {coarsest} pixels a side, got "
                f"{height} x {width}: --input-px {2 * coarsest}."
            )


def standardise(images: Tensor) -> Tensor:
    """Scale every channel of every image (N, 3, H, W) to mean 0 and standard deviation 1."""
    deviation, mean = torch.std_mean(images, dim=(2, 3), correction=0, keepdim=True)  # (N, 3, 1, 1)
    return (images - mean) / deviation.clamp(min=1e-8)


def build_12m_network() -> NnUNet:
    """Build a network of seven stages of two convolutions, as the planner does but for the widths.

    It has 12,189,936 parameters; the head for two classes adds 2,108: 12,192,044.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet  # pyright: ignore

    network = PlainConvUNet(
        input_channels=3,
        n_stages=7,
        features_per_stage=(40, 80, 160, 256, 256, 256, 256),
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=(1, 2, 2, 2, 2, 2, 2),
        n_conv_per_stage=2,
        num_classes=2,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    network.apply(network.initialize)  # He et al. 2015, for leaky units of slope 0.01
    return NnUNet(network, {})


def build_planned_network(input_px: int) -> NnUNet:
    """Build the 2D network that nnU-Net plans for square RGB images of side `input_px`.

    Raises:
        BenchError: the side is below `SMALLEST_PX`.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # pyright: ignore

    if input_px < SMALLEST_PX:
        raise BenchError(
            f"nnU-Net has no plan for images of {input_px} pixels a side: "
            f"--input-px {SMALLEST_PX} or more."
        )
    plan = json.loads(_plan(input_px))
    architecture = plan["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        input_channels=3,
        output_channels=2,
    )
    patch, batch = plan["patch_size"], plan["batch_size"]
    return NnUNet(network, {"planned_patch_px": patch, "planned_batch_size": batch})


@cache
def _plan(input_px: int) -> str:
    """Return the 2D configuration that the planner writes, as JSON.

    The planner reads a data set and its fingerprint from folders named by environment variables.
    """
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (  # pyright: ignore
        ExperimentPlanner,
    )

    with TemporaryDirectory() as folder:
        raw, preprocessed = Path(folder) / "raw", Path(folder) / "preprocessed"
        _describe_images(raw / DATASET, preprocessed / DATASET, input_px)
        folders = _environment(nnUNet_raw=str(raw), nnUNet_preprocessed=str(preprocessed))
        silence = contextlib.redirect_stdout(io.StringIO())
        with folders, silence, torch.device("meta"):  # it builds networks to estimate memory
            plans = ExperimentPlanner(DATASET).plan_experiment()
    return json.dumps(plans["configurations"]["2d"])


def _describe_images(raw: Path, preprocessed: Path, side: int) -> None:
    """Write the description and the fingerprint of a data set of PNG images."""
    dataset = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "nucleus": 1},
        "numTraining": PLANNED_IMAGES,
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",  # without it an image is opened
        "dataset": {"one": {"images": ["one.png"], "label": "one.png"}},
    }
    fingerprint = {
        "spacings": [[999, 1, 1]],  # nnU-Net's marker of a 2D image
        "shapes_after_crop": [[1, side, side]],
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {},
    }
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True)
    (raw / "dataset.json").write_text(json.dumps(dataset))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))


@contextlib.contextmanager
def _environment(**settings: str) -> Iterator[None]:
    """Set environment variables inside the context, and restore them after it."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
