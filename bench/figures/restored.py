"""Figure of reconstructions: tiles corrupted at several t, and restored by a pretrained network.

This is the left half of Figure 1 of arXiv:2605.08276. Tiles are corrupted as in training (equation
1), with masks that training does not use.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError
from bench.figures.canvas import Canvas, show
from bench.figures.config import RestoreConfig
from bench.figures.scale import mpp_of, scale_bar
from bench.figures.style import SMALL_PT, TITLE_PT
from bench.pretrain.config import WeightsConfig

if TYPE_CHECKING:
    from bench.api import Progress
    from bench.api.nn import Objective, SelfSupervised

CARD = "card.json"
DEFAULT_CROP_PX = 256


@dataclass(frozen=True, eq=False)
class SourceTile:
    """A tile before it is cropped.

    Attributes:
        name: stem of the file.
        pixels: (H, W, 3) uint8.
        mpp: micrometres per pixel; None if unknown.
    """

    name: str
    pixels: np.ndarray
    mpp: float | None = None


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A crop corrupted at time t and restored, (S, S, 3) uint8 each."""

    t: int
    corrupted: np.ndarray
    restored: np.ndarray


@dataclass(frozen=True, eq=False)
class RestoredTile:
    """A crop and its reconstructions.

    Attributes:
        name: of the tile.
        clean: (S, S, 3) uint8.
        views: one per time.
        mpp: micrometres per pixel of the crop; None if unknown.
    """

    name: str
    clean: np.ndarray
    views: tuple[Reconstruction, ...]
    mpp: float | None = None

    @property
    def changed(self) -> list[float]:
        """Share of pixels that the corruption changed, one per time."""
        masks = [(view.corrupted != self.clean).any(axis=2) for view in self.views]
        return [round(float(mask.mean()), 4) for mask in masks]

    @property
    def psnr(self) -> list[float]:
        """PSNR of the restored crop in dB, one per time."""
        from bench.pretrain.validate import decibels

        clean = self.clean.astype(float)
        errors = [float(((view.restored - clean) ** 2).mean()) for view in self.views]
        return [round(decibels(error, value_range=255), 2) for error in errors]


def tiles_of(config: RestoreConfig) -> list[SourceTile]:
    """Read the image files, or evenly spaced tiles of the folder.

    Raises:
        BenchError: an option is invalid, or an image cannot be read.
    """
    from bench.data.decode import decode_image
    from bench.data.manifest import content_of
    from bench.pretrain.tiles import find_tiles

    config.check()
    if config.folder is None:
        return [SourceTile(p.stem, decode_image(content_of(p), p), mpp_of(p)) for p in config.file]
    tiles = find_tiles(config.folder).tiles
    count = min(config.images, len(tiles))
    indices = np.linspace(0, len(tiles) - 1, count).round().astype(int)
    chosen = [tiles[i] for i in indices]
    return [SourceTile(Path(t.name).stem, t.read(), mpp_of(Path(t.file))) for t in chosen]


def restore(
    config: RestoreConfig, tiles: Sequence[SourceTile], progress: Progress
) -> list[RestoredTile]:
    """Corrupt the centre of each tile at each time, and restore it.

    Condition, objective, schedule and crop size are read from card.json beside the weights.

    Args:
        config: the network, and how tiles are corrupted.
        tiles: the tiles.
        progress: is called before each tile and at the end.

    Raises:
        BenchError: the backbone has no pretraining objective, its weights cannot be loaded, or a
            number is out of range.
    """
    from bench.api.nn import SelfSupervised
    from bench.models.load import open_backbone
    from bench.pretrain.batches import centre
    from bench.pretrain.job import objective_of
    from bench.runs.resolve import device_named

    trained = _weights_config(config)
    options = trained.backbone_options() | dict(config.options)
    opened = open_backbone(config.backbone, checkpoint=config.checkpoint, options=options)
    device = device_named(config.device)
    extractor = opened.extractor.to(device)
    if not isinstance(extractor, SelfSupervised):
        raise BenchError(
            f"{opened.backbone.name} cannot restore images: choose a CMD such as cmd-tiny."
        )
    objective, rows = objective_of(trained), []
    for number, tile in enumerate(tiles):
        progress("restoring", number, len(tiles))
        clean = centre(tile.pixels, config.crop_px or trained.side)
        views = [
            _reconstruct(extractor, objective, clean, t, tile=number, seed=config.seed)
            for t in config.t
        ]
        rows.append(RestoredTile(tile.name, clean, tuple(views), _mpp_of_crop(tile, len(clean))))
    progress("restoring", len(tiles), len(tiles))
    return rows


def _mpp_of_crop(tile: SourceTile, side: int) -> float | None:
    """Return the micrometres per pixel of a crop; tiles smaller than a crop are enlarged."""
    return None if tile.mpp is None else tile.mpp * min(side, *tile.pixels.shape[:2]) / side


def _reconstruct(
    extractor: SelfSupervised,
    objective: Objective,
    clean: np.ndarray,
    t: int,
    *,
    tile: int,
    seed: int,
) -> Reconstruction:
    """Corrupt a crop at time t, with masks seeded by seed, tile and t, and restore it."""
    import torch

    from bench.api.seeds import seed_of_numbers
    from bench.pretrain.batches import VALIDATION

    device = extractor.parameter_group("all")[0].device
    images = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None].to(device) / 255
    generator = torch.Generator().manual_seed(seed_of_numbers(seed, VALIDATION, tile, t))
    pair = extractor.reconstruct(
        images, torch.tensor([t], device=device), objective=objective, generators=[generator]
    )
    corrupted, restored = (
        (image[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy() for image in pair
    )
    return Reconstruction(t, corrupted, restored)


def _weights_config(config: RestoreConfig) -> WeightsConfig:
    """Read the options of a pretraining from the card beside its weights; default: the paper's."""
    from bench.models.load import file_of
    from bench.models.options import split_source

    name, weights, _ = split_source(config.backbone, config.checkpoint, random=False)
    default = WeightsConfig(backbone=name, crop_px=DEFAULT_CROP_PX)
    if weights is None:
        return default
    folder = file_of(weights).parent
    cards = [path / CARD for path in (folder, folder.parent) if (path / CARD).is_file()]
    if not cards:
        return default
    try:
        fields = json.loads(cards[0].read_bytes())["settings"]
        fields["only"] = tuple(fields.get("only", ()))
        trained = WeightsConfig(**fields)
        trained.check()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{cards[0]} is not a card of `bench pretrain`: {error}.") from error
    return trained


def draw(rows: Sequence[RestoredTile], canvas: Canvas) -> None:
    """Draw one row per tile: the tile, then the corrupted and the restored crop at each t."""
    columns = 1 + 2 * len(rows[0].views)
    side = (canvas.width - 0.2) / columns
    with canvas.figure(len(rows) * (side + 0.2) + 0.35) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for number, (row, line) in enumerate(zip(rows, grid, strict=True)):
            show(line[0], row.clean, "" if number else "tile")
            scale_bar(line[0], row.clean.shape, row.mpp)
            line[0].set_ylabel(row.name, fontsize=SMALL_PT, labelpad=2)
            facts = zip(row.views, row.changed, row.psnr, strict=True)
            for index, (view, changed, psnr) in enumerate(facts):
                title = "" if number else f"t = {view.t}"
                show(line[1 + 2 * index], view.corrupted, title, f"{changed:.0%} changed")
                title = "" if number else "restored"
                show(line[2 + 2 * index], view.restored, title, f"{psnr:.1f} dB")
        figure.align_xlabels()
        figure.suptitle("input of the network at t, and its reconstruction", fontsize=TITLE_PT)
