"""A leaderboard as CSV: one row per run and score."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from bench.api.board import Block, Row
from bench.board.scores import label, recipe
from bench.render import printable

FORMULA = tuple("=+-@")  # a spreadsheet evaluates text that starts with these, after any blanks
COLUMNS = (
    "source",
    "block",
    "dataset",
    "scored",
    "shift",
    "protocol",
    "protocol_settings",
    "metrics_version",
    "backbone",
    "weights",
    "label",
    "head",
    "head_parameters",
    "view",
    "input_px",
    "recipe",
    "precision",
    "run_id",
    "metric",
    "mean",
    "ci_low",
    "ci_high",
    "ci_method",
    "note",
    "spread_over_draws",
    "n_images",
    "n_patients",
    "undefined_images",
    "worst_image",
    "rank",
    "reference",
    "minus_reference",
    "minus_reference_low",
    "minus_reference_high",
    "holm_p",
    "decision",
    "flags",
)


def csv_text(rows: Iterable[Mapping[str, object]]) -> str:
    """Format rows with the fields in `COLUMNS`; missing fields are empty."""
    file = io.StringIO(newline="")
    writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _safe(value) for name, value in row.items()})
    return file.getvalue()


def block_rows(block: Block) -> Iterator[dict[str, object]]:
    """Yield the CSV rows of a comparison group, one per run and score."""
    sorted_by = next(iter(block.rows[0].scores))
    for row in block.rows:
        for name, score in row.scores.items():
            values = score.plain()
            del values["patient_means"]
            standing = _standing_fields(row, block) if name == sorted_by else {}
            yield {**_run_fields(row), "block": block.title, "metric": name, **values, **standing}


def _run_fields(row: Row) -> dict[str, object]:
    record = row.record
    backbone, view, protocol = record.spec.backbone, record.spec.view, record.spec.protocol
    return {
        "source": "run",
        "dataset": record.facts["dataset"],
        "scored": record.facts["scored"],
        "shift": record.spec.scored.shift,
        "protocol": protocol.name,
        "protocol_settings": json.dumps(dict(protocol.options), sort_keys=True),
        "metrics_version": record.spec.metrics_version,
        "backbone": backbone.name,
        "weights": backbone.weights,
        "label": label(record),
        "head": row.head,
        "head_parameters": record.facts["head_parameters"],
        "view": view.kind,
        "input_px": view.px,
        "recipe": recipe(record),
        "precision": record.spec.precision,
        "run_id": "; ".join(run.run_id for run in row.runs),
        "flags": "; ".join(row.flags),
    }


def _standing_fields(row: Row, block: Block) -> dict[str, object]:
    standing = row.standing
    if standing is None:
        return {}
    fields: dict[str, object] = {"rank": standing.rank, "decision": standing.decision}
    if (difference := standing.difference) is not None:
        fields |= {
            "reference": block.reference or block.rows[0].backbone,
            "minus_reference": difference.mean,
            "minus_reference_low": difference.interval.low,
            "minus_reference_high": difference.interval.high,
            "holm_p": standing.holm_p,
        }
    return fields


def _safe(value: object) -> object:
    """Quote text that a spreadsheet would evaluate as a formula; None is empty."""
    if not isinstance(value, str):
        return "" if value is None else value
    text = printable(value)
    starts = unicodedata.normalize("NFKC", text.lstrip()[:1])  # of full-width signs: the plain ones
    return f"'{text}" if starts.startswith(FORMULA) else text
