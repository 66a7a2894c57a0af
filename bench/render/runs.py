"""Runs and comparisons as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench import registry
from bench.api.board import Difference, Score
from bench.api.record import Record
from bench.api.report import DASH, Cell, Table, p_cell
from bench.board.compare import Contrast
from bench.board.data_notes import notes_on_data
from bench.board.scores import dataset_name, label, lower_is_better
from bench.errors import BenchError
from bench.models import hub

if TYPE_CHECKING:
    from pathlib import Path

    from bench.api.report import Outcome


PARTS = "{...} instead of an interval: the mean of each patient"


def named(score: str) -> str:
    """Return the name of a score, with an arrow if lower is better."""
    return f"{score} ↓" if lower_is_better(score) else score


def run_title(record: Record) -> str:
    """Return the description of a run in one line."""
    head, protocol = record.spec.head.name, record.spec.protocol.name
    return f"{label(record)} · {head} head · {dataset_name(record)} · {protocol}"


def run_table(record: Record, scores: Mapping[str, Score]) -> Table:
    """Build the table of the scores of one run."""
    protocol = record.spec.protocol
    first = next(iter(scores.values())).summary
    size = f"{first.n_images} images of {first.n_patients} patients"
    if protocol.shots is not None:
        size += f", {len(record.draws)} draws of {protocol.shots} training {protocol.by}"
    if protocol.fraction is not None:
        size += (
            f", {len(record.draws)} draws of {protocol.options['fraction']} of the training images"
        )
    notes = {score.summary.interval.note for score in scores.values()} - {""}
    if any(score.patient_means for score in scores.values()):
        notes.add(PARTS)
    has_draws = first.spread is not None
    spread = ["spread over draws"] if has_draws else []
    rows = [
        [
            named(name),
            Cell(score.summary.mean),
            Cell.of_score(score).interval,
            *([Cell(score.summary.spread)] if has_draws else []),
            score.worst,
        ]
        for name, score in scores.items()
    ]
    return Table(
        title=run_title(record),
        columns=["score", "mean", "95 % interval", *spread, "worst image"],
        rows=rows,
        notes=[size, *sorted(notes), *_probe_notes(record)],
    )


def _probe_notes(record: Record) -> list[str]:
    """Return what the linear probe chose; empty for other heads."""
    solved = [trial.training for trial in record.trials if "lambda" in trial.training]
    if not solved:
        return []
    chosen = []
    for name in ("lambda", "threshold"):
        values = [training[name] for training in solved]
        ends = dict.fromkeys((min(values), max(values)))
        chosen.append(f"{name} {' to '.join(f'{value:g}' for value in ends)}")
    edge = sum(bool(training.get("at_edge")) for training in solved)
    if "at_edge" not in solved[0]:
        how = "fixed, for few training images"
    elif edge:
        how = f"by cross-validation, in {edge} of {len(solved)} trainings at the edge of the grid"
    else:
        how = "by cross-validation"
    return [f"linear probe: {', '.join(chosen)}, {how}"]


def difference_table(title: str, differences: Mapping[str, Difference]) -> Table:
    """Build a table of paired differences of two runs, one row per score."""
    rows = []
    for name, difference in differences.items():
        cell = Cell(difference.mean, difference.interval.low, difference.interval.high)
        rows.append([named(name), Cell(cell.value), cell.interval or DASH, p_cell(difference.p)])
    notes = sorted({difference.note for difference in differences.values()} - {""})
    return Table(title, ["score", "difference", "95 % interval", "p"], rows, notes)


def comparison_tables(comparison: Contrast, worst: int) -> list[Table]:
    """Build the tables of differences by score, and of the `worst` images that differ most."""
    names = [
        f"{label(record)} · {record.spec.head.name} head ({record.run_id})"
        for record in (comparison.a, comparison.b)
    ]
    n_patients = len(set(comparison.a.patients.values()))
    size = f"{len(comparison.images)} images of {n_patients} patients"
    tables = [difference_table(f"{' minus '.join(names)}: {size}", comparison.differences)]
    rows = [
        [pair.image, pair.patient, Cell(pair.a), Cell(pair.b), Cell(pair.difference)]
        for pair in comparison.images[:worst]
    ]
    if rows:
        columns = ["image", "patient", "A", "B", "difference"]
        tables.append(Table(f"where {comparison.metric} differs most", columns, rows))
    return tables


def run_notes(outcome: Outcome, folder: Path) -> list[str]:
    """Return where a run is stored, how long it took, and remarks on its data and weights."""
    seconds = outcome.context.get("seconds")
    stages = seconds if isinstance(seconds, dict) else {}
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in stages.items())
    state = "cached" if outcome.cached else "committed"
    notes = [f"{state} run {outcome.record.run_id} in {folder} ({parts})"]
    return [*notes, *notes_on_data([outcome.record]), *weight_notes(outcome.record)]


def weight_notes(record: Record) -> list[str]:
    """Return the flags of a run as sentences, and the licences of its weights."""
    notes = []
    if record.is_untrained_control:
        notes.append("The weights are random: this row is a control, not a result of the backbone.")
    elif "untrained" in record.flags:
        notes.append("The weights are random, as the backbone was built: nothing was pretrained.")
    if "not converged" in record.flags:
        notes.append(
            "Not converged: the loss still fell at the end, so the score depends on the length of "
            "the training."
        )
    if "smoke" in record.flags:
        notes.append("A smoke run (--limit): it is on no board.")
    return notes + _licences(record)


def _licences(record: Record) -> list[str]:
    """Return the licences of the released weights that a run used, with their pages."""
    backbone, facts = record.spec.backbone, record.facts
    name = "released weights (this run used a file of the user)"
    used = {
        name if facts.get("own_checkpoint") else "weights": (
            backbone.name,
            backbone.weights,
        ),
        "condition's weights": (facts.get("condition"), facts.get("condition_weights")),
    }
    return [
        f"licence of the {what}: {licence}"
        for what, (name, identity) in used.items()
        if str(identity).startswith("sha256:") and (licence := _licence(str(name)))
    ]


def _licence(name: str) -> str:
    """Return a licence and its page; "" if no weights were released or the plug-in is missing."""
    try:
        backbone = registry.get("backbones", name)
    except BenchError:  # it was uninstalled after the run
        return ""
    if backbone.weights.repo:
        return f"{backbone.license} ({hub.page(backbone.weights)})"
    return backbone.license if backbone.weights.package else ""
