"""Check again all that was written: records, masks, kept trials, bundles, data sets, caches.

Nothing is changed. A doubt names the file, what is wrong with it, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.api import Progress
from bench.bundle import MANIFEST, Parcel, unpack
from bench.cache import damaged
from bench.data import installed
from bench.errors import BenchError
from bench.manifest import Row, content_of, match, parse
from bench.merge import check
from bench.record import Record
from bench.store import Store, mask_path, read_trial

AGAIN = "delete its folder and give the command of the run again, or merge it from another machine"


@dataclass(frozen=True)
class Doubt:
    """Something that is not as it was written."""

    where: Path
    what: str
    cure: str


def of_results(results: Path, progress: Progress) -> Iterator[Doubt]:
    """Check every run of a folder of results, or of a bundle.

    Raises:
        BenchError: there is nothing there, or it is a bundle that is refused as a whole.
    """
    if results.is_file() or (results / MANIFEST).is_file():
        yield from _of_bundle(results)
        return
    store = Store(results)
    folders = sorted(results.glob("runs/??/*"))
    for done, folder in enumerate(folders):
        progress("runs", done, len(folders))
        yield from _of_run(store, folder)
    progress("runs", len(folders), len(folders))
    for path in sorted(results.glob("work/*/trial-*.json")):
        if read_trial(path) is None:
            yield Doubt(path, "it does not match its own hash", "delete it: it is made again")


def _of_bundle(source: Path) -> Iterator[Doubt]:
    for parcel in unpack(source):
        try:
            check(parcel)
        except BenchError as error:
            yield Doubt(source / parcel.run_id, str(error), "ask its maker for the bundle again")


def _of_run(store: Store, folder: Path) -> Iterator[Doubt]:
    record, context = (
        path.read_bytes() if path.is_file() else None
        for path in (folder / "record.json", folder / "context.json")
    )
    if record is None:
        cure = "give the command of the run again, or delete the folder"
        yield Doubt(folder, "it holds no record: its run was not committed", cure)
        return
    try:
        found = check(Parcel(folder.name, record, context))
    except BenchError as error:
        yield Doubt(folder, str(error), AGAIN)
        return
    if store.folder(found.run_id) != folder:
        yield Doubt(folder, f"its place is {store.folder(found.run_id)}", "move it there")
    if (folder / "masks").is_dir():
        yield from _of_masks(found, folder / "masks")


def _of_masks(record: Record, masks: Path) -> Iterator[Doubt]:
    """Compare the pixels of every kept mask with what the run has counted."""
    cure = f"delete {masks} and give the command again with --save-masks"
    for trial in record.trials:
        counts = trial.counts
        for number, image in enumerate(trial.images):
            path = mask_path(masks, trial.draw, image)
            try:
                with Image.open(path) as mask:
                    found = int(np.count_nonzero(np.asarray(mask)))
            except Exception as error:  # a decoder may raise anything on a damaged file
                yield Doubt(path, f"it cannot be read ({type(error).__name__})", cure)
                continue
            if "tp" in counts and found != counts["tp"][number] + counts["fp"][number]:
                yield Doubt(path, "it is not the mask that was counted", cure)


def of_data(data_dir: Path | None, progress: Progress) -> Iterator[Doubt]:
    """Compare every file of the data sets that are here with their manifests."""
    homes = sorted({home for home in installed(data_dir).values() if home is not None})
    for home in homes:
        rows, problems = parse(home)
        for problem in problems:
            yield Doubt(home / "manifest.csv", problem, f"`bench datasets check {home}`")
        for done, row in enumerate(rows):
            progress(f"data set {home.name}", done, len(rows))
            yield from _of_row(row)
        progress(f"data set {home.name}", len(rows), len(rows))


def _of_row(row: Row) -> Iterator[Doubt]:
    for path, sha256 in (row.image, row.image_sha256), (row.label, row.label_sha256):
        try:
            match(content_of(row.root / path), row.root / path, sha256)
        except BenchError as error:
            cure = "restore the file, or prepare the set again with `bench datasets prepare`"
            yield Doubt(row.root / path, str(error), cure)


def of_cache(cache: Path, progress: Progress) -> Iterator[Doubt]:
    """Read every kept head and every kept map again."""
    from bench.trained import damage

    files = sorted(cache.glob("heads/*.safetensors"))
    for done, path in enumerate(files):
        progress("heads", done, len(files))
        if reason := damage(path):
            yield Doubt(path, reason, "delete it: it is trained again")
    progress("heads", len(files), len(files))
    for path, reason in damaged(cache / "features", progress):
        yield Doubt(path, reason, "delete it, or `bench cache clear`: it is computed again")
