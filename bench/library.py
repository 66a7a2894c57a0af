"""The Python interface: `bench.run`, `bench.compare` and `bench.leaderboard`.

Each takes the options of the command of the same name, and returns pandas tables and matplotlib
figures.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from bench import registry
from bench.api import Progress, Series, board
from bench.api.board import BoardOptions, Score
from bench.api.options import convert, options
from bench.api.record import Record
from bench.api.run_config import Grid, Output, RunConfig
from bench.board import scores as board_scores
from bench.board.comparable import check_vary
from bench.board.compare import choose, contrast
from bench.board.select import check_filters, data_sets, listed, read_all
from bench.errors import BenchError
from bench.render import printable
from bench.render.runs import run_title

if TYPE_CHECKING:
    import pandas as pd

    from bench.figures.curves import NotebookFigure


OUTPUT_OPTIONS = {
    name: option for name, option in options(Output).items() if name not in ("plot", "as_json")
}


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A committed run.

    Attributes:
        record: the identity of the run, and the raw counts of every image.
        folder: the folder of the record.
        cached: whether the run was already stored.
        options: how intervals are computed.
    """

    record: Record
    folder: Path
    cached: bool
    options: BoardOptions = field(default=BoardOptions())

    @property
    def run_id(self) -> str:
        """The name of the run, as the command line takes it."""
        return self.record.run_id

    @cached_property
    def scores(self) -> Mapping[str, Score]:
        """Every score with its interval, by name."""
        return board_scores.scores(self.record, board_scores.counted(self.record), self.options)

    def summary(self) -> pd.DataFrame:
        """Return a row per score: mean, low and high of its 95 % interval, and the method.

        With too few patients for an interval, low and high are NaN.
        """
        import pandas as pd

        rows = [{"score": name, **_summary_row(each)} for name, each in self.scores.items()]
        return pd.DataFrame(rows).set_index("score")

    def to_frame(self) -> pd.DataFrame:
        """Return a row per image, and per draw if there are several, with every score."""
        import pandas as pd

        grids = {  # (draws, images) each
            name: board_scores.scores_of_images(self.record, name) for name in self.scores
        }
        rows = [
            {
                "image": image,
                "patient": self.record.patients[image],
                **dict(draw),
                **{name: grid[i, j] for name, grid in grids.items()},
            }
            for i, draw in enumerate(self.record.draws)
            for j, image in enumerate(self.record.images)
        ]
        return pd.DataFrame(rows)

    def plot(self, metric: str = "dice") -> NotebookFigure:
        """Draw a score of every image, by patient, with the mean and its interval.

        Raises:
            BenchError: the run has no such score.
        """
        from bench.figures.curves import strip

        if metric not in self.scores:
            board_scores.metric_of(metric)
            raise BenchError(f"run {self.run_id} has no counts for {metric!r}.")
        return strip(self.record, self.scores[metric])

    def __repr__(self) -> str:
        """Return the id and the title; the folder depends on the machine."""
        return f"<Run {self.run_id}: {run_title(self.record)}>"

    def _repr_html_(self) -> str:
        """Show the scores in a notebook."""
        flags, name = (printable(x) for x in (", ".join(self.record.flags), run_title(self.record)))
        marks = f" <b>{escape(flags)}</b>" if flags else ""
        title = f"<p>{escape(name)} ({self.run_id}){marks}</p>"
        return title + self.summary()[["mean", "low", "high", "note"]].round(3).to_html()


def run(
    backbone: str = "cmd-tiny",
    dataset: Path | str = "synthetic",
    protocol: str = "linear-probe",
    *,
    progress: Progress | None = None,
    **changes: object,
) -> Run:
    """Train a head on the features of a backbone, score it, and store the record.

    The same call again returns the stored run at once. For several runs:
    `[bench.run(name, "kumar") for name in ("rgb", "cmd-tiny")]`.

    Args:
        progress: called with the stage, what is done and the total.
        changes: fields of `bench.api.RunConfig`, and `ci`, `resamples`, `data`, `results`, `cache`,
            `force` and `save_masks` of `bench.api.Output`: the options of `bench run`. The folders
            default to the environment variables BENCH_DATA and BENCH_RESULTS, None is the
            default of any option.

    Raises:
        BenchError: an option is unknown or invalid; the message says how to fix it.
        RunFailed: the run failed after it started; its finished trials are stored.
    """
    from bench.runs.execute import Paths, execute
    from bench.store.cache_dir import cache_root
    from bench.store.results import Store

    changes |= {"backbone": backbone, "dataset": str(dataset), "protocol": protocol}
    known = {**options(RunConfig), **OUTPUT_OPTIONS}
    if unknown := sorted(changes.keys() - known):
        raise BenchError(f"no option {', '.join(unknown)}. Options: {', '.join(known)}.")
    values = {
        name: convert(replace(known[name], many=False), value)
        for name, value in changes.items()
        if value is not None
    }
    config = RunConfig(**{n: value for n, value in values.items() if n not in OUTPUT_OPTIONS})
    output = Output(**{n: value for n, value in values.items() if n in OUTPUT_OPTIONS})
    _refuse_unread(config)
    config.check()
    output.check()
    board_options = BoardOptions(ci=output.ci, resamples=output.resamples)
    results = _results(values.get("results"))
    paths = Paths(results, _data(output.data), cache_root() if output.cache else None)
    outcome = execute(
        config,
        paths,
        progress or (lambda stage, done, total: None),
        force=output.force,
        save_masks=output.save_masks,
    )
    folder = Store(results).folder(outcome.record.run_id)
    return Run(outcome.record, folder, outcome.cached, board_options)


def compare(
    a: Run | str,
    b: Run | str,
    *,
    metric: str = "dice",
    dataset: Path | str | None = None,
    protocol: str | None = None,
    head: str | None = None,
    shots: int | None = None,
    vary: str = "backbone",
    results: Path | str | None = None,
) -> pd.DataFrame:
    """Compare two runs on the same images: the first minus the second, paired by patient.

    Args:
        a, b: runs, run ids, or names of backbones.
        dataset, protocol, head, shots: restrict the runs that a name may refer to; a data set may
            be a folder.
        vary: in what the runs may differ, all else equal: backbone, head, recipe, view, protocol,
            or A,B,...

    Returns:
        A row per score: difference, low and high of its 95 % interval, and p; remarks are in
        `attrs["notes"]`.

    Raises:
        BenchError: there are no such runs, or they are not comparable.
    """
    import pandas as pd

    options = BoardOptions(
        metric=metric,
        dataset=_data_sets(dataset),
        protocol=listed(protocol),
        head=listed(head),
        shots=shots,
        vary=listed(vary),
    )
    check_vary(options.vary)
    words = [each.run_id if isinstance(each, Run) else each for each in (a, b)]
    passed = [each.record for each in (a, b) if isinstance(each, Run)]
    stored = [] if len(passed) == 2 else _records(results)
    passed_ids = {record.run_id for record in passed}
    others = [record for record in stored if record.run_id not in passed_ids]
    first, second = choose([*others, *passed], (words[0], words[1]), options)
    contrasted = contrast(first, second, metric, options.vary)
    rows = [
        {
            "score": name,
            "difference": difference.mean,
            "low": difference.interval.low,
            "high": difference.interval.high,
            "p": difference.p,
            "n_patients": difference.n_patients,
        }
        for name, difference in contrasted.differences.items()
    ]
    frame = pd.DataFrame(rows).set_index("score")
    frame.attrs["notes"] = list(contrasted.notes)
    return frame


def leaderboard(
    results: Path | str | None = None,
    *,
    metric: str = "dice",
    dataset: Path | str | None = None,
    protocol: str | None = None,
    head: str | None = None,
    vary: str = "backbone",
    ci: str = "expanded",
    resamples: int = 10_000,
) -> pd.DataFrame:
    """Rank every committed run, as `bench leaderboard` does.

    Only rows of the same block (comparison group) are comparable. Damaged runs cause a warning.

    Returns:
        A row per run, best first within its block: block, rank, backbone, head, mean, low, high,
        the difference to the best row with its low, high and adjusted p, the decision, the means of
        the headline scores, flags and run_id.

    Raises:
        BenchError: an unknown score, kind of interval or value of `vary`, or a filter that matches
            no run.
    """
    import pandas as pd

    options = BoardOptions(
        metric,
        dataset=_data_sets(dataset),
        protocol=listed(protocol),
        head=listed(head),
        ci=ci,
        resamples=resamples,
        vary=listed(vary),
    )
    board_scores.check(options)
    check_vary(options.vary)
    records = _records(results)
    check_filters(records, options)
    blocks = registry.get("leaderboards", "ranking").rows(records, options)
    rows = [_row(block.title, row, metric) for block in blocks for row in block.rows]
    return pd.DataFrame(rows)


def _row(title: str, row: board.Row, metric: str) -> dict[str, object]:
    standing, summary = row.standing, _summary_row(row.scores[metric])
    assert standing is not None
    difference = standing.difference
    return {
        "block": title,
        "rank": standing.rank,
        "backbone": row.backbone,
        "head": row.head,
        **{name: summary[name] for name in ("mean", "low", "high")},
        "difference": difference and difference.mean,
        "difference_low": difference and difference.interval.low,
        "difference_high": difference and difference.interval.high,
        "p": standing.holm_p,
        "decision": standing.decision,
        **{name: score.summary.mean for name, score in row.scores.items()},
        "flags": ", ".join(row.flags),
        "run_id": row.record.run_id,
    }


def _summary_row(score: Score) -> dict[str, object]:
    summary = score.summary
    return {
        "mean": summary.mean,
        "low": summary.interval.low,
        "high": summary.interval.high,
        "n_images": summary.n_images,
        "n_patients": summary.n_patients,
        "method": summary.interval.method,
        "note": summary.interval.note,
    }


def _refuse_unread(config: RunConfig) -> None:
    """Raise a BenchError for a series, or for options that the protocol does not read."""
    from bench.runs.grid import unread_options

    protocol = registry.get("protocols", config.protocol)
    if isinstance(protocol, Series):
        raise BenchError(
            f"{protocol.name!r} is a series of runs: `bench run --protocol {protocol.name}` runs "
            "it, and `bench.leaderboard` ranks its runs."
        )
    if complaint := unread_options(Grid(config, {}).changed, [protocol]):
        raise BenchError(complaint)


def _records(results: Path | str | None) -> list[Record]:
    records, damaged = read_all(_results(results))
    for problem in damaged:
        warnings.warn(f"excluded: {problem}", stacklevel=3)
    return records


def _data_sets(name: Path | str | None) -> tuple[str, ...]:
    return data_sets([f"{name.resolve()}"] if isinstance(name, Path) else listed(name))


def _results(folder: Path | str | None) -> Path:
    return Path(folder if folder is not None else os.environ.get("BENCH_RESULTS") or "results")


def _data(folder: Path | str | None) -> Path | None:
    path = folder if folder is not None else os.environ.get("BENCH_DATA")
    return Path(path) if path else None
