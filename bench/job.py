"""What is run: a request with every name resolved, and the identity that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from bench import data, registry, sources, weights
from bench.adapt import Adaptation
from bench.api import Dataset, HeadPlugin, PlanOptions, Protocol, Recipe, Sample, Series, Trial
from bench.desk import Desk, opened_backbone
from bench.errors import BenchError
from bench.fitting import device_named, fit_to, refuse_bad_words
from bench.manifest import oddity
from bench.metrics import METRICS_VERSION
from bench.record import SCHEMA
from bench.runner import Runner
from bench.shifts import shift
from bench.views import View


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        head: None takes the protocol's head, or else the backbone's default.
        checkpoint: a file of weights for the backbone.
        random: run the untrained twin.
        accept_license: whether weights may be fetched whose licence is not known here.
        options: the backbone's own options, as text.
        recipe: what of the training is unlike the backbone's own recipe, by the field of `Recipe`.
        ttt: test-time training, on the images that are scored.
        shift: a name in `bench.shifts`: how the images that are scored are changed.
        to: score the test images of this data set instead of the own ones.
        input_px: side of the square input; None takes the backbone's or the data set's.
        limit: a smoke run on at most this many training and test images; it is stamped.
    """

    backbone: str = "cmd-tiny"
    dataset: str = "synthetic"
    protocol: str = "linear-probe"
    head: str | None = None
    checkpoint: Path | None = None
    random: bool = False
    accept_license: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    plan: PlanOptions = field(default_factory=PlanOptions)
    recipe: Mapping[str, object] = field(default_factory=dict)
    ttt: Adaptation | None = None
    shift: str = ""
    to: str | None = None
    view: str = "whole"
    input_px: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    limit: int | None = None


@dataclass(frozen=True)
class Job:
    """A request with every name resolved.

    Attributes:
        handle, samples: what is trained on.
        target: name of the data set that is scored.
        scored: its images by id; shifted, where that was asked.
        spec: the identity of the run: what was asked, and the hash of everything it stands on.
    """

    handle: data.DataHandle
    samples: Mapping[str, Sample]
    target: str
    scored: Mapping[str, Sample]
    trials: Sequence[Trial]
    head: HeadPlugin
    opened: weights.Opened
    runner: Runner
    recipe: Recipe
    request: Request
    spec: Mapping[str, object]
    flags: tuple[str, ...]

    def begin(self, seed: int) -> None:
        """Give what trains in the extractor the weights it starts with under that seed.

        What is frozen stays; a backbone whose weights were loaded starts from those.
        """
        extractor = self.runner.extractor
        fresh = opened_backbone(self.request, self.handle.dataset, seed).extractor
        trains = {name for name, each in extractor.named_parameters() if each.requires_grad}
        frozen = {name for name, _ in extractor.named_parameters()} - trains
        state = {name: each for name, each in fresh.state_dict().items() if name not in frozen}
        extractor.load_state_dict({**extractor.state_dict(), **state})


def resolve(
    request: Request, data_dir: Path | None, desk: Desk | None = None, *, load: bool = True
) -> Job:
    """Find the data, the plug-ins and the weights of a request.

    Args:
        desk: what the runs of one command share; the data sets are looked for in its folder.
        load: whether weights are read; without them the job can be named, and run on kept features.

    Raises:
        BenchError: something is unknown, missing or does not fit.
    """
    desk = desk or Desk(data_dir)
    refuse_bad_words(request)
    protocol = protocol_of(request)
    handle = desk.dataset(request.dataset)
    target = handle if request.to is None else desk.dataset(request.to)
    trials = planned(request, protocol, handle, target)
    opened = (desk.backbone if load else desk.outline)(request, handle.dataset)
    recipe, head, side = fit_to(request, protocol, opened, handle.dataset)
    device = device_named(request.device)
    view = View(request.view, side)
    extractor = opened.extractor.to(device) if load else opened.extractor
    runner = Runner(extractor, view, device, request.precision, loaded=load)
    spec = {
        "schema": SCHEMA,
        "metrics_version": METRICS_VERSION,
        "dataset": {"name": handle.known, "sha256": handle.identity, "limit": request.limit},
        "backbone": {
            "name": opened.backbone.name,
            "weights": opened.identity,
            "options": dict(opened.options),
        },
        "head": {"name": head.name},
        "recipe": asdict(recipe),
        "ttt": request.ttt and asdict(request.ttt),
        "scored": {"name": target.known, "sha256": target.identity, "shift": request.shift},
        "protocol": {"name": protocol.name, **_plan_spec(protocol, request.plan)},
        "view": asdict(view),
        "precision": request.precision,
        "sources": sources.sha256(
            [protocol.plan, opened.backbone.build, head.build], [opened.extractor]
        ),
        "repeat": 0,
    }
    return Job(
        handle=handle,
        samples={sample.id: sample for sample in handle.samples},
        target=target.name,
        scored={sample.id: _shifted(sample, request.shift) for sample in target.samples},
        trials=trials,
        head=head,
        opened=opened,
        runner=runner,
        recipe=recipe,
        request=request,
        spec=spec,
        flags=_flags(request, opened, target.dataset),
    )


def protocol_of(request: Request) -> Protocol:
    """Find the protocol of a request; a BenchError where there is none."""
    protocol = registry.get("protocols", request.protocol)
    if isinstance(protocol, Series):
        raise BenchError(f"{protocol.name!r} is a series of runs, and no protocol of one.")
    return protocol


def planned(
    request: Request, protocol: Protocol, handle: data.DataHandle, target: data.DataHandle
) -> list[Trial]:
    """Plan the trials of a request.

    Raises:
        BenchError: what was asked does not fit the data.
    """
    _refuse_odd_names([*handle.samples, *target.samples])
    trials = _moved(protocol.plan(handle.samples, request.plan), request, target)
    return _smaller(trials, request, protocol)


def _moved(trials: Sequence[Trial], request: Request, target: data.DataHandle) -> list[Trial]:
    """Score the test images of the target instead, where there is one."""
    if request.to is None:
        return list(trials)
    if request.plan.folds:
        raise BenchError("--to trains on the official training split: leave --folds out.")
    test = tuple(sample.id for sample in target.samples if sample.split == "test")
    if not test:
        raise BenchError(f"{request.to!r} has no test images to score.")
    return [replace(trial, test=test) for trial in trials]


def _shifted(sample: Sample, name: str) -> Sample:
    """Change the image of a sample, not its label; its fingerprint names the change."""
    if not name:
        return sample
    change, read = shift(name), sample.read

    def changed() -> tuple[np.ndarray, np.ndarray]:
        image, instances = read()
        return change.apply(image), instances

    fingerprint = hashlib.sha256(f"{sample.fingerprint} {name}".encode()).hexdigest()
    return replace(sample, read=changed, fingerprint=fingerprint)


def refuse_leaks(job: Job) -> None:
    """Raise a BenchError where a patient or a picture is both trained on and scored."""
    samples = list(job.samples.values())
    if not any(trial.train for trial in job.trials):
        return
    if job.request.to is not None:
        train = {image for trial in job.trials for image in trial.train}
        test = {image for trial in job.trials for image in trial.test}
        both = [job.samples[each] for each in sorted(train)] + [job.scored[i] for i in sorted(test)]
        data.refuse_leaks(both, ["training"] * len(train) + ["test"] * len(test))
        return
    if not job.request.plan.folds:
        data.refuse_leaks(samples)
        return
    fold = {image: str(trial.tags["fold"]) for trial in job.trials for image in trial.test}
    scored = [sample for sample in samples if sample.id in fold]
    data.refuse_leaks(scored, [f"fold {fold[sample.id]}" for sample in scored])


def extractor_identity(job: Job) -> object:
    """Give what tells one extractor's maps from another's, for the cache of features."""
    code = sources.sha256([job.opened.backbone.build], [job.opened.extractor])
    return [job.spec["backbone"], code]


def _refuse_odd_names(samples: Sequence[Sample]) -> None:
    for sample in samples:
        for column in ("id", "patient", "organ"):
            if reason := oddity(column, getattr(sample, column)):
                raise BenchError(f"{reason}; rename it.")


def _smaller(trials: Sequence[Trial], request: Request, protocol: Protocol) -> list[Trial]:
    """Keep the first images of each trial for a smoke run, but a support set whole."""
    if request.limit is None:
        return list(trials)
    trained = max(request.limit, request.plan.shots if "shots" in protocol.options else 0)
    return [
        replace(trial, train=trial.train[:trained], test=trial.test[: request.limit])
        for trial in trials
    ]


def _plan_spec(protocol: Protocol, plan: PlanOptions) -> dict[str, object]:
    chosen: dict[str, object] = {name: getattr(plan, name) for name in protocol.options}
    return chosen | {"folds": plan.folds, "seed": plan.seed}


def _flags(request: Request, opened: weights.Opened, dataset: Dataset) -> tuple[str, ...]:
    shared = sorted(set(opened.backbone.trained_on) & set(dataset.sources))
    flags = []
    if opened.untrained:
        flags.append("untrained")
    elif shared:
        flags.append(f"trained on {', '.join(shared)}")
    if request.limit is not None:
        flags.append("smoke")
    return tuple(flags)
