"""The predicted masks that runs kept, and the images that they are of."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench import data as data_sets
from bench import registry
from bench.board import dataset_name, part
from bench.command import of_record
from bench.errors import BenchError
from bench.manifest import is_file_name
from bench.record import Record
from bench.store import Store, mask_path


@dataclass(frozen=True)
class Kept:
    """The masks of several runs, of the first draw of each."""

    runs: tuple[Record, ...]
    results: Path

    @classmethod
    def of(
        cls, runs: Sequence[Record], images: Sequence[str], results: Path, data: Path | None
    ) -> Kept:
        """Find the masks of images.

        Args:
            data: where the data set was found, for the command that makes the masks.

        Raises:
            BenchError: a run kept none of one; the message gives the command that makes them.
        """
        kept = cls(tuple(runs), results)
        without = [r for r in runs if not all(kept._path(r, each).is_file() for each in images)]
        if without:
            more = f"--save-masks --results {shlex.quote(str(results))}"
            commands = "\n".join(f"  {_cure(run, data)} {more}" for run in without)
            raise BenchError(
                f"no masks were saved of {' and '.join(run.run_id for run in without)}. Make them "
                f"(the records stay as they are), with the weights of the run:\n{commands}"
            )
        return kept

    def read(self, image: str, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """Read the mask of each run, (H, W) bool.

        Raises:
            BenchError: a file cannot be read, or is of another size than its image.
        """
        return tuple(read_mask(self._path(run, image), shape) for run in self.runs)

    def _path(self, run: Record, image: str) -> Path:
        masks = Store(self.results).folder(run.run_id) / "masks"
        return mask_path(masks, run.draws[0], image)


def with_masks(runs: Iterable[Record], results: Path) -> set[str]:
    """Give the ids of the runs that kept masks."""
    store = Store(results)
    folders = {run.run_id: store.folder(run.run_id) / "masks" for run in runs}
    return {run_id for run_id, masks in folders.items() if masks.is_dir()}


def scored_images(run: Record, data_dir: Path | None) -> data_sets.DataHandle:
    """Find the images that a run was scored on.

    Raises:
        BenchError: they are not there, or were changed since.
    """
    name, scored = str(run.facts["scored"]), part(run, "scored")
    if not is_file_name(name):
        raise BenchError(f"the run {run.run_id} names its data set {name!r}, which is no name.")
    places = [data_dir, data_dir / name] if data_dir else []
    folder = next((each for each in places if (each / "manifest.csv").is_file()), None)
    if folder is None and name not in registry.names("datasets"):
        raise BenchError(f"the runs were scored on the folder {name}: give it by `--data FOLDER`.")
    handle = data_sets.find(str(folder.resolve()) if folder else name, data_dir)
    if handle.identity != scored["sha256"]:
        raise BenchError(
            f"{handle.root or name} is not what the runs were scored on: its sha256 is "
            f"{handle.identity[:12]}, theirs {str(scored['sha256'])[:12]}. Give that folder by "
            "--data."
        )
    return handle


def _cure(run: Record, data: Path | None) -> str:
    """Give the command of a run; one that was shifted or moved was made in a series of runs."""
    moved = part(run, "scored")["shift"] or run.facts["scored"] != run.facts["dataset"]
    return (
        f"the series that made {run.run_id} ({dataset_name(run)}), with"
        if moved
        else of_record(run, data)
    )


def read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a predicted mask: (H, W) bool.

    Raises:
        BenchError: it cannot be read, or is of another shape.
    """
    try:
        with Image.open(path) as file:
            if (file.height, file.width) != shape:
                raise BenchError(f"{path} is {file.size}, and its image {shape[::-1]}.")
            return np.asarray(file.convert("L")) > 0
    except OSError as error:
        raise BenchError(f"the mask {path} cannot be read: {error}.") from error
