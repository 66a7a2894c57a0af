"""Run a study: rehearse it, pretrain its arms, score each with the linear probe, compare them.

Every part keeps what it finishes, so the same study again goes on where it was stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from bench import board, registry
from bench.api import Progress
from bench.board import BoardOptions, Score
from bench.differences import Difference, holm
from bench.job import refuse_leaks, resolve
from bench.pretrain.export import export
from bench.pretrain.job import Job, prepare
from bench.pretrain.trainer import train
from bench.record import Record
from bench.running import Places, execute
from bench.study import Arm, Study

SCORES = {"dice_macro": "Dice", "bf1": "BF1"}  # our names, and what the paper seems to mean by its


@dataclass(frozen=True)
class Trained:
    """An arm with its weights, and the card that tells how they were made."""

    arm: Arm
    card: Mapping[str, object]


@dataclass(frozen=True)
class Cell:
    """The scores of an arm on a data set, by the names in `SCORES`."""

    arm: Arm
    record: Record
    scores: Mapping[str, Score]

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return board.dataset_name(self.record)


@dataclass(frozen=True)
class Comparison:
    """An arm minus the table's reference on the images of a data set.

    Attributes:
        holm_p: p adjusted for all comparisons of the study.
    """

    arm: Arm
    dataset: str
    score: str
    difference: Difference
    holm_p: float


@dataclass(frozen=True)
class Findings:
    """A study that was run to its end; `notes` are what `rehearse` gave."""

    study: Study
    notes: Sequence[str]
    trained: Sequence[Trained]
    cells: Sequence[Cell]
    comparisons: Sequence[Comparison]


def rehearse(study: Study) -> list[str]:
    """Find all that a study needs, and give what a user should know before it begins.

    Each arm is prepared and let go again; each data set is read as its first run will read it, with
    the untrained twin of an arm in the place of the trained one.

    Raises:
        BenchError: something is wrong or missing, or does not fit.
    """
    notes: dict[str, None] = {}
    first, *others = study.table.arms
    for arm in study.table.arms:
        notes |= dict.fromkeys(_prepared(study, arm).notes)
    pairs = [(first, dataset) for dataset in study.datasets]
    for arm, dataset in [*pairs, *((arm, study.datasets[0]) for arm in others)]:
        twin = replace(study.request(arm, dataset), checkpoint=None, random=True)
        refuse_leaks(resolve(twin, study.data, load=False))
    return list(notes)


def pretrain(study: Study, progress: Progress, stop: Callable[[], object]) -> list[Trained]:
    """Train the arms one after the other; fewer are given where `stop` gave something true.

    Raises:
        BenchError, RunFailed: see `bench.pretrain.trainer.train`.
    """
    trained: list[Trained] = []
    for arm in study.table.arms:
        if stop():
            break
        job = _prepared(study, arm)
        outcome = train(job, _named(progress, arm), stop)
        if not outcome.finished:
            break
        trained.append(Trained(arm, export(job, outcome)))
    return trained


def evaluate(study: Study, progress: Progress) -> list[Cell]:
    """Score every trained arm on every data set: data set by data set, arms as in the table.

    Raises:
        BenchError, RunFailed: see `bench.running.execute`.
    """
    cache = study.out / "cache"
    places = Places(study.out / "results", study.data, cache)
    pairs = list(product(study.datasets, study.table.arms))
    cells = []
    for done, (dataset, arm) in enumerate(pairs):
        progress(f"evaluate: {arm.name} on {dataset}", done, len(pairs))
        record = execute(study.request(arm, dataset), places, progress).record
        shutil.rmtree(cache, ignore_errors=True)  # no other run reads what is of this arm
        cells.append(Cell(arm, record, board.scores(record, list(SCORES), BoardOptions())))
    progress("evaluate", len(pairs), len(pairs))
    return cells


def compare(study: Study, cells: Sequence[Cell]) -> list[Comparison]:
    """Compare each arm with the table's reference on the same images, by patient."""
    reference = study.table.reference
    of_reference = {_images(cell): cell.record for cell in cells if cell.arm == reference}
    others = [cell for cell in cells if cell.arm != reference]
    made = [
        (cell, score, board.difference(cell.record, of_reference[_images(cell)], score))
        for cell, score in product(others, SCORES)
    ]
    adjusted = holm([1.0 if difference.p is None else difference.p for *_, difference in made])
    return [
        Comparison(cell.arm, cell.dataset, score, difference, p)
        for (cell, score, difference), p in zip(made, adjusted, strict=True)
    ]


def _prepared(study: Study, arm: Arm) -> Job:
    backbone = registry.get("backbones", study.common.backbone)
    settings, folder = study.settings(arm), study.folder(arm)
    return prepare(backbone, settings, study.routine, study.images, folder)


def _named(progress: Progress, arm: Arm) -> Progress:
    return lambda stage, done, total: progress(f"{arm.name}, {stage}", done, total)


def _images(cell: Cell) -> str:
    """Tell which images a cell is about: two data sets may have one name."""
    return str(board.part(cell.record, "dataset")["sha256"])
