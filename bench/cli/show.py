"""`bench show`: the figures of a publication, each from one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.api.options import parse_list, parse_pairs
from bench.cli.console import BackboneOptions, Data, Json, Results, err, out, progress
from bench.errors import BenchError

show_app = typer.Typer(
    no_args_is_help=True,
    help="Draw figures: masks, features, a corpus, what pretraining restores.",
)

Out = Annotated[Path, typer.Option("--out", help="The figure: a .png, .svg or .pdf file.")]
Width = Annotated[float, typer.Option(help="Of the figure, in inches.")]
Dpi = Annotated[int, typer.Option(help="Pixels an inch.")]
Image = Annotated[str | None, typer.Option(help="Ids of images: A,B,...")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@show_app.command()
def masks(
    backbone: Annotated[
        str, typer.Option(help="Whose runs: A,B,..., names of backbones or (starts of) run ids.")
    ],
    to: Out,
    dataset: Annotated[
        str | None, typer.Option(help="Only runs on these data sets, names or folders.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Only runs of these protocols.")] = None,
    head: Annotated[str | None, typer.Option(help="Only runs of these heads.")] = None,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Only few-shot runs on so many images.")
    ] = None,
    vary: Annotated[
        str, typer.Option(help="What the runs may differ in: backbone, head, protocol.")
    ] = "backbone",
    image: Image = None,
    images: Annotated[
        int, typer.Option(min=1, help="Without --image: the N on which the runs differ most.")
    ] = 2,
    boxes: Annotated[int, typer.Option(min=0, help="Boxes an image, at most.")] = 2,
    width: Width = 7.0,
    dpi: Dpi = 200,
    data: Data = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Draw image, truth and the masks of runs, boxed where they differ most (the paper's Figure 2).

    Of runs that fit, those that kept their masks are taken: `bench run --save-masks`.
    """
    from bench.api.board import BoardOptions
    from bench.board.comparable import check_vary
    from bench.board.select import data_sets, listed, only_folder, read_all
    from bench.figures.canvas import Canvas
    from bench.figures.masks import Selection, choose, draw, select
    from bench.figures.saved_masks import with_masks

    canvas = Canvas(to, width, dpi)
    selection = Selection(listed(image), images, boxes)
    check_vary(listed(vary))
    options = BoardOptions(
        dataset=data_sets(dataset),
        protocol=listed(protocol),
        head=listed(head),
        shots=shots,
        vary=listed(vary),
    )
    records, damaged = read_all(results)
    for each in damaged:
        err.print(f"left out: {each}", markup=False)
    kept = with_masks(records, results)
    runs = choose(records, _some("--backbone", backbone), options, kept)
    rows = select(runs, selection, results, only_folder(dataset) or data)
    draw(runs, rows, canvas)
    told = [
        {"image": row.image, "dice": row.scores, "boxes": [each._asdict() for each in row.boxes]}
        for row in rows
    ]
    facts = {"out": str(to), "runs": [each.run_id for each in runs], "images": told}
    _tell(facts, f"{len(rows)} images: {', '.join(each.image for each in rows)}", as_json)


@show_app.command()
def features(
    to: Out,
    backbone: Annotated[
        str, typer.Option(help="NAME, NAME@FILE or NAME@random; A,B,... for several.")
    ] = "cmd-tiny",
    dataset: Annotated[str | None, typer.Option(help="NAME, or a folder with a manifest.")] = None,
    image: Annotated[
        str | None, typer.Option(help="Id of an image. Default: the first test image.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Any picture instead of a data set; needs --anchor.")
    ] = None,
    anchor: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y", help="The pixel all others are compared with. Default: on a nucleus."
        ),
    ] = None,
    clusters: Annotated[int, typer.Option(min=2, max=10, help="K of k-means.")] = 4,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A file, or a folder, of weights for the backbone.")
    ] = None,
    weights: Annotated[str, typer.Option(help="released, or random.")] = "released",
    accept_license: Annotated[
        bool,
        typer.Option("--accept-license", help="Fetch weights whose licence is not known here."),
    ] = False,
    option: BackboneOptions = None,
    input_px: Annotated[int | None, typer.Option(help="Side of the square input.")] = None,
    device: Device = "auto",
    width: Width = 7.0,
    dpi: Dpi = 200,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Draw what frozen features see: components, clusters, likeness to a nucleus (Figure 3)."""
    from bench.api.config import RunConfig
    from bench.figures import features as figure
    from bench.figures.canvas import Canvas

    canvas = Canvas(to, width, dpi)
    if file is not None and (dataset or image):
        raise BenchError("--file shows a picture of its own: leave --dataset and --image out.")
    requests = [
        RunConfig(
            backbone=name,
            checkpoint=checkpoint,
            weights=weights,
            accept_license=accept_license,
            option=parse_pairs("--option", option or []),
            input_px=input_px,
            device=device,
        )
        for name in _some("--backbone", backbone)
    ]
    requests[0].check()
    if file is not None:
        subject = figure.of_file(file, anchor)
    else:
        subject = figure.of_dataset(dataset or "synthetic", data, image, anchor)
    with progress(quiet=as_json) as report:
        looks = figure.compute(requests, subject, clusters, report)
    figure.draw(subject, looks, clusters, canvas)
    y, x = subject.anchor
    told = [
        {"backbone": e.name, "grid": e.clusters.shape, "channels": e.channels, "input_px": e.side}
        for e in looks
    ]
    facts = {"out": str(to), "image": subject.name, "anchor": [x, y], "backbones": told}
    names = ", ".join(each.name for each in looks)
    _tell(facts, f"{subject.name} as {names} see it; anchor {x},{y}", as_json)


@show_app.command()
def corpus(
    folders: Annotated[
        list[Path], typer.Argument(help="Pretraining folders, or labelled sets: a donut each.")
    ],
    to: Out,
    by: Annotated[
        str | None,
        typer.Option(help="A column of manifest.csv. Default: organ, else source, else folders."),
    ] = None,
    width: Width = 7.0,
    dpi: Dpi = 200,
    as_json: Json = False,
) -> None:
    """Draw what a set of images is made of: a donut of its sources or organs (Figure B1)."""
    from bench.figures.canvas import Canvas
    from bench.figures.corpus import draw, read

    canvas = Canvas(to, width, dpi)
    found = [read(folder, by) for folder in folders]
    draw(found, canvas)
    told = [
        {"folder": each.name, "by": each.by, "total": each.total, "counts": dict(each.counts)}
        for each in found
    ]
    totals = ", ".join(f"{each.name} {each.total:,} images by {each.by}" for each in found)
    _tell({"out": str(to), "corpora": told}, totals, as_json)


@show_app.command()
def pretraining(
    to: Out,
    backbone: Annotated[
        str, typer.Option(help="NAME, NAME@FILE or NAME@random, of one that is pretrained here.")
    ] = "cmd-tiny",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights of `bench pretrain`: a file, or its folder.")
    ] = None,
    option: BackboneOptions = None,
    file: Annotated[list[Path] | None, typer.Option(help="A tile; may be repeated.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="A folder of tiles at any depth, or of tar shards.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Tiles of --data, evenly spread.")] = 3,
    t: Annotated[str, typer.Option(help="Times, from 1 to 1000.")] = "100,500,900",
    crop_px: Annotated[
        int | None, typer.Option(help="Side of the crop. Default: as trained, else 256.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the masks.")] = 0,
    device: Device = "auto",
    width: Width = 7.0,
    dpi: Dpi = 200,
    as_json: Json = False,
) -> None:
    """Draw tiles, corrupted over t and restored by the network (Figure 1)."""
    from bench.figures import restored
    from bench.figures.canvas import Canvas

    canvas = Canvas(to, width, dpi)
    config = restored.RestoreConfig(
        backbone=backbone,
        checkpoint=checkpoint,
        options=parse_pairs("--option", option or []),
        times=parse_list("--t", t, int),
        crop_px=crop_px,
        seed=seed,
        device=device,
    )
    tiles = restored.tiles_of(file or [], data, images)
    with progress(quiet=as_json) as report:
        rows = restored.restore(config, tiles, report)
    restored.draw(rows, canvas)
    told = [
        {
            "tile": row.name,
            "t": [view.t for view in row.views],
            "changed": row.changed,
            "psnr_db": row.psnr,
        }
        for row in rows
    ]
    _tell(
        {"out": str(to), "tiles": told},
        f"{len(rows)} {'tile' if len(rows) == 1 else 'tiles'} at t = {t}",
        as_json,
    )


def _some(flag: str, text: str) -> tuple[str, ...]:
    """Read a list that may not be empty."""
    words = parse_list(flag, text, str)
    if not words:
        raise BenchError(f"{flag} is empty: name one or more, A,B,...")
    return words


def _tell(facts: dict[str, object], news: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts))
        return
    out.print(f"{facts['out']}: {news}", markup=False, highlight=False, soft_wrap=True)
