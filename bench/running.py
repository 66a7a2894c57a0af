"""The one orchestration: (backbone, head, data set, protocol) in, a record out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import context
from bench.api import Progress
from bench.desk import Desk
from bench.errors import RunFailed
from bench.job import Job, Request, refuse_leaks, resolve
from bench.memory import keep_freed_memory
from bench.record import Record, TrialResult, identify
from bench.store import Store
from bench.trials import Execution


@dataclass(frozen=True)
class Places:
    """Where data, results, and kept features and heads lie.

    Attributes:
        cache: None keeps features in memory alone, and trains heads anew.
        keep_large: keep what was trained however large it is, for further runs of the same.
        desk: what the runs of one command share; None opens everything for each run.
    """

    results: Path
    data: Path | None = None
    cache: Path | None = None
    keep_large: bool = False
    desk: Desk | None = None


@dataclass(frozen=True)
class Outcome:
    """A committed run, when and where it ran, and whether it was there already."""

    record: Record
    context: Mapping[str, object]
    found: bool


def execute(
    request: Request,
    places: Places,
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
    context.forbid_tf32()
    store = Store(places.results)
    store.refuse_if_read_only()
    job = resolve(request, places.data, places.desk)
    spec = dict(job.spec)
    if force:
        spec["repeat"] = store.repeats(spec)
    run_id = identify(spec)
    found = store.find(run_id)
    has_masks = (store.folder(run_id) / "masks").is_dir()
    if found is not None and (has_masks or not save_masks):
        return Outcome(found, store.context(run_id), found=True)
    refuse_leaks(job)
    execution = Execution(job, store, run_id, places.cache, keep_large=places.keep_large)
    try:
        trials = execution.run(store.work(run_id) / "masks" if save_masks else None, progress)
    except RunFailed as error:
        store.fail(run_id, spec, str(error))
        raise
    record = _record(job, spec, trials, execution.head_parameters)
    store.keep_masks(run_id)
    written = context.describe(job.runner.device, execution.seconds)
    store.commit(record, written)
    return Outcome(record, store.context(run_id), found=False)


def _unusual(job: Job) -> dict[str, object]:
    """Give what was asked of the recipe that is unlike the backbone's own."""
    usual = job.opened.backbone.recipe
    asked = job.request.recipe.items()
    return {key: value for key, value in asked if value != getattr(usual, key)}


def _without_folders(source: str) -> str:
    """Keep of a place on this machine the file's name: records travel, and their hashes tell."""
    kind, _, place = source.partition(" ")
    return f"{kind} {Path(place).name}" if kind in ("file", "cache") else source


def _record(
    job: Job, spec: Mapping[str, object], trials: list[TrialResult], head_parameters: int
) -> Record:
    extractor, backbone = job.runner.extractor, job.opened.backbone
    trains = [each.numel() for each in extractor.parameters() if each.requires_grad]
    scored = {image for trial in trials for image in trial.images}
    facts = {
        "dataset": job.handle.name,
        "scored": job.target,
        "backbone_parameters": sum(each.numel() for each in extractor.parameters()),
        "trainable_parameters": sum(trains),
        "head_parameters": head_parameters,
        "channels": list(extractor.channels),
        "strides": list(extractor.strides),
        "license": backbone.license,
        "weights_source": _without_folders(job.opened.source),
        "asked_options": dict(job.request.options),
        "asked_recipe": _unusual(job),
        "own_checkpoint": job.opened.given,
        "random_twin": job.opened.untrained and backbone.weights.needed,
        **extractor.facts,
    }
    return Record(
        spec=spec,
        facts=facts,
        patients={image: job.scored[image].patient for image in sorted(scored)},
        flags=job.flags,
        trials=tuple(trials),
    )
