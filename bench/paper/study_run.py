"""Run a study: check it, pretrain its arms, evaluate them with a linear probe, compare them.

Every stage saves its results, so an interrupted study resumes when it is run again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from bench import registry
from bench.api import Progress
from bench.api.board import BoardOptions, Difference, Score
from bench.api.record import Record
from bench.board import scores as board_scores
from bench.paper.study import Arm, Study
from bench.pretrain.export import export
from bench.pretrain.job import PretrainJob, prepare
from bench.pretrain.trainer import train
from bench.runs.execute import Paths, execute
from bench.runs.resolve import refuse_leaks, resolve
from bench.runs.session import Session
from bench.stats.paired import holm

SCORES = {"dice_macro": "Dice", "bf1": "BF1"}  # metrics, and the paper's names for them


@dataclass(frozen=True)
class Trained:
    """A trained arm, with the card that describes its training."""

    arm: Arm
    card: Mapping[str, object]


@dataclass(frozen=True)
class StudyCell:
    """The scores of an arm on a data set, by the metrics in `SCORES`."""

    arm: Arm
    record: Record
    scores: Mapping[str, Score]

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return board_scores.dataset_name(self.record)


@dataclass(frozen=True)
class Comparison:
    """The difference between an arm and the reference arm on a data set.

    Attributes:
        holm_p: p value adjusted for all comparisons of the study (Holm).
    """

    arm: Arm
    dataset: str
    score: str
    difference: Difference
    holm_p: float


@dataclass(frozen=True)
class Findings:
    """The results of a complete study; `notes` are the return value of `rehearse`."""

    study: Study
    notes: Sequence[str]
    trained: Sequence[Trained]
    cells: Sequence[StudyCell]
    comparisons: Sequence[Comparison]


def rehearse(study: Study) -> list[str]:
    """Check everything that a study needs, and return notes for the user.

    Each arm is prepared once, and each data set is read with an untrained arm.

    Raises:
        BenchError: something is invalid, missing or incompatible.
    """
    notes: dict[str, None] = {}
    first, *others = study.table.arms
    for arm in study.table.arms:
        notes |= dict.fromkeys(_prepared(study, arm).notes)
    pairs = [(first, dataset) for dataset in study.datasets]
    for arm, dataset in [*pairs, *((arm, study.datasets[0]) for arm in others)]:
        untrained = replace(study.request(arm, dataset), checkpoint=None, weights="random")
        refuse_leaks(resolve(untrained, Session(study.common.data)))
    return list(notes)


def pretrain(study: Study, progress: Progress, stop: Callable[[], object]) -> list[Trained]:
    """Train the arms in order; return early if `stop` returns a true value.

    Raises:
        BenchError, RunFailed: see `bench.pretrain.trainer.train`.
    """
    trained: list[Trained] = []
    for arm in study.table.arms:
        if stop():
            break
        job = _prepared(study, arm)
        outcome = train(job, _with_arm_name(progress, arm), stop)
        if not outcome.finished:
            break
        trained.append(Trained(arm, export(job, outcome)))
    return trained


def evaluate(study: Study, progress: Progress) -> list[StudyCell]:
    """Evaluate every trained arm on every data set, in the order of the table.

    Raises:
        BenchError, RunFailed: see `bench.runs.execute.execute`.
    """
    out = study.common.out
    cache = out / "cache"
    paths = Paths(out / "results", study.common.data, cache)
    pairs = list(product(study.datasets, study.table.arms))
    cells = []
    for done, (dataset, arm) in enumerate(pairs):
        progress(f"evaluate: {arm.name} on {dataset}", done, len(pairs))
        record = execute(study.request(arm, dataset), paths, progress).record
        shutil.rmtree(cache, ignore_errors=True)  # no other run reads the features of this arm
        cells.append(
            StudyCell(arm, record, board_scores.scores(record, list(SCORES), BoardOptions()))
        )
    progress("evaluate", len(pairs), len(pairs))
    return cells


def compare(study: Study, cells: Sequence[StudyCell]) -> list[Comparison]:
    """Compare each arm with the reference arm on the same images, paired by patient."""
    reference = study.table.reference
    references = {_images_sha256(cell): cell.record for cell in cells if cell.arm == reference}
    others = [cell for cell in cells if cell.arm != reference]
    pairs = list(product(others, SCORES))
    differences = [
        board_scores.difference(cell.record, references[_images_sha256(cell)], score)
        for cell, score in pairs
    ]
    adjusted = holm([1.0 if difference.p is None else difference.p for difference in differences])
    return [
        Comparison(cell.arm, cell.dataset, score, difference, p)
        for (cell, score), difference, p in zip(pairs, differences, adjusted, strict=True)
    ]


def _prepared(study: Study, arm: Arm) -> PretrainJob:
    backbone = registry.get("backbones", study.common.backbone)
    return prepare(backbone, study.pretraining(arm))


def _with_arm_name(progress: Progress, arm: Arm) -> Progress:
    return lambda stage, done, total: progress(f"{arm.name}, {stage}", done, total)


def _images_sha256(cell: StudyCell) -> str:
    """Identify the images of a cell by hash, since two data sets can share a name."""
    return cell.record.spec.dataset.sha256
