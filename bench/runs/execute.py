"""Run one config: resolve it, train and score its trials, and commit the record."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import format_exception

from bench.api import Progress
from bench.api.record import Record, TrialResult, identify
from bench.api.report import Outcome
from bench.api.run_config import RunConfig
from bench.api.spec import RunSpec
from bench.errors import BenchError, RunFailed
from bench.features import numerics
from bench.features.out_of_memory import is_out_of_memory, no_room
from bench.runs import environment
from bench.runs.input_size import data_facts, usual_side
from bench.runs.resolve import ResolvedRun, refuse_leaks, resolve
from bench.runs.session import Session
from bench.runs.trials import TrialRunner
from bench.store.files import write_bytes
from bench.store.locks import remove_orphans
from bench.store.results import Store
from bench.training.malloc import keep_freed_memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paths:
    """The folders of data, results and caches.

    Attributes:
        cache: None caches features in memory only, and no trained heads.
        keep_large: cache trained heads of any size, for further runs with the same training.
        session: data sets and backbones that several runs share; None opens them for each run.
    """

    results: Path
    data: Path | None = None
    cache: Path | None = None
    keep_large: bool = False
    session: Session | None = None


def execute(
    config: RunConfig,
    paths: Paths,
    progress: Progress,
    *,
    force: bool = False,
    save_masks: bool = False,
) -> Outcome:
    """Run a config, or return its committed run.

    Args:
        force: add a new run to a committed one; the committed run does not change.
        save_masks: save the predicted masks as PNG beside the record. A committed run without masks
            is run again; its record does not change.

    Raises:
        BenchError: the config is invalid; nothing was run.
        RunFailed: the run stopped; its finished trials are saved.
    """
    keep_freed_memory()
    numerics.forbid_tf32()
    store = Store(paths.results)
    store.refuse_if_read_only()
    run = resolve(config, paths.session or Session(paths.data))
    if force:
        run = replace(run, spec=replace(run.spec, repeat=store.repeats(run.spec)))
    run_id = identify(run.spec)
    committed = store.find(run_id)
    log.debug("run %s: %s", run_id, "new" if committed is None else "committed")
    has_masks = (store.folder(run_id) / "masks").is_dir()
    if committed is not None and (has_masks or not save_masks):
        return Outcome(committed, store.context(run_id), cached=True)
    refuse_leaks(run)
    with store.lock(run_id, lambda: progress("waiting for another process", 0, 0)):
        if committed is None and not save_masks:
            committed = store.find(run_id)  # another process may have finished it meanwhile
            if committed is not None:
                store.clear(run_id)
                return Outcome(committed, store.context(run_id), cached=True)
        masks = store.work(run_id) / "masks" if save_masks else None
        return _run_and_commit(run, store, paths, masks, progress)


def _run_and_commit(
    run: ResolvedRun, store: Store, paths: Paths, masks: Path | None, progress: Progress
) -> Outcome:
    """Run the trials and commit the record; the caller holds the lock of the run."""
    run_id = identify(run.spec)
    with _failure_recorded(store, run_id, run.spec):
        runner = TrialRunner(run, store, run_id, paths.cache, keep_large=paths.keep_large)
        folders = store.work(run_id), store.folder(run_id), runner.heads, runner.bank.cache
        for folder in (store.root / "work", *folders):
            remove_orphans(folder)
        trials = runner.run(masks, progress)
        record = _record(run, trials, runner)
    store.commit_masks(run_id)
    context = environment.describe(run.runner.device, runner.seconds)
    if reduced := runner.bank.fits.facts | runner.scored.fits.facts:
        context["out_of_memory"] = reduced
    store.commit(record, context)
    return Outcome(record, store.context(run_id), cached=False)


@contextmanager
def _failure_recorded(store: Store, run_id: str, spec: RunSpec) -> Iterator[None]:
    """Save the reason of a run that fails; turn any exception of a plug-in into a RunFailed."""
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
        path = store.work(run_id) / "traceback.txt"
        write_bytes(path, "".join(format_exception(error)).encode())
        reason = f"{type(error).__name__}: {error} (where: {path})"
        store.fail(run_id, spec, reason)
        raise RunFailed(reason) from error


def _record(run: ResolvedRun, trials: list[TrialResult], runner: TrialRunner) -> Record:
    extractor, backbone, config = run.opened.extractor, run.opened.backbone, run.config
    usual = backbone.recipe
    usual_px = usual_side(config, run.opened, run.handle, run.target)
    scored = {image for trial in trials for image in trial.images}
    facts = {
        "dataset": run.handle.name,
        "scored": run.target.name,
        "backbone_parameters": sum(weight.numel() for weight in extractor.parameters()),
        "trainable_parameters": sum(w.numel() for w in extractor.parameters() if w.requires_grad),
        "head_parameters": runner.head_parameters,
        "channels": list(extractor.channels),
        "strides": list(extractor.strides),
        "license": backbone.license,
        "weights_source": _without_folders(run.opened.source),
        "asked_options": dict(config.backbone_options),
        "asked_recipe": {k: v for k, v in config.recipe_changes.items() if v != getattr(usual, k)},
        "requested_px": config.input_px if config.input_px != usual_px else None,
        "own_checkpoint": run.opened.is_users_file,
        "random_twin": run.opened.untrained and backbone.weights.needed,
        **data_facts(run.handle, run.target, run.runner.view),
        **extractor.facts,
    }
    if runner.bank.fits.parts > 1:
        facts["parts_of_a_batch"] = runner.bank.fits.parts
    return Record(
        spec=run.spec,
        facts=facts,
        patients={image: run.scored[image].patient for image in sorted(scored)},
        flags=(*run.flags, *["not converged"] * _ended_early(trials)),
        trials=tuple(trials),
    )


def _ended_early(trials: Sequence[TrialResult]) -> bool:
    return any(trial.training.get("converged") is False for trial in trials)


def _without_folders(source: str) -> str:
    """Reduce a local path to its file name: records are shared."""
    kind, _, path = source.partition(" ")
    return f"{kind} {Path(path).name}" if kind in ("file", "cache") else source
