"""Options of the figures of `bench show`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path

from bench.api.options import check_choices, option
from bench.errors import BenchError

RUNS, IMAGES, NETWORK = "Runs", "Images", "Network"
DEVICE_HELP = "Device to run on: auto, cpu, cuda, cuda:N or mps."


@dataclass(frozen=True, kw_only=True)
class MasksConfig:
    """The options of `bench show masks`."""

    backbone: tuple[str, ...] = option(
        MISSING,
        "Runs to compare: names of backbones, or run ids or their beginnings.",
        panel=RUNS,
        many=True,
    )
    dataset: tuple[str, ...] = option(
        (), "Only runs on these data sets: names or folders.", panel=RUNS, many=True
    )
    protocol: tuple[str, ...] = option((), "Only runs of these protocols.", panel=RUNS, many=True)
    head: tuple[str, ...] = option((), "Only runs with these heads.", panel=RUNS, many=True)
    shots: int | None = option(None, "Only few-shot runs with this number of images.", panel=RUNS)
    vary: tuple[str, ...] = option(
        ("backbone",),
        "What the runs may differ in: backbone, head, recipe, view or protocol.",
        panel=RUNS,
        many=True,
    )
    results: Path = option(Path("results"), "Folder of the results.", panel=RUNS)
    data: Path | None = option(None, "Folder of the data sets.", panel=IMAGES)
    image: tuple[str, ...] = option((), "Ids of the images to show.", panel=IMAGES, many=True)
    images: int = option(
        2,
        "Number of images if --image is not set: those on which the runs differ most.",
        panel=IMAGES,
    )
    boxes: int = option(2, "Largest number of boxes per image.", panel=IMAGES)

    def check(self) -> None:
        """Raise a BenchError if an option is invalid."""
        if self.images < 1:
            raise BenchError(f"--images {self.images}: use 1 or more.")
        if self.boxes < 0:
            raise BenchError(f"--boxes {self.boxes}: use 0 or more.")


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """The options of `bench show features`."""

    backbone: tuple[str, ...] = option(
        ("cmd-tiny",), "Backbones: NAME, NAME@FILE or NAME@random:SEED.", panel=NETWORK, many=True
    )
    checkpoint: Path | None = option(
        None, "Weights of the backbone: a file, or a folder of `bench pretrain`.", panel=NETWORK
    )
    weights: str = option(
        "released",
        "Released weights, or random ones.",
        panel=NETWORK,
        choices=("released", "random"),
    )
    accept_license: bool = option(
        False,
        "Download weights although bench does not know their licence.",
        panel=NETWORK,
    )
    options: Mapping[str, str] = option(
        dict,
        "Other options of the backbone; may be repeated.",
        panel=NETWORK,
        flag="--option",
    )
    device: str = option("auto", DEVICE_HELP, panel=NETWORK)
    dataset: str | None = option(
        None, "Data set: NAME, or a folder with manifest.csv.", panel=IMAGES
    )
    image: str | None = option(
        None, "Id of the image. Default: the first test image.", panel=IMAGES
    )
    file: Path | None = option(
        None, "An image file instead of a data set; needs --anchor.", panel=IMAGES
    )
    data: Path | None = option(None, "Folder of the data sets.", panel=IMAGES)
    anchor: str | None = option(
        None,
        "The pixel X,Y that all others are compared with. Default: on a nucleus.",
        panel=IMAGES,
    )
    clusters: int = option(4, "Number of clusters of k-means, from 2 to 10.", panel=IMAGES)
    input_px: int | None = option(None, "Side of the square input in pixels.", panel=IMAGES)

    def check(self) -> None:
        """Raise a BenchError if an option is invalid."""
        check_choices(self)
        if self.file is not None and (self.dataset or self.image):
            raise BenchError("--file replaces --dataset and --image: omit these.")
        if not 2 <= self.clusters <= 10:
            raise BenchError(f"--clusters {self.clusters}: use 2 to 10.")
        if self.input_px is not None and self.input_px < 1:
            raise BenchError(f"--input-px {self.input_px}: use 1 or more.")


@dataclass(frozen=True, kw_only=True)
class RestoreConfig:
    """The options of `bench show pretraining`."""

    backbone: str = option(
        "cmd-tiny",
        "Backbone that `bench pretrain` can train: NAME, NAME@FILE or NAME@random:SEED.",
        panel=NETWORK,
    )
    checkpoint: Path | None = option(
        None, "Weights of `bench pretrain`: a file, or its output folder.", panel=NETWORK
    )
    options: Mapping[str, str] = option(
        dict,
        "Other options of the backbone; may be repeated.",
        panel=NETWORK,
        flag="--option",
    )
    device: str = option("auto", DEVICE_HELP, panel=NETWORK)
    file: tuple[Path, ...] = option((), "A tile; may be repeated.", panel=IMAGES)
    folder: Path | None = option(
        None, "Folder of tiles at any depth, or of tar shards.", panel=IMAGES, flag="--data"
    )
    images: int = option(3, "Number of tiles of --data, evenly spaced.", panel=IMAGES)
    t: tuple[int, ...] = option(
        (100, 500, 900), "Time steps, from 1 to 1000.", panel=IMAGES, many=True
    )
    crop_px: int | None = option(
        None,
        "Side of the central crop of a tile in pixels. Default: as in training, else 256.",
        panel=IMAGES,
    )
    seed: int = option(0, "Seed of the masks.", panel=IMAGES)

    def check(self) -> None:
        """Raise a BenchError if an option is invalid."""
        from bench.pretrain.masking import MASK_PX, TIMESTEPS

        check_choices(self)
        if not self.t or not all(1 <= t <= TIMESTEPS for t in self.t):
            raise BenchError(f"--t {self.t}: use times from 1 to {TIMESTEPS}.")
        px = self.crop_px
        if px is not None and (px < 32 or px % MASK_PX):
            raise BenchError(f"--crop-px {px}: use a multiple of {MASK_PX} of at least 32.")
        if self.seed < 0:
            raise BenchError(f"--seed {self.seed}: use 0 or more.")
        if self.images < 1:
            raise BenchError(f"--images {self.images}: use 1 or more.")
        if bool(self.file) == (self.folder is not None):
            raise BenchError("set the tiles by --file or their folder by --data: one of the two.")
