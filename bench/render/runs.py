"""Turn results into rich tables and plain JSON; nothing here prints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import registry
from bench.api.board import Difference, Score
from bench.api.record import Record
from bench.board.compare import Contrast
from bench.board.scores import dataset_name, label, lower_is_better
from bench.errors import BenchError
from bench.models import hub
from bench.render.tables import p_value

if TYPE_CHECKING:
    from pathlib import Path

    from bench.api.report import Outcome


def number(value: object, digits: int = 3) -> str:
    """Write a number for a table; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(score: Score) -> str:
    """Write an interval for a table; where there is none, the mean of each patient instead."""
    bounds = score.summary.interval
    if bounds.low is None:
        return f"patients: {' '.join(map(number, score.patient_means))}"
    mark = " ?" if bounds.note else ""
    return f"[{number(bounds.low)}, {number(bounds.high)}]{mark}"


def named(score: str) -> str:
    """Name a score for a table, with an arrow where lower is better."""
    return f"{score} ↓" if lower_is_better(score) else score


def run_title(record: Record) -> str:
    """Name a run in a line."""
    head, protocol = record.spec.head.name, record.spec.protocol.name
    return f"{label(record)} · {head} head · {dataset_name(record)} · {protocol}"


def run_table(record: Record, scores: Mapping[str, Score]) -> Table:
    """Show the scores of one run."""
    protocol = record.spec.protocol
    first = next(iter(scores.values())).summary
    caption = f"{first.n_images} images of {first.n_patients} patients"
    if protocol.shots is not None:
        what = f"{protocol.shots} training {protocol.by}"
        caption += f", {len(record.draws)} draws of {what}"
    if protocol.fraction is not None:
        caption += (
            f", {len(record.draws)} draws of {protocol.options['fraction']} of the training images"
        )
    notes = {score.summary.interval.note for score in scores.values()} - {""}
    table = Table(
        title=escape(run_title(record)),
        caption="\n".join([caption, *sorted(notes)]),
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("score")
    table.add_column("mean", justify="right")
    table.add_column("95 % interval")
    if first.spread is not None:
        table.add_column("spread over draws", justify="right")
    table.add_column("worst image")
    for name, score in scores.items():
        own = [
            named(name),
            number(score.summary.mean),
            escape(interval(score)),
            escape(score.worst),
        ]
        if first.spread is not None:
            own.insert(3, number(score.summary.spread))
        table.add_row(*own)
    return table


def difference_table(title: str, differences: Mapping[str, Difference]) -> Table:
    """Show paired differences of two runs, score by score."""
    notes = {found.note for found in differences.values()} - {""}
    table = Table(
        title=escape(title),
        caption="\n".join(sorted(notes)),
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("score")
    table.add_column("difference", justify="right")
    table.add_column("95 % interval")
    table.add_column("p", justify="right")
    for name, found in differences.items():
        bounds = found.interval
        shown = "–" if bounds.low is None else f"[{number(bounds.low)}, {number(bounds.high)}]"
        table.add_row(named(name), number(found.mean), escape(shown), p_value(found.p))
    return table


def run_notes(outcome: Outcome, folder: Path) -> list[str]:
    """Say where a run lies, how long it took and what must be known of it."""
    seconds = outcome.context.get("seconds")
    ledger = seconds if isinstance(seconds, dict) else {}
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in ledger.items())
    state = "found" if outcome.found else "committed"
    notes = [f"{state} run {outcome.record.run_id} in {folder} ({parts})"]
    if outcome.record.facts.get("random_twin"):
        notes.append("The weights are random: this row is a control, not a result of the backbone.")
    elif "untrained" in outcome.record.flags:
        notes.append("The weights are random, as the backbone was built: nothing was pretrained.")
    if "smoke" in outcome.record.flags:
        notes.append("A smoke run (--limit): it is on no board.")
    return notes + _licences(outcome.record)


def _licences(record: Record) -> list[str]:
    """Name the licences of the released weights that a run stands on, and where they are told."""
    backbone, facts = record.spec.backbone, record.facts
    own = "released weights (these are a file of your own)"
    used = {
        own if facts.get("own_checkpoint") else "weights": (
            backbone.name,
            backbone.weights,
        ),
        "condition's weights": (facts.get("condition"), facts.get("condition_weights")),
    }
    return [
        f"licence of the {what}: {told}"
        for what, (name, identity) in used.items()
        if str(identity).startswith("sha256:") and (told := _licence(str(name)))
    ]


def _licence(name: str) -> str:
    """Tell a licence and its page; nothing where no weights were released, or none are known."""
    try:
        backbone = registry.get("backbones", name)
    except BenchError:  # the run was committed when it was still installed
        return ""
    if backbone.weights.repo:
        return f"{backbone.license} ({hub.page(backbone.weights)})"
    return backbone.license if backbone.weights.package else ""


def drawn(shown: Sequence[Table | str]) -> str:
    """Draw tables and lines as one SVG picture, without fonts from elsewhere."""
    paper = Console(record=True, width=140, file=StringIO(), force_terminal=True)
    for each in shown:
        paper.print(each, markup=False, highlight=False)
    picture = paper.export_svg(title="bench leaderboard")
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


def run_json(record: Record, scores: Mapping[str, Score], context: Mapping[str, object]) -> dict:
    """Give one run for machines."""
    return {
        "run_id": record.run_id,
        "backbone": record.spec.backbone.name,
        "dataset": record.facts["dataset"],
        "protocol": record.spec.protocol.name,
        "spec": record.spec.to_json(),
        "facts": record.facts,
        "flags": list(record.flags),
        "scores": {name: score.plain() for name, score in scores.items()},
        "trials": [
            {"tags": trial.tags, "train": trial.train, "loss": trial.loss}
            for trial in record.trials
        ],
        "context": context,
    }


def differences_json(differences: Mapping[str, Difference]) -> dict[str, object]:
    """Give paired differences for machines."""
    return {
        name: {
            "mean": found.mean,
            "ci_low": found.interval.low,
            "ci_high": found.interval.high,
            "p": found.p,
            "n_patients": found.n_patients,
            "note": found.note,
        }
        for name, found in differences.items()
    }


def as_json(comparison: Contrast, worst: int) -> dict[str, object]:
    """Return a comparison as a JSON object, with the `worst` images that differ most."""

    return {
        "a": _run_json(comparison.a),
        "b": _run_json(comparison.b),
        "n_images": len(comparison.images),
        "n_patients": len(set(comparison.a.patients.values())),
        "differences": differences_json(comparison.differences),
        "metric": comparison.metric,
        "images": [
            vars(pair) | {"difference": pair.difference} for pair in comparison.images[:worst]
        ],
        "notes": list(comparison.notes),
    }


def _run_json(record: Record) -> dict[str, object]:
    head = record.spec.head.name
    return {"run_id": record.run_id, "backbone": label(record), "head": head}
