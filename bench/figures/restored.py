"""What pretraining restores: tiles, corrupted over t, and what the network makes of them.

The left half of Figure 1 of arXiv 2605.08276. The corruption is that of the training (equation 1),
with masks of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError
from bench.figures.canvas import SMALL_PT, TITLE_PT, Canvas, show
from bench.figures.scale import mpp_of, scale_bar

if TYPE_CHECKING:
    from bench.api import Progress
    from bench.interface import SelfTaught
    from bench.pretrain.objective import Objective
    from bench.pretrain.settings import Settings

CARD = "card.json"
USUAL_PX = 256
MOST_DB = 99.0  # of a perfect reconstruction


@dataclass(frozen=True)
class Asked:
    """Which network is shown, and how.

    Attributes:
        checkpoint: weights of `bench pretrain`; None takes those of the backbone.
        options: of the backbone, as text.
        times: t of each pair of columns.
        crop_px: side of the crop in the middle of a tile; None: as trained, else 256.
        seed: of the masks.
    """

    backbone: str
    checkpoint: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    times: tuple[int, ...] = (100, 500, 900)
    crop_px: int | None = None
    seed: int = 0
    device: str = "auto"

    def check(self) -> None:
        """Raise a BenchError where a number is out of range."""
        from bench.pretrain.corruption import MASK_PX, TIMESTEPS

        if not self.times or not all(1 <= t <= TIMESTEPS for t in self.times):
            raise BenchError(f"--t {self.times} is not of times from 1 to {TIMESTEPS}.")
        px = self.crop_px
        if px is not None and (px < 32 or px % MASK_PX):
            raise BenchError(f"--crop-px {px}: give 32 or more, and a multiple of {MASK_PX}.")
        if self.seed < 0:
            raise BenchError(f"--seed {self.seed}: give 0 or more.")


@dataclass(frozen=True, eq=False)
class Given:
    """A tile as it was found: a picture (H, W, 3) uint8.

    Attributes:
        mpp: micrometres per pixel; None where it is not known.
    """

    name: str
    picture: np.ndarray
    mpp: float | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """A tile at one time, pictures of (S, S, 3) uint8."""

    t: int
    given: np.ndarray
    restored: np.ndarray


@dataclass(frozen=True, eq=False)
class Row:
    """A tile: its crop (S, S, 3) uint8, and what was made of it at each time.

    Attributes:
        changed: the share of pixels that the corruption changed, at each time.
        psnr: of the restored crop, in dB, at each time.
        mpp: micrometres per pixel of the crop; None where it is not known.
    """

    name: str
    clean: np.ndarray
    views: tuple[Seen, ...]
    mpp: float | None = None

    @property
    def changed(self) -> list[float]:
        masks = [(view.given != self.clean).any(axis=2) for view in self.views]
        return [round(float(each.mean()), 4) for each in masks]

    @property
    def psnr(self) -> list[float]:
        clean = self.clean.astype(float)
        errors = [float(((view.restored - clean) ** 2).mean()) for view in self.views]
        return [round(10 * float(np.log10(255**2 / e)), 2) if e else MOST_DB for e in errors]


def tiles_of(files: Sequence[Path], folder: Path | None, count: int) -> list[Given]:
    """Read the pictures that are named, or some of a folder, evenly spread.

    Raises:
        BenchError: both or none are given, or a picture cannot be read.
    """
    from bench.decode import decode_image
    from bench.manifest import content_of
    from bench.pretrain.tiles import find_tiles

    if bool(files) == (folder is not None):
        raise BenchError("name tiles by --file, or a folder of them by --data: one of the two.")
    if folder is None:
        return [Given(p.stem, decode_image(content_of(p), p), mpp_of(p)) for p in files]
    found = find_tiles(folder)
    spread = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    tiles = [found[i] for i in spread]
    return [Given(Path(t.name).stem, t.read(), mpp_of(Path(t.file))) for t in tiles]


def restore(asked: Asked, tiles: Sequence[Given], progress: Progress) -> list[Row]:
    """Corrupt the middle of each tile at each time, and restore it.

    What a training says of itself in card.json, beside its weights, is heeded: its condition,
    objective and schedule, and the side of its crops.

    Raises:
        BenchError: the backbone is not pretrained here, its weights cannot be had, or a number is
            out of range.
    """
    from bench.fitting import device_named
    from bench.interface import SelfTaught
    from bench.pretrain.batches import centre
    from bench.pretrain.job import objective_of
    from bench.weights import open_backbone

    asked.check()
    settings = _settings(asked)
    options = settings.reading() | dict(asked.options)
    opened = open_backbone(asked.backbone, checkpoint=asked.checkpoint, options=options)
    device = device_named(asked.device)
    extractor = opened.extractor.to(device)
    if not isinstance(extractor, SelfTaught):
        raise BenchError(f"{opened.backbone.name} restores nothing: name a CMD, such as cmd-tiny.")
    objective, rows = objective_of(settings), []
    for done, tile in enumerate(tiles):
        progress("restoring", done, len(tiles))
        clean = centre(tile.picture, asked.crop_px or settings.side)
        views = []
        for t in asked.times:
            views.append(_seen(extractor, objective, clean, (t, asked.seed, done)))
        rows.append(Row(tile.name, clean, tuple(views), _mpp_of_crop(tile, len(clean))))
    progress("restoring", len(tiles), len(tiles))
    return rows


def _mpp_of_crop(tile: Given, side: int) -> float | None:
    """Tell the micrometres a pixel of a crop; a small tile was enlarged to its side."""
    return None if tile.mpp is None else tile.mpp * min(side, *tile.picture.shape[:2]) / side


def _seen(
    extractor: SelfTaught, objective: Objective, clean: np.ndarray, place: tuple[int, int, int]
) -> Seen:
    """Corrupt and restore a crop at (t, seed, number of the tile)."""
    import torch

    from bench.pretrain.batches import VALIDATION, seed_of

    t, seed, number = place
    device = extractor.part("all")[0].device
    images = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None].to(device) / 255
    generator = torch.Generator().manual_seed(seed_of(seed, VALIDATION, number, t))
    pair = extractor.restore(
        images, torch.tensor([t], device=device), objective=objective, generators=[generator]
    )
    given, restored = (
        (each[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy() for each in pair
    )
    return Seen(t, given, restored)


def _settings(asked: Asked) -> Settings:
    """Read how weights were trained from the card beside them; without one, as in the paper."""
    from bench.pretrain.settings import Settings
    from bench.weights import file_of

    name, _, source = asked.backbone.partition("@")
    named = Path(source) if source not in ("", "random") else asked.checkpoint
    usual = Settings(name, crop_px=USUAL_PX)
    if named is None:
        return usual
    place = file_of(named).parent
    card = next((each / CARD for each in (place, place.parent) if (each / CARD).is_file()), None)
    if card is None:
        return usual
    try:
        told = json.loads(card.read_bytes())["settings"]
        told["only"] = tuple(told.get("only", ()))
        settings = Settings(**told)
        settings.check()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{card} is not a card of `bench pretrain`: {error}.") from error
    return settings


def draw(rows: Sequence[Row], canvas: Canvas) -> None:
    """Draw a row a tile: the tile, then what was given and what was restored at each t."""
    times = [view.t for view in rows[0].views]
    columns = 1 + 2 * len(times)
    side = (canvas.width - 0.2) / columns
    with canvas.figure(len(rows) * (side + 0.2) + 0.35) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for number, (row, places) in enumerate(zip(rows, grid, strict=True)):
            show(places[0], row.clean, "" if number else "tile")
            scale_bar(places[0], row.clean.shape, row.mpp)
            places[0].set_ylabel(row.name, fontsize=SMALL_PT, labelpad=2)
            facts = zip(row.views, row.changed, row.psnr, strict=True)
            for place, (view, changed, psnr) in enumerate(facts):
                given, restored = places[1 + 2 * place], places[2 + 2 * place]
                title = "" if number else f"t = {view.t}"
                show(given, view.given, title, f"{changed:.0%} changed")
                show(restored, view.restored, "" if number else "restored", f"{psnr:.1f} dB")
        figure.align_xlabels()
        figure.suptitle("what the network is given at t, and what it restores", fontsize=TITLE_PT)
