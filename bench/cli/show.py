"""`bench show`: the figures of a publication, each drawn by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import Json, err, out, progress
from bench.cli.options import options_of
from bench.figures.canvas import Canvas
from bench.figures.config import FeaturesConfig, MasksConfig, RestoreConfig

show_app = typer.Typer(
    no_args_is_help=True,
    help="Draw figures: predicted masks, features, a corpus, and reconstructions.",
)


@show_app.command()
@options_of(Canvas, "canvas")
@options_of(MasksConfig)
def masks(config: MasksConfig, canvas: Canvas, as_json: Json = False) -> None:
    """Draw the image, the truth and the masks of several runs (the paper's Figure 2).

    Boxes mark where the runs differ most. The runs must have saved their masks: `bench run
    --save-masks`.
    """
    from bench.api.board import BoardOptions
    from bench.board.comparable import check_vary
    from bench.board.select import data_sets, only_folder, read_all
    from bench.figures.masks import Selection, choose, draw, select
    from bench.figures.saved_masks import with_masks

    config.check()
    check_vary(config.vary)
    filters = BoardOptions(
        dataset=data_sets(config.dataset),
        protocol=config.protocol,
        head=config.head,
        shots=config.shots,
        vary=config.vary,
    )
    records, damaged = read_all(config.results)
    for problem in damaged:
        err.print(f"left out: {problem}", markup=False)
    preferred = with_masks(records, config.results)
    runs = choose(records, config.backbone, filters, preferred)
    selection = Selection(config.image, config.images, config.boxes)
    rows = select(runs, selection, config.results, only_folder(config.dataset) or config.data)
    draw(runs, rows, canvas)
    images = [
        {"image": row.image, "dice": row.scores, "boxes": [box._asdict() for box in row.boxes]}
        for row in rows
    ]
    facts = {"runs": [run.run_id for run in runs], "images": images}
    summary = f"{len(rows)} images: {', '.join(row.image for row in rows)}"
    _print_result(canvas.path, facts, summary, as_json)


@show_app.command()
@options_of(Canvas, "canvas")
@options_of(FeaturesConfig)
def features(config: FeaturesConfig, canvas: Canvas, as_json: Json = False) -> None:
    """Draw the features of frozen backbones on an image (the paper's Figure 3).

    Shows principal components, clusters, and the cosine similarity to the feature at an anchor.
    """
    from bench.api.run_config import RunConfig
    from bench.figures import features as figure

    config.check()
    requests = [
        RunConfig(
            backbone=name,
            checkpoint=config.checkpoint,
            weights=config.weights,
            accept_license=config.accept_license,
            option=config.options,
            input_px=config.input_px,
            device=config.device,
        )
        for name in config.backbone
    ]
    if config.file is not None:
        subject = figure.of_file(config.file, config.anchor)
    else:
        dataset = config.dataset or "synthetic"
        subject = figure.of_dataset(dataset, config.data, config.image, config.anchor)
    with progress(quiet=as_json) as report:
        views = figure.compute(requests, subject, config.clusters, report)
    figure.draw(subject, views, config.clusters, canvas)
    y, x = subject.anchor
    backbones = [
        {
            "backbone": view.name,
            "grid": view.clusters.shape,
            "channels": view.channels,
            "input_px": view.side,
        }
        for view in views
    ]
    facts = {"image": subject.name, "anchor": [x, y], "backbones": backbones}
    names = ", ".join(view.name for view in views)
    summary = f"features of {subject.name} by {names}; anchor {x},{y}"
    _print_result(canvas.path, facts, summary, as_json)


@show_app.command()
@options_of(Canvas, "canvas")
def corpus(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of pretraining images or labelled data sets."),
    ],
    canvas: Canvas,
    by: Annotated[
        str | None,
        typer.Option(
            help="Column of manifest.csv. Default: organ, else source, else the subfolders."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw a donut chart of the images of each folder by source or organ (Figure B1)."""
    from bench.figures.corpus import draw, read

    corpora = [read(folder, by) for folder in folders]
    draw(corpora, canvas)
    facts = [
        {"folder": c.name, "by": c.by, "total": c.total, "counts": dict(c.counts)} for c in corpora
    ]
    totals = ", ".join(f"{c.name} {c.total:,} images by {c.by}" for c in corpora)
    _print_result(canvas.path, {"corpora": facts}, totals, as_json)


@show_app.command()
@options_of(Canvas, "canvas")
@options_of(RestoreConfig)
def pretraining(config: RestoreConfig, canvas: Canvas, as_json: Json = False) -> None:
    """Draw tiles that are corrupted at several time steps and restored (Figure 1)."""
    from bench.figures import restored

    tiles = restored.tiles_of(config)
    with progress(quiet=as_json) as report:
        rows = restored.restore(config, tiles, report)
    restored.draw(rows, canvas)
    facts = [
        {
            "tile": row.name,
            "t": [view.t for view in row.views],
            "changed": row.changed,
            "psnr_db": row.psnr,
        }
        for row in rows
    ]
    times = ",".join(map(str, config.t))
    summary = f"{len(rows)} {'tile' if len(rows) == 1 else 'tiles'} at t = {times}"
    _print_result(canvas.path, {"tiles": facts}, summary, as_json)


def _print_result(path: Path, facts: dict[str, object], summary: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"out": str(path), **facts}))
        return
    out.print(f"{path}: {summary}", markup=False, highlight=False, soft_wrap=True)
