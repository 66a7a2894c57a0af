"""The bench from Python and notebooks: `bench.run`, `bench.compare`, `bench.leaderboard`.

Each takes the options of the command of its name, and gives pandas tables and matplotlib figures.
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
from bench.board.compare import choose, contrast
from bench.board.select import check_filters, data_sets, listed, read_all
from bench.errors import BenchError
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
        record: what was asked, and the raw counts of every image.
        folder: where it lies.
        cached: whether it was stored before.
        asked: how intervals are made.
    """

    record: Record
    folder: Path
    cached: bool
    asked: BoardOptions = field(default=BoardOptions())

    @property
    def run_id(self) -> str:
        """The name of the run, as the command line takes it."""
        return self.record.run_id

    @cached_property
    def scores(self) -> Mapping[str, Score]:
        """Every score, with its interval, by name."""
        return board_scores.scores(self.record, board_scores.counted(self.record), self.asked)

    def summary(self) -> pd.DataFrame:
        """Give a row for each score: mean, low and high of its 95 % interval, and how it was made.

        Where there are too few patients for an interval, low and high are NaN.
        """
        import pandas as pd

        rows = [{"score": name, **_told(each)} for name, each in self.scores.items()]
        return pd.DataFrame(rows).set_index("score")

    def to_frame(self) -> pd.DataFrame:
        """Give a row for each image, in each draw where there are several, with every score."""
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
            raise BenchError(f"run {self.run_id} holds no counts for {metric!r}.")
        return strip(self.record, self.scores[metric])

    def __repr__(self) -> str:
        """Name what was run; the folder is one of this machine, and does not belong in a page."""
        return f"<Run {self.run_id}: {run_title(self.record)}>"

    def _repr_html_(self) -> str:
        """Show the scores in a notebook."""
        marks = f" <b>{escape(', '.join(self.record.flags))}</b>" if self.record.flags else ""
        title = f"<p>{escape(run_title(self.record))} ({self.run_id}){marks}</p>"
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
        a, b: runs, or what `bench compare` takes: ids, or names of backbones.
        dataset, protocol, head, shots: which runs names may mean, as the options of the command;
            a data set may be a folder.
        vary: what they may differ in, all else equal: backbone, head, protocol, or A,B,...

    Returns:
        A row for each score: difference, low and high of its 95 % interval, and p; what must be
        known of them is in `attrs["notes"]`.

    Raises:
        BenchError: there are no such runs, or they may not be compared.
    """
    import pandas as pd

    from bench.board.comparable import check_vary

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
    given = [each.record for each in (a, b) if isinstance(each, Run)]
    stored = [] if len(given) == 2 else _records(results)
    others = [each for each in stored if each.run_id not in {own.run_id for own in given}]
    first, second = choose([*others, *given], (words[0], words[1]), options)
    contrasted = contrast(first, second, metric, options.vary)
    rows = [
        {
            "score": name,
            "difference": each.mean,
            "low": each.interval.low,
            "high": each.interval.high,
            "p": each.p,
            "n_patients": each.n_patients,
        }
        for name, each in contrasted.differences.items()
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

    Rows may be compared within a block only. Runs that are damaged are warned of.

    Returns:
        A row for each run, best first within its block: block, tier, rank, backbone, head, mean,
        low, high, the means of the headline scores, flags and run_id.

    Raises:
        BenchError: an unknown score, kind of interval or thing to vary, or a filter that names what
            no run is of.
    """
    import pandas as pd

    from bench.board.comparable import check_vary

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
    own = row.standing
    told = _told(row.scores[metric])
    return {
        "block": title,
        "tier": own.group_letters if own else None,
        "rank": own.rank if own else None,
        "backbone": row.backbone,
        "head": row.head,
        **{name: told[name] for name in ("mean", "low", "high")},
        **{name: each.summary.mean for name, each in row.scores.items()},
        "flags": ", ".join(row.flags),
        "run_id": row.record.run_id,
    }


def _told(score: Score) -> dict[str, object]:
    own = score.summary
    return {
        "mean": own.mean,
        "low": own.interval.low,
        "high": own.interval.high,
        "n_images": own.n_images,
        "n_patients": own.n_patients,
        "method": own.interval.method,
        "note": own.interval.note,
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
    if complaint := unread_options(Grid(config, {}).given, [protocol]):
        raise BenchError(complaint)


def _records(results: Path | str | None) -> list[Record]:
    records, damaged = read_all(_results(results))
    for each in damaged:
        warnings.warn(f"left out: {each}", stacklevel=3)
    return records


def _data_sets(given: Path | str | None) -> tuple[str, ...]:
    return data_sets([f"{given.resolve()}"] if isinstance(given, Path) else listed(given))


def _results(given: Path | str | None) -> Path:
    return Path(given if given is not None else os.environ.get("BENCH_RESULTS") or "results")


def _data(given: Path | str | None) -> Path | None:
    own = given if given is not None else os.environ.get("BENCH_DATA")
    return Path(own) if own else None
