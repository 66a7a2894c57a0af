"""The cells of a grid as tasks of a Ray cluster; what they give is committed here.

A task writes into a folder of its own and sends its record back, so nodes share no file system, and
the store takes each run once, by its id. The tasks of a node that is lost are done again elsewhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.api import Progress
from bench.api.config import RunConfig
from bench.api.record import Record, from_bytes, identify, to_bytes
from bench.api.report import Outcome, Result
from bench.api.spec import RunSpec
from bench.errors import BenchError, RunFailed
from bench.runs.execute import Paths, execute
from bench.runs.grid import training_of
from bench.runs.resolve import resolve
from bench.runs.session import Session
from bench.store.results import Store

RETRIES = 5  # of a task whose worker or node is lost


@dataclass(frozen=True)
class Needs:
    """What a task asks of a node.

    Attributes:
        gpus: may be a fraction, for several tasks on one GPU.
        memory_gib: 0 asks for none in particular.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gib: float = 0.0

    def options(self) -> dict[str, float | int]:
        """Write them as Ray names them."""
        own: dict[str, float | int] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        return own | ({"memory": int(self.memory_gib * 2**30)} if self.memory_gib else {})


@dataclass(frozen=True)
class Sent:
    """What a task sends back of a cell: a record, the id of one that is known, or a reason.

    Attributes:
        failed: what the run was that stopped for that reason; None: it never began.
    """

    record: bytes = b""
    context: Mapping[str, object] | None = None
    known: str = ""
    reason: str = ""
    failed: RunSpec | None = None


def run(
    cells: Sequence[RunConfig], places: Paths, progress: Progress, *, address: str, needs: Needs
) -> Iterator[Result]:
    """Run cells on a cluster, and give them in their order.

    Cells that share a training are one task, so that the head is trained once.

    Args:
        places: of this process; `data` must name the same folder on every node.
        address: of a cluster, "auto" for the one of this machine; "local" starts one here.

    Raises:
        BenchError: Ray is not installed, or the cluster does not answer.
    """
    ray = _joined(address)
    store = Store(places.results)
    known = frozenset(each.run_id for each in store.records() if isinstance(each, Record))
    remote = ray.remote(max_retries=RETRIES, **needs.options())(_task)
    data = places.data and places.data.resolve()
    together = _together(cells)
    pending = {remote.remote(own, data, places.cache is not None, known): own for own in together}
    done: dict[int, Result] = {}
    order = {id(cell): number for number, cell in enumerate(cells)}
    while pending:
        progress("cells", len(done), len(cells))
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        own = pending.pop(ready)
        for cell, sent in zip(own, _fetched(ray, ready, len(own)), strict=True):
            done[order[id(cell)]] = _taken(cell, sent, store)
    progress("cells", len(cells), len(cells))
    for number in range(len(cells)):
        yield done[number]


def _joined(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise BenchError(
            "--ray needs Ray: `pip install 'cmd-bench[ray]'`, or run the grid here, without --ray."
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(address=None if address == "local" else address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BenchError(
                f"no Ray cluster at {address}: {error}. `--ray local` starts one on this machine."
            ) from error
    return ray


def _together(cells: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Put the cells that share a training together."""
    groups: list[tuple[RunConfig, list[RunConfig]]] = []
    for cell in cells:
        training = training_of(cell)
        own = next((members for key, members in groups if key == training), None)
        if own is None:
            groups.append((training, [cell]))
        else:
            own.append(cell)
    return [own for _, own in groups]


def _fetched(ray: Any, ready: Any, count: int) -> list[Sent]:
    """Take what a task sent; where it was lost for good, the reason for each of its cells."""
    try:
        return ray.get(ready)
    except ray.exceptions.RayError as error:
        told = str(error).strip().splitlines()[0]
        return [Sent(reason=f"its task was lost {RETRIES + 1} times: {told}")] * count


def _taken(cell: RunConfig, sent: Sent, store: Store) -> Result:
    """Commit what a task sent; keep the reason of a run that failed, as a run here does."""
    if sent.reason:
        if sent.failed is not None:
            store.fail(identify(sent.failed), sent.failed, sent.reason)
        return Result(cell, reason=sent.reason)
    if sent.known:
        record = store.find(sent.known)
        if record is None:
            return Result(cell, reason=f"run {sent.known} went away under way: run it again.")
        return Result(cell, Outcome(record, store.context(sent.known), found=True))
    record = from_bytes(sent.record, "a task's record")
    written = store.commit(record, sent.context or {})
    return Result(cell, Outcome(record, store.context(record.run_id), found=not written))


def _task(
    cells: Sequence[RunConfig], data: Path | None, cached: bool, known: frozenset[str]
) -> list[Sent]:
    """Run cells on a node, in a folder that goes with the task; features stay in its cache."""
    from bench.store.cache_dir import cache_root

    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        cache = cache_root() if cached else None
        places = Paths(Path(home), data, cache, keep_large=len(cells) > 1, session=Session(data))
        return [_sent(cell, places, known) for cell in cells]


def _sent(cell: RunConfig, places: Paths, known: frozenset[str]) -> Sent:
    spec = None
    try:
        spec = resolve(cell, places.session).spec
        if (run_id := identify(spec)) in known:
            return Sent(known=run_id)
        outcome = execute(cell, places, lambda *_: None)
    except RunFailed as error:
        return Sent(reason=str(error), failed=spec)
    except BenchError as error:
        return Sent(reason=str(error))
    return Sent(record=to_bytes(outcome.record), context=outcome.context)


def on_cluster(address: str, needs: Needs) -> Any:
    """Give a way to run cells that `bench.cli.run.run_many` takes."""

    def runs(cells: Sequence[RunConfig], places: Paths, progress: Progress) -> Iterator[Result]:
        return run(cells, replace(places, session=None), progress, address=address, needs=needs)

    return runs
