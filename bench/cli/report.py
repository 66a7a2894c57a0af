"""The command report: HTML pages of a results folder."""

from __future__ import annotations

import json

from bench.board.config import ReportConfig
from bench.cli.console import Json, err, out, progress
from bench.cli.options import options_of


@options_of(ReportConfig)
def report(config: ReportConfig, as_json: Json = False) -> None:
    """Write HTML pages: the leaderboard with figures, and one page per run.

    The pages load nothing from the network. Saved masks (`bench run --save-masks`) are drawn over
    the worst images.
    """
    from bench.board.select import only_folder
    from bench.report.collect import gather
    from bench.report.pages import refuse_foreign, write

    options = config.board_options()
    refuse_foreign(config.out)
    gathered = gather(config.results, options)
    data = only_folder(config.dataset) or config.data
    with progress(quiet=as_json) as report_progress:
        written = write(gathered, config.out, data, report_progress)
    for line in gathered.left_out:
        err.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps({"out": str(config.out), "pages": written.pages, "runs": written.runs}))
        return
    line = f"{written.pages} pages of {written.runs} runs. Open {written.index}"
    out.print(line, markup=False, highlight=False, soft_wrap=True)
