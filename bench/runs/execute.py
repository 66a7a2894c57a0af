"""The one orchestration: (backbone, head, data set, protocol) in, a record out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import format_exception

from bench.api import Progress
from bench.api.config import RunConfig
from bench.api.record import Record, TrialResult, identify
from bench.api.report import Outcome
from bench.api.spec import RunSpec
from bench.errors import BenchError, RunFailed
from bench.features import numerics
from bench.features.forward import stays_frozen
from bench.features.out_of_memory import is_out_of_memory, no_room
from bench.runs import environment
from bench.runs.resolve import ResolvedRun, refuse_leaks, resolve
from bench.runs.session import Session
from bench.runs.trials import TrialRunner
from bench.store.files import write_bytes
from bench.store.locks import sweep
from bench.store.results import Store
from bench.training.malloc import keep_freed_memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paths:
    """Where data, results, and kept features and heads lie.

    Attributes:
        cache: None keeps features in memory alone, and trains heads anew.
        keep_large: keep what was trained however large it is, for further runs of the same.
        session: what the runs of one command share; None opens everything for each run.
    """

    results: Path
    data: Path | None = None
    cache: Path | None = None
    keep_large: bool = False
    session: Session | None = None


def execute(
    request: RunConfig,
    places: Paths,
    progress: Progress,
    *,
    force: bool = False,
    save_masks: bool = False,
) -> Outcome:
    """Run what is asked for, or find it in the store.

    Args:
        force: make a new run beside a committed one, never instead.
        save_masks: keep the predicted masks as PNG beside the record. A committed run without them
            is run again for them; its record stays as it is.

    Raises:
        BenchError: the request can not be met.
        RunFailed: the run stopped after it began; its finished trials are kept.
    """
    keep_freed_memory()
    numerics.forbid_tf32()
    store = Store(places.results)
    store.refuse_if_read_only()
    if places.session is None:
        places = replace(places, session=Session(places.data))
    for load in (False, True):  # weights are read only where there is something to compute
        job = _resolved(request, places, load=load)
        spec = job.spec
        if force:
            spec = replace(spec, repeat=store.repeats(spec))
        run_id = identify(spec)
        found = store.find(run_id)
        log.debug("run %s: %s", run_id, "to be made" if found is None else "is there")
        has_masks = (store.folder(run_id) / "masks").is_dir()
        if found is not None and (has_masks or not save_masks):
            return Outcome(found, store.context(run_id), found=True)
        if load or TrialRunner(job, store, run_id, places.cache).is_kept():
            log.debug("weights are %s", "read" if load else "not read: all features are kept")
            break
    refuse_leaks(job)
    with store.claimed(run_id, lambda: progress("waiting for another process", 0, 0)):
        made = store.find(run_id) if found is None else None
        if made is not None and not save_masks:
            store.clear(run_id)
            return Outcome(made, store.context(run_id), found=True)
        return _make(job, spec, Making(store, run_id, places, save_masks), progress)


def _resolved(request: RunConfig, places: Paths, *, load: bool) -> ResolvedRun:
    try:
        return resolve(request, places.data, places.session, load=load)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise no_room(f"opening {request.backbone}") from error
        raise


@dataclass(frozen=True)
class Making:
    """Where a run is made, by the process that has claimed it."""

    store: Store
    run_id: str
    places: Paths
    save_masks: bool


def _make(job: ResolvedRun, spec: RunSpec, making: Making, progress: Progress) -> Outcome:
    """Make a run and commit it."""
    store, run_id, places = making.store, making.run_id, making.places
    masks = store.work(run_id) / "masks" if making.save_masks else None
    with _failing(store, run_id, spec):
        execution = TrialRunner(job, store, run_id, places.cache, keep_large=places.keep_large)
        left_by = store.work(run_id), store.folder(run_id), execution.heads, execution.bank.cache
        for folder in (store.root / "work", *left_by):
            sweep(folder)
        with _frozen(job, execution):
            trials = execution.run(masks, progress)
        record = _record(job, spec, trials, execution)
    store.keep_masks(run_id)
    written = environment.describe(job.runner.device, execution.seconds)
    if small := execution.bank.fits.facts | execution.scored.fits.facts:
        written["out_of_memory"] = small
    store.commit(record, written)
    return Outcome(record, store.context(run_id), found=False)


def _frozen(job: ResolvedRun, execution: TrialRunner) -> AbstractContextManager[None]:
    """Watch an extractor in which nothing is to change."""
    if not job.runner.frozen or not job.runner.loaded or job.request.adaptation is not None:
        return nullcontext()
    banks = execution.bank, execution.scored

    def was_used() -> bool:
        return any(each.images_computed for each in banks)

    return stays_frozen(job.runner.extractor, was_used, execution.forget)


@contextmanager
def _failing(store: Store, run_id: str, spec: RunSpec) -> Iterator[None]:
    """Keep the reason of a run that stops; what a plug-in raises is a failure of its run alone."""
    try:
        yield
    except RunFailed as error:
        store.fail(run_id, spec, str(error))
        raise
    except BenchError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            failed = no_room("a trial")
            store.fail(run_id, spec, str(failed))
            raise failed from error
        told = store.work(run_id) / "traceback.txt"
        write_bytes(told, "".join(format_exception(error)).encode())
        reason = f"{type(error).__name__}: {error} (where: {told})"
        store.fail(run_id, spec, reason)
        raise RunFailed(reason) from error


def _unusual(job: ResolvedRun) -> dict[str, object]:
    """Give what was asked of the recipe that is unlike the backbone's own."""
    usual = job.opened.backbone.recipe
    asked = job.request.recipe.items()
    return {key: value for key, value in asked if value != getattr(usual, key)}


def _without_folders(source: str) -> str:
    """Keep of a place on this machine the file's name: records travel, and their hashes tell."""
    kind, _, place = source.partition(" ")
    return f"{kind} {Path(place).name}" if kind in ("file", "cache") else source


def _record(
    job: ResolvedRun, spec: RunSpec, trials: list[TrialResult], execution: TrialRunner
) -> Record:
    extractor, backbone = job.runner.extractor, job.opened.backbone
    trains = [each.numel() for each in extractor.parameters() if each.requires_grad]
    scored = {image for trial in trials for image in trial.images}
    facts = {
        "dataset": job.handle.name,
        "scored": job.target,
        "backbone_parameters": sum(each.numel() for each in extractor.parameters()),
        "trainable_parameters": sum(trains),
        "head_parameters": execution.head_parameters,
        "channels": list(extractor.channels),
        "strides": list(extractor.strides),
        "license": backbone.license,
        "weights_source": _without_folders(job.opened.source),
        "asked_options": dict(job.request.backbone_options),
        "asked_recipe": _unusual(job),
        "own_checkpoint": job.opened.given,
        "random_twin": job.opened.untrained and backbone.weights.needed,
        **extractor.facts,
    }
    if execution.bank.fits.parts > 1:
        facts["parts_of_a_batch"] = execution.bank.fits.parts
    return Record(
        spec=spec,
        facts=facts,
        patients={image: job.scored[image].patient for image in sorted(scored)},
        flags=job.flags,
        trials=tuple(trials),
    )
