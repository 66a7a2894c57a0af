"""What is run: a request with every name resolved, and the identity that follows from it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench import registry
from bench.api import Dataset, HeadPlugin, PlanOptions, Protocol, Recipe, Sample, Series, Trial
from bench.api.config import RunConfig
from bench.api.record import NUMERICS_VERSION, SCHEMA
from bench.api.spec import (
    BackboneSpec,
    DatasetSpec,
    HeadSpec,
    ProtocolSpec,
    RunSpec,
    ScoredSpec,
    ViewSpec,
)
from bench.data import find
from bench.data.manifest import name_problem
from bench.data.shifts import shift
from bench.errors import BenchError
from bench.features.forward import ExtractorRunner
from bench.features.views import View, nearest_multiple
from bench.metrics import METRICS_VERSION
from bench.models import load
from bench.models import load as models_load
from bench.runs import code_hash
from bench.runs.session import Session, opened_backbone
from bench.training.test_time import check_adaptable


@dataclass(frozen=True)
class ResolvedRun:
    """A request with every name resolved.

    Attributes:
        handle, samples: what is trained on.
        target: name of the data set that is scored.
        scored: its images by id; shifted, where that was asked.
        spec: the identity of the run: what was asked, and the hash of everything it stands on.
    """

    handle: find.DataHandle
    samples: Mapping[str, Sample]
    target: str
    scored: Mapping[str, Sample]
    trials: Sequence[Trial]
    head: HeadPlugin
    opened: models_load.LoadedBackbone
    runner: ExtractorRunner
    recipe: Recipe
    request: RunConfig
    spec: RunSpec
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
    request: RunConfig, data_dir: Path | None, session: Session | None = None, *, load: bool = True
) -> ResolvedRun:
    """Find the data, the plug-ins and the weights of a request.

    Args:
        session: what the runs of one command share; the data sets are looked for in its folder.
        load: whether weights are read; without them the job can be named, and run on kept features.

    Raises:
        BenchError: something is unknown, missing or does not fit.
    """
    session = session or Session(data_dir)
    request.check()
    protocol = protocol_of(request)
    handle = session.dataset(request.dataset)
    target = handle if request.target_dataset is None else session.dataset(request.target_dataset)
    trials = planned(request, protocol, handle, target)
    opened = (session.backbone if load else session.outline)(request, handle.dataset)
    recipe, head, side = fit_to(request, protocol, opened, handle.dataset)
    device = device_named(request.device)
    view = View(request.view, side)
    extractor = opened.extractor.to(device) if load else opened.extractor
    runner = ExtractorRunner(extractor, view, device, request.precision, loaded=load)
    spec = RunSpec(
        schema=SCHEMA,
        metrics_version=METRICS_VERSION,
        numerics_version=NUMERICS_VERSION,
        dataset=DatasetSpec(handle.known, handle.identity, request.limit),
        backbone=BackboneSpec(opened.backbone.name, opened.identity, dict(opened.options)),
        head=HeadSpec(head.name),
        recipe=recipe,
        ttt=request.adaptation,
        scored=ScoredSpec(target.known, target.identity, request.shift),
        protocol=ProtocolSpec(protocol.name, _plan_spec(protocol, request.plan)),
        view=ViewSpec(view.kind, view.px),
        precision=request.precision,
        sources=code_hash.sha256(
            [protocol.plan, opened.backbone.build, head.build], [opened.extractor]
        ),
        repeat=0,
    )
    return ResolvedRun(
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


def protocol_of(request: RunConfig) -> Protocol:
    """Find the protocol of a request; a BenchError where there is none."""
    protocol = registry.get("protocols", request.protocol)
    if isinstance(protocol, Series):
        raise BenchError(f"{protocol.name!r} is a series of runs, and no protocol of one.")
    return protocol


def planned(
    request: RunConfig, protocol: Protocol, handle: find.DataHandle, target: find.DataHandle
) -> list[Trial]:
    """Plan the trials of a request.

    Raises:
        BenchError: what was asked does not fit the data.
    """
    _refuse_odd_names([*handle.samples, *target.samples])
    trials = _moved(protocol.plan(handle.samples, request.plan), request, target)
    return _smaller(trials, request, protocol)


def _moved(trials: Sequence[Trial], request: RunConfig, target: find.DataHandle) -> list[Trial]:
    """Score the test images of the target instead, where there is one."""
    if request.target_dataset is None:
        return list(trials)
    if request.plan.folds:
        raise BenchError(
            "--target-dataset trains on the official training split: leave --folds out."
        )
    test = tuple(sample.id for sample in target.samples if sample.split == "test")
    if not test:
        raise BenchError(f"{request.target_dataset!r} has no test images to score.")
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


def refuse_leaks(job: ResolvedRun) -> None:
    """Raise a BenchError where a patient or a picture is both trained on and scored."""
    samples = list(job.samples.values())
    if not any(trial.train for trial in job.trials):
        return
    if job.request.target_dataset is not None:
        train = {image for trial in job.trials for image in trial.train}
        test = {image for trial in job.trials for image in trial.test}
        both = [job.samples[each] for each in sorted(train)] + [job.scored[i] for i in sorted(test)]
        find.refuse_leaks(both, ["training"] * len(train) + ["test"] * len(test))
        return
    if not job.request.plan.folds:
        find.refuse_leaks(samples)
        return
    fold = {image: str(trial.tags["fold"]) for trial in job.trials for image in trial.test}
    scored = [sample for sample in samples if sample.id in fold]
    find.refuse_leaks(scored, [f"fold {fold[sample.id]}" for sample in scored])


def extractor_identity(job: ResolvedRun) -> object:
    """Give what tells one extractor's maps from another's, for the cache of features."""
    code = code_hash.sha256([job.opened.backbone.build], [job.opened.extractor])
    return [asdict(job.spec.backbone), code, NUMERICS_VERSION]


def _refuse_odd_names(samples: Sequence[Sample]) -> None:
    for sample in samples:
        for column in ("id", "patient", "organ"):
            if reason := name_problem(column, getattr(sample, column)):
                raise BenchError(f"{reason}; rename it.")


def _smaller(trials: Sequence[Trial], request: RunConfig, protocol: Protocol) -> list[Trial]:
    """Keep the first images of each trial for a smoke run, but a support set whole."""
    if request.limit is None:
        return list(trials)
    trained = max(request.limit, request.plan.shots if "shots" in protocol.options else 0)
    return [
        replace(trial, train=trial.train[:trained], test=trial.test[: request.limit])
        for trial in trials
    ]


def _plan_spec(protocol: Protocol, plan: PlanOptions) -> dict[str, str | int | float]:
    chosen = {name: getattr(plan, name) for name in protocol.options}
    return chosen | {"folds": plan.folds, "seed": plan.seed}


def _flags(
    request: RunConfig, opened: models_load.LoadedBackbone, dataset: Dataset
) -> tuple[str, ...]:
    shared = sorted(set(opened.backbone.trained_on) & set(dataset.sources))
    flags = []
    if opened.untrained:
        flags.append("untrained")
    elif shared:
        flags.append(f"trained on {', '.join(shared)}")
    if request.limit is not None:
        flags.append("smoke")
    return tuple(flags)


def fit_to(
    request: RunConfig, protocol: Protocol, opened: load.LoadedBackbone, dataset: Dataset
) -> tuple[Recipe, HeadPlugin, int]:
    """Give the recipe, the head and the side of the input for a backbone.

    Raises:
        BenchError: they do not fit it, or it does not fit what was asked.
    """
    recipe = _recipe(request, opened)
    head: HeadPlugin = registry.get("heads", head_name(request, protocol, opened))
    side = side_of(request, opened, dataset)
    _refuse_what_trains(protocol, opened)
    if request.adaptation is not None:
        check_adaptable(opened.extractor, request.adaptation, opened.backbone.name)
    return recipe, head, side


def _recipe(request: RunConfig, opened: load.LoadedBackbone) -> Recipe:
    """Change the backbone's recipe as asked.

    Raises:
        BenchError: a number is out of range.
    """
    recipe = replace(opened.backbone.recipe, **request.recipe)
    wrong = {
        "--epochs": recipe.epochs < 1,
        "--batch-size": recipe.batch_size < 1,
        "--lr": not 0 < recipe.lr < math.inf,
        "--weight-decay": not 0 <= recipe.weight_decay < math.inf,
    }
    named = [option for option, is_wrong in wrong.items() if is_wrong]
    if named:
        raise BenchError(f"{', '.join(named)}: give a positive number.")
    return recipe


def _refuse_what_trains(protocol: Protocol, opened: load.LoadedBackbone) -> None:
    trains = any(each.requires_grad for each in opened.extractor.parameters())
    if protocol.frozen and trains:
        raise BenchError(
            f"{protocol.name!r} is about frozen features, and {opened.backbone.name} trains its "
            "own: use --protocol full or fewshot."
        )


def head_name(request: RunConfig, protocol: Protocol, opened: load.LoadedBackbone) -> str:
    """Name the head of a run: the protocol's, the one asked for, or the backbone's own.

    Raises:
        BenchError: there is no such head, or the protocol prescribes another.
    """
    if request.head and protocol.head and request.head != protocol.head:
        registry.get("heads", request.head)  # a misspelt one is told as that
        raise BenchError(
            f"the protocol {protocol.name!r} prescribes the head {protocol.head!r}; "
            f"for {request.head!r} use --protocol full."
        )
    return protocol.head or request.head or opened.backbone.default_head


def side_of(request: RunConfig, opened: load.LoadedBackbone, dataset: Dataset) -> int:
    """Give the side of the square input for a backbone.

    Raises:
        BenchError: the side that was asked for does not fit it.
    """
    stride = max(opened.extractor.strides)
    side = request.input_px or opened.backbone.input_px or dataset.input_px.get(stride)
    if side is None:
        return nearest_multiple(dataset.input_px[0], stride)
    if side % stride:
        fits = nearest_multiple(side, stride)
        raise BenchError(
            f"an input of {side} px does not fit {opened.backbone.name}, whose coarsest map has a "
            f"pixel for {stride} input pixels. Use --input-px {fits}."
        )
    return side


def device_named(name: str) -> torch.device:
    """Return the device named auto, cpu, cuda, cuda:N or mps.

    Raises:
        BenchError: the name is none of these, or the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise BenchError(f"--device {name!r} is not one of auto, cpu, cuda, cuda:N, mps.")
    device, count = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BenchError(f"--device {name}: torch finds no CUDA device. Use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise BenchError(f"--device {name}: this machine has {count}, cuda:0 to cuda:{count - 1}.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BenchError("--device mps: torch finds no MPS device. Use --device cpu.")
    return device
