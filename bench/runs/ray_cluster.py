"""Run the cells of a grid as tasks of a Ray cluster, and commit their records here.

A task writes into a temporary folder and returns its records, so nodes need no shared file system,
and the store commits each run once, by its id. Tasks of a lost node are repeated elsewhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.api import Progress
from bench.api.record import Record, from_bytes, identify, to_bytes
from bench.api.report import Outcome, Result
from bench.api.run_config import Needs, RunConfig
from bench.api.spec import RunSpec
from bench.errors import BenchError, RunFailed
from bench.runs.execute import Paths, execute
from bench.runs.grid import training_of
from bench.runs.resolve import resolve
from bench.runs.session import Session
from bench.store.results import Store

RETRIES = 5  # of a task whose worker or node is lost


@dataclass(frozen=True)
class CellResult:
    """The result of a cell: a record, the id of a committed run, or the reason of a failure.

    Attributes:
        committed_id: id of the run if the store already has it.
        failed: the identity of the run that failed; None if it did not start.
    """

    record: bytes = b""
    context: Mapping[str, object] | None = None
    committed_id: str = ""
    reason: str = ""
    failed: RunSpec | None = None


def run(
    cells: Sequence[RunConfig], places: Paths, progress: Progress, *, address: str, needs: Needs
) -> Iterator[Result]:
    """Run cells on a cluster, and yield their results in order.

    Cells that share a training are one task, so that the head is trained once.

    Args:
        places: paths of this process; `data` must be the same folder on every node.
        address: of a cluster; "auto" for the cluster of this machine, "local" to start one.

    Raises:
        BenchError: Ray is not installed, or the cluster does not answer.
    """
    ray = _connect(address)
    store = Store(places.results)
    committed = frozenset(r.run_id for r in store.records() if isinstance(r, Record))
    remote = ray.remote(max_retries=RETRIES, **needs.task_options())(_task)
    data = places.data and places.data.resolve()
    pending = {
        remote.remote(group, data, places.cache is not None, committed): group
        for group in _grouped_by_training(cells)
    }
    done: dict[int, Result] = {}
    order = {id(cell): number for number, cell in enumerate(cells)}
    while pending:
        progress("cells", len(done), len(cells))
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        group = pending.pop(ready)
        for cell, result in zip(group, _results(ray, ready, len(group)), strict=True):
            done[order[id(cell)]] = _committed(cell, result, store)
    progress("cells", len(cells), len(cells))
    for number in range(len(cells)):
        yield done[number]


def _connect(address: str) -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BenchError(
            "--ray needs Ray: `pip install 'cmd-bench[ray]'`, or omit --ray."
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(address=None if address == "local" else address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BenchError(
                f"no Ray cluster at {address}: {error}. `--ray local` starts one on this machine."
            ) from error
    return ray


def _grouped_by_training(cells: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Group the cells that share a training."""
    groups: list[tuple[RunConfig, list[RunConfig]]] = []
    for cell in cells:
        training = training_of(cell)
        group = next((members for key, members in groups if key == training), None)
        if group is None:
            groups.append((training, [cell]))
        else:
            group.append(cell)
    return [group for _, group in groups]


def _results(ray: Any, ready: Any, count: int) -> list[CellResult]:
    """Return the results of a task; if the task was lost, a reason for each of its cells."""
    try:
        return ray.get(ready)
    except ray.exceptions.RayError as error:
        first_line = str(error).strip().splitlines()[0]
        reason = f"its task was lost {RETRIES + 1} times: {first_line}"
        return [CellResult(reason=reason)] * count


def _committed(cell: RunConfig, result: CellResult, store: Store) -> Result:
    """Commit the result of a cell, or save the reason of its failure."""
    if result.reason:
        if result.failed is not None:
            store.fail(identify(result.failed), result.failed, result.reason)
        return Result(cell, reason=result.reason)
    if run_id := result.committed_id:
        record = store.find(run_id)
        if record is None:
            return Result(cell, reason=f"run {run_id} was removed meanwhile: run it again.")
        return Result(cell, Outcome(record, store.context(run_id), cached=True))
    record = from_bytes(result.record, "a task's record")
    is_new = store.commit(record, result.context or {})
    return Result(cell, Outcome(record, store.context(record.run_id), cached=not is_new))


def _task(
    cells: Sequence[RunConfig], data: Path | None, cached: bool, committed: frozenset[str]
) -> list[CellResult]:
    """Run cells on a node, in a temporary folder; features stay in the cache of the node."""
    from bench.store.cache_dir import cache_root

    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        cache = cache_root() if cached else None
        places = Paths(Path(home), data, cache, keep_large=len(cells) > 1, session=Session(data))
        return [_run_cell(cell, places, committed) for cell in cells]


def _run_cell(cell: RunConfig, places: Paths, committed: frozenset[str]) -> CellResult:
    spec = None
    try:
        spec = resolve(cell, places.session).spec
        if (run_id := identify(spec)) in committed:
            return CellResult(committed_id=run_id)
        outcome = execute(cell, places, lambda *_: None)
    except RunFailed as error:
        return CellResult(reason=str(error), failed=spec)
    except BenchError as error:
        return CellResult(reason=str(error))
    return CellResult(record=to_bytes(outcome.record), context=outcome.context)


def on_cluster(address: str, needs: Needs) -> Any:
    """Return a function that runs cells, for `bench.cli.run.run_many`."""

    def runs(cells: Sequence[RunConfig], places: Paths, progress: Progress) -> Iterator[Result]:
        return run(cells, replace(places, session=None), progress, address=address, needs=needs)

    return runs
