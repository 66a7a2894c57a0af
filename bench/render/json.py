"""Leaderboards, runs and comparisons as JSON objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from bench.api.board import Block, Difference, Row, Score
from bench.api.record import Record
from bench.board.compare import Contrast
from bench.board.scores import dataset_name, label


def groups_json(blocks: Sequence[Block]) -> list[dict[str, object]]:
    """Return the comparison groups of a leaderboard; docs/README.md describes the fields."""
    return [
        {
            "dataset": _common([dataset_name(row.record) for row in block.rows]),
            "protocol": _common([_protocol_json(row.record) for row in block.rows]),
            "head": _common([row.head for row in block.rows]),
            "recipe": _common([asdict(row.record.spec.recipe) for row in block.rows]),
            "view": {
                name: _common([getattr(row.record.spec.view, name) for row in block.rows])
                for name in ("kind", "px")
            },
            "rows": [_row_json(row) for row in block.rows],
            "title": block.title,
            "key": block.key,
            "chance": [{"baseline": row.baseline, "scores": row.means} for row in block.chance],
            "reference": block.reference or block.rows[0].backbone,
            "verdict": block.verdict and asdict(block.verdict),
            "notes": list(block.notes),
            "not_run": list(block.missing),
        }
        for block in blocks
    ]


def _common(values: Sequence[object]) -> object:
    """Return the value that all rows share; None if they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def _protocol_json(record: Record) -> object:
    return record.spec.subset("protocol")["protocol"]


def _row_json(row: Row) -> dict[str, object]:
    body: dict[str, object] = {
        "backbone": row.backbone,
        "run_id": row.record.run_id,
        "runs": [run.run_id for run in row.runs],
        "scores": {name: score.plain() for name, score in row.scores.items()},
        "head": row.head,
        "protocol": _protocol_json(row.record),
        "head_parameters": row.record.facts["head_parameters"],
        "recipe": asdict(row.record.spec.recipe),
        "precision": row.record.spec.precision,
        "view": asdict(row.record.spec.view),
        "flags": list(row.flags),
    }
    if row.standing is None:
        return body
    standing = row.standing
    return body | {
        "rank": standing.rank,
        "minus_reference": standing.difference and difference_json(standing.difference),
        "holm_p": standing.holm_p,
        "decision": standing.decision or None,
    }


def run_json(
    record: Record, scores: Mapping[str, Score], context: Mapping[str, object]
) -> dict[str, object]:
    """Return a run with its scores."""
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


def difference_json(difference: Difference) -> dict[str, object]:
    """Return a paired difference."""
    return {
        "mean": difference.mean,
        "ci_low": difference.interval.low,
        "ci_high": difference.interval.high,
        "p": difference.p,
        "n_patients": difference.n_patients,
        "note": difference.note,
    }


def comparison_json(comparison: Contrast, worst: int) -> dict[str, object]:
    """Return a comparison of two runs, with the `worst` images that differ most."""
    runs = {
        name: {
            "run_id": record.run_id,
            "backbone": label(record),
            "head": record.spec.head.name,
        }
        for name, record in (("a", comparison.a), ("b", comparison.b))
    }
    differences = comparison.differences.items()
    return {
        **runs,
        "n_images": len(comparison.images),
        "n_patients": len(set(comparison.a.patients.values())),
        "differences": {name: difference_json(difference) for name, difference in differences},
        "metric": comparison.metric,
        "images": [
            vars(pair) | {"difference": pair.difference} for pair in comparison.images[:worst]
        ],
        "notes": list(comparison.notes),
    }
