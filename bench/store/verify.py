"""Check the records, masks and saved trials of a results folder. Files are never changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from bench.api import Progress
from bench.api.record import Record
from bench.errors import BenchError
from bench.store import bundle
from bench.store.files import Problem, read_bytes, sha256_of
from bench.store.locks import TEMPORARY
from bench.store.results import SUMS, mask_path, read_sums, read_trial

REPEAT = "delete its folder and repeat the command of the run, or merge it from another machine"


def check_results(results: Path, progress: Progress) -> Iterator[Problem]:
    """Yield the problems of a results folder or bundle.

    Raises:
        BenchError: the path does not exist, or is a bundle that is refused as a whole.
    """
    if results.exists() and not results.is_dir():
        for run in bundle.unpack(results):
            try:
                bundle.check(run)
            except BenchError as error:
                yield Problem(results / run.run_id, str(error), "request the bundle again")
        return
    folders = sorted(results.glob("runs/??/*"))
    for done, folder in enumerate(folders):
        progress("runs", done, len(folders))
        yield from _check_run(folder)
    progress("runs", len(folders), len(folders))
    masks = sum(1 for _ in results.glob("runs/??/*/masks/**/*.png"))
    progress("masks", masks, masks)
    for path in sorted(results.glob("work/*/trial-*.json")):
        if read_trial(path) is None:
            yield Problem(path, "it is not a saved trial", "delete it; it is recomputed")


def _check_run(folder: Path) -> Iterator[Problem]:
    try:
        record, context = (read_bytes(folder / f"{kind}.json") for kind in bundle.KINDS)
    except BenchError as error:
        yield Problem(folder, str(error), "delete it, or fix its permissions")
        return
    if record is None:
        fix = "repeat the command of the run, or delete the folder"
        yield Problem(folder, "it has no record: its run was not committed", fix)
        return
    try:
        checked = bundle.check(bundle.BundledRun(folder.name, record, context))
    except BenchError as error:
        yield Problem(folder, str(error), REPEAT)
        return
    if folder.parent.name != folder.name[:2]:
        yield Problem(folder, f"it belongs in runs/{folder.name[:2]}", "move it there")
    expected = {"record.json", "context.json", "masks"}
    yield from _unexpected(path for path in folder.iterdir() if path.name not in expected)
    if (folder / "masks").is_dir():
        yield from _check_masks(checked, folder / "masks")


def _unexpected(paths: Iterable[Path]) -> Iterator[Problem]:
    for path in sorted(paths):
        if not path.name.startswith(TEMPORARY):
            yield Problem(path, "unexpected file", "delete it, or move it elsewhere")


def _check_masks(record: Record, masks: Path) -> Iterator[Problem]:
    """Compare every saved mask with its hash, and its pixels with the counts of the run."""
    fix = f"delete {masks} and repeat the command with --save-masks"
    sums = read_sums(masks)
    if not sums:
        yield Problem(masks / SUMS, "it is missing or empty: the masks have no hashes", fix)
    expected = {
        mask_path(masks, trial.draw, image): (trial.counts, number)
        for trial in record.trials
        for number, image in enumerate(trial.images)
    }
    for path, (counts, number) in expected.items():
        if problem := _mask_problem(path, sums, counts, number):
            yield Problem(path, problem, fix)
    files = {path for path in masks.rglob("*") if path.is_file()}
    yield from _unexpected(files - set(expected) - {masks / SUMS})


def _mask_problem(
    path: Path, sums: Mapping[Path, str], counts: Mapping[str, Sequence[float]], number: int
) -> str:
    """Return what is wrong with a mask according to hashes and counts, or ""."""
    try:
        content = read_bytes(path) or b""
        with Image.open(BytesIO(content)) as mask:
            n_pixels = int(np.count_nonzero(np.asarray(mask)))
    except Exception as error:  # a decoder may raise anything on a damaged file
        return f"it cannot be read ({type(error).__name__})"
    if sums and sha256_of(content) != sums.get(path):
        return "its content differs from its hash"
    if "tp" in counts and n_pixels != counts["tp"][number] + counts["fp"][number]:
        return "its pixels differ from the counts of the run"
    return ""
