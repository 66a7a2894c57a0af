"""`bench lint-published`: what is wrong with the numbers that papers have printed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from bench.console import Json, out, show


def lint_published(
    paper: Annotated[
        str, typer.Argument(help="The name of a file of leaderboards/published.")
    ] = "cmd_paper",
    as_json: Json = False,
) -> None:
    """Find what is wrong with a paper's printed numbers. Findings are no error: the exit code is 0.

    Marked with ? are findings that put a number or its interval in doubt.
    """
    from bench import tables
    from bench.lint import lint
    from bench.published import cells

    printed = cells(paper)
    findings = lint(printed)
    if as_json:
        told = [asdict(each) | {"suspect": each.suspect} for each in findings]
        print(json.dumps({"paper": paper, "cells": len(printed), "findings": told}))
        return
    rows = [
        {
            "table": each.table,
            "": "?" if each.suspect else "",
            "finding": each.kind,
            "cells": len(each.cells),
            "says": each.says,
        }
        for each in findings
    ]
    show(tables.fields_table(f"{paper}: {len(printed)} printed cells", rows, out.width))
    doubtful = {cell for each in findings if each.suspect for cell in each.cells}
    out.print(f"? {len(doubtful)} cells in doubt: shown with a mark, and used in no test.")
