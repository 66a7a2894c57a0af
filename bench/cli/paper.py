"""The commands about the paper: `bench reproduce`, `study` and `lint-published`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import Json, note, out, progress, show, stop_signals
from bench.cli.options import options_of
from bench.paper.config import ReproduceConfig, StudyConfig

if TYPE_CHECKING:
    from bench.paper.study import Study


WIDTH = 150  # columns of the tables if the output is not a terminal


@options_of(ReproduceConfig)
def reproduce(config: ReproduceConfig, as_json: Json = False) -> None:
    """Run the rows of a table of the paper, and compare the scores with the printed ones.

    The exit code is 1 if a run fails. Rows that cannot run here are listed and skipped.
    """
    from bench.paper import reproduce as reproduction
    from bench.paper.recipes import attempts
    from bench.runs.execute import Paths
    from bench.store.cache_dir import cache_root

    planned, number = attempts(config), config.table.upper()
    if not as_json:
        show(reproduction.plan_table(number, planned), width=WIDTH)
    if config.dry_run:
        outcomes = [reproduction.ReproducedRun(attempt) for attempt in planned]
    else:
        with progress(quiet=as_json) as report:
            outcomes = reproduction.run(
                planned, Paths(config.results, config.data, cache_root()), report
            )
    if as_json:
        print(json.dumps(reproduction.as_json(number, outcomes)))
    elif config.dry_run:
        for attempt in planned:
            out.print(attempt.command, markup=False, highlight=False, soft_wrap=True)
    else:
        show(reproduction.result_table(number, outcomes), width=WIDTH)
    if any(outcome.failure for outcome in outcomes):
        raise typer.Exit(1)


def lint_published(
    paper: Annotated[
        str, typer.Argument(help="Name of a file in leaderboards/published.")
    ] = "cmd_paper",
    as_json: Json = False,
) -> None:
    """Check a paper's printed numbers for inconsistencies.

    Findings marked with ? make a number or its interval doubtful. The exit code is 0 either way.
    """
    from bench.paper.lint import lint
    from bench.paper.published import cells
    from bench.render import terminal

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
            "details": finding.description,
        }
        for finding in findings
    ]
    show(terminal.fields_table(f"{paper}: {len(printed)} printed cells", rows))
    doubtful = {cell for finding in findings if finding.suspect for cell in finding.cells}
    out.print(f"? {len(doubtful)} doubtful cells: marked in tables, and not used in any test.")


@options_of(StudyConfig)
def study(config: StudyConfig, as_json: Json = False) -> None:
    """Pretrain and evaluate the arms of a table of the paper, and compare with its scores.

    An interrupted study resumes when the command is repeated. Tables that share --out share arms.
    """
    from bench.paper import study_report, study_run
    from bench.paper.study import study_of
    from bench.store.files import write_bytes

    planned = study_of(config)
    notes = study_run.rehearse(planned)
    if planned.missing:
        note(f"data sets not found and not evaluated: {', '.join(planned.missing)}.")
    for text in notes:
        note(text)
    with progress(quiet=as_json) as report:
        with stop_signals() as stop:
            trained = study_run.pretrain(planned, report, stop)
            exit_code = stop()
        if exit_code:
            _report_stop(planned, len(trained), as_json)
            raise typer.Exit(exit_code)
        cells = study_run.evaluate(planned, report)
    comparisons = study_run.compare(planned, cells)
    findings = study_run.Findings(planned, notes, trained, cells, comparisons)
    body, name = study_report.as_json(findings), f"table-{config.table}"
    write_bytes(config.out / f"{name}.json", (json.dumps(body, indent=2) + "\n").encode())
    write_bytes(config.out / f"{name}.md", study_report.markdown(findings).encode())
    if as_json:
        print(json.dumps(body))
        return
    saved = f"saved: {config.out / name}.json and .md"
    show(
        *study_report.tables(findings),
        *study_report.lines(findings),
        saved,
        width=study_report.WIDTH,
    )


def _report_stop(study: Study, trained: int, as_json: bool) -> None:
    arms = [arm.name for arm in study.table.arms]
    if as_json:
        print(json.dumps({"finished": False, "trained": arms[:trained], "arms": arms}))
        return
    text = f"stopped with {trained} of {len(arms)} arms trained; repeat the command to resume."
    out.print(text, markup=False, highlight=False, soft_wrap=True)
