"""Verify stored files: records, masks, saved trials, bundles, data sets and caches.

Files are never changed. Each problem names the file, what is wrong, and how to fix it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from bench.api import Progress
from bench.api.record import Record
from bench.errors import BenchError
from bench.store.bundle import MANIFEST, BundledRun, check, unpack
from bench.store.files import content_of, is_sealed
from bench.store.locks import WRITING
from bench.store.results import SUMS, Store, mask_path, read_sums, read_trial

AGAIN = "delete its folder and repeat the command of the run, or merge it from another machine"


@dataclass(frozen=True)
class Problem:
    """A problem with a stored file.

    Attributes:
        where: the file or folder.
        what: what is wrong.
        cure: how to fix it.
    """

    where: Path
    what: str
    cure: str


def of_results(results: Path, progress: Progress) -> Iterator[Problem]:
    """Check every run of a results folder or bundle.

    Raises:
        BenchError: the path does not exist, or is a bundle that is refused as a whole.
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
    masks = sum(1 for _ in results.glob("runs/??/*/masks/**/*.png"))
    progress("masks", masks, masks)
    for path in sorted(results.glob("work/*/trial-*.json")):
        if read_trial(path) is None:
            yield Problem(path, "it does not match its hash", "delete it; it is recomputed")


def _of_bundle(source: Path) -> Iterator[Problem]:
    for parcel in unpack(source):
        try:
            check(parcel)
        except BenchError as error:
            yield Problem(source / parcel.run_id, str(error), "request the bundle again")


def _of_run(store: Store, folder: Path) -> Iterator[Problem]:
    try:
        record, context = (content_of(folder / f"{name}.json") for name in ("record", "context"))
    except BenchError as error:
        yield Problem(folder, str(error), "fix its permissions")
        return
    if record is None:
        cure = "repeat the command of the run, or delete the folder"
        yield Problem(folder, "it has no record: its run was not committed", cure)
        return
    try:
        checked = check(BundledRun(folder.name, record, context))
    except BenchError as error:
        yield Problem(folder, str(error), AGAIN)
        return
    if store.folder(checked.run_id) != folder:
        yield Problem(folder, f"it belongs in {store.folder(checked.run_id)}", "move it there")
    expected = {"record.json", "context.json", "masks"}
    yield from _unexpected([path for path in folder.iterdir() if path.name not in expected])
    if (folder / "masks").is_dir():
        yield from _of_masks(checked, folder / "masks", context)


def _unexpected(paths: Iterable[Path]) -> Iterator[Problem]:
    for path in sorted(paths):
        if not path.name.startswith(WRITING):  # a temporary file
            yield Problem(path, "unexpected file", "delete it, or move it elsewhere")


def _of_masks(record: Record, masks: Path, context: bytes | None) -> Iterator[Problem]:
    """Compare every saved mask with its hash, and its pixels with the counts of the run.

    Versions without a hash in context.json stored no hashes of masks.
    """
    cure = f"delete {masks} and repeat the command with --save-masks"
    sums = read_sums(masks)
    if not sums and (context is None or is_sealed(context)):
        yield Problem(masks / SUMS, "it is missing or empty: the masks have no hashes", cure)
    expected = {
        mask_path(masks, trial.draw, image): (trial.counts, number)
        for trial in record.trials
        for number, image in enumerate(trial.images)
    }
    for path, (counts, number) in expected.items():
        if what := _mask_problem(path, sums, counts, number):
            yield Problem(path, what, cure)
    files = {path for path in masks.rglob("*") if path.is_file()}
    yield from _unexpected(files - set(expected) - {masks / SUMS})


def _mask_problem(
    path: Path, sums: Mapping[Path, str], counts: Mapping[str, Sequence[float]], number: int
) -> str:
    """Return what is wrong with a mask according to hashes and counts, or ""."""
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as mask:
            n_pixels = int(np.count_nonzero(np.asarray(mask)))
    except Exception as error:  # a decoder may raise anything on a damaged file
        return f"it cannot be read ({type(error).__name__})"
    if sums and hashlib.sha256(content).hexdigest() != sums.get(path):
        return "its content differs from its hash"
    if "tp" in counts and n_pixels != counts["tp"][number] + counts["fp"][number]:
        return "its pixels differ from the counts of the run"
    return ""
