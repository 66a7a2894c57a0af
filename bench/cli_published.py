"""`bench lint-published`: check the printed numbers of a paper."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from bench.console import Json, out, show


def lint_published(
    paper: Annotated[
        str, typer.Argument(help="Name of a file in leaderboards/published.")
    ] = "cmd_paper",
    as_json: Json = False,
) -> None:
    """Check a paper's printed numbers for inconsistencies.

    Findings marked with ? make a number or its interval doubtful. The exit code is 0 either way.
    """
    from bench import tables
    from bench.lint import lint
    from bench.published import cells

    printed = cells(paper)
    findings = lint(printed)
    if as_json:
        listed = [asdict(finding) | {"suspect": finding.suspect} for finding in findings]
        print(json.dumps({"paper": paper, "cells": len(printed), "findings": listed}))
        return
    rows = [
        {
            "table": finding.table,
            "": "?" if finding.suspect else "",
            "finding": finding.kind,
            "cells": len(finding.cells),
            "details": finding.says,
        }
        for finding in findings
    ]
    show(tables.fields_table(f"{paper}: {len(printed)} printed cells", rows, out.width))
    doubtful = {cell for finding in findings if finding.suspect for cell in finding.cells}
    out.print(f"? {len(doubtful)} doubtful cells: marked in tables, and not used in any test.")
