"""Read the predicted masks that runs saved, and find the images they belong to."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bench import registry
from bench.api.record import Record
from bench.board.scores import dataset_name
from bench.data import find as data_sets
from bench.errors import BenchError
from bench.runs.command import command_of
from bench.store.files import is_file_name, special_kind
from bench.store.results import Store, mask_path


def mask_files(
    runs: Sequence[Record], images: Sequence[str], results: Path, data: Path | None
) -> list[tuple[Path, ...]]:
    """Return the files of the masks of the first draw: for each image, one per run.

    Args:
        runs: the runs.
        images: ids of images.
        results: folder of the runs.
        data: folder of the data set, for the command in the error message.

    Raises:
        BenchError: a run has not saved a mask; the message has the command that saves it.
    """
    store = Store(results)
    files_of = [
        [mask_path(store.folder(run.run_id) / "masks", run.draws[0], image) for image in images]
        for run in runs
    ]
    missing = [
        run
        for run, files in zip(runs, files_of, strict=True)
        if not all(f.is_file() for f in files)
    ]
    if missing:
        options = f"--save-masks --results {shlex.quote(str(results))}"
        commands = "\n".join(f"  {_command(run, data)} {options}" for run in missing)
        raise BenchError(
            f"no masks were saved of {' and '.join(run.run_id for run in missing)}. Save them "
            f"with the following, which does not change the records:\n{commands}"
        )
    return list(zip(*files_of, strict=True))


def with_masks(runs: Iterable[Record], results: Path) -> set[str]:
    """Return the ids of the runs that saved masks."""
    store = Store(results)
    folders = {run.run_id: store.folder(run.run_id) / "masks" for run in runs}
    return {run_id for run_id, masks in folders.items() if masks.is_dir()}


def scored_images(run: Record, data_dir: Path | None) -> data_sets.DatasetHandle:
    """Find the images that a run was scored on.

    Raises:
        BenchError: the data set is not found, or was changed after the run.
    """
    name, scored = str(run.facts["scored"]), run.spec.scored
    if not is_file_name(name):
        raise BenchError(
            f"the record {run.run_id} is damaged: its data set {name!r} is not a valid name."
        )
    candidates = [data_dir, data_dir / name] if data_dir else []
    folder = next((path for path in candidates if (path / "manifest.csv").is_file()), None)
    if folder is None and name not in registry.names("datasets"):
        raise BenchError(f"the runs were scored on the folder {name}: pass it as `--data FOLDER`.")
    handle = data_sets.find(str(folder.resolve()) if folder else name, data_dir)
    if handle.identity != scored.sha256:
        raise BenchError(
            f"{handle.root or name} is not the data set that the runs were scored on: its sha256 "
            f"is {handle.identity[:12]}, not {scored.sha256[:12]}. Pass the right folder "
            "by --data."
        )
    return handle


def _command(run: Record, data: Path | None) -> str:
    """Return the command of a run; runs on shifted or other data sets belong to a series."""
    moved = run.spec.scored.shift or run.facts["scored"] != run.facts["dataset"]
    return (
        f"the series that made {run.run_id} ({dataset_name(run)}), with"
        if moved
        else command_of(run, data)
    )


def read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a predicted mask: (H, W) bool.

    Raises:
        BenchError: the file cannot be read, or its shape is not (H, W).
    """
    try:
        if kind := special_kind(path):
            raise BenchError(f"the mask {path} is {kind}, not a file. Delete it.")
        with Image.open(path) as file:
            if (file.height, file.width) != shape:
                raise BenchError(
                    f"the mask {path} is {file.size}, but its image is {shape[::-1]}. "
                    "Save the masks again with --save-masks."
                )
            return np.asarray(file.convert("L")) > 0
    except OSError as error:
        raise BenchError(f"the mask {path} cannot be read: {error}.") from error
