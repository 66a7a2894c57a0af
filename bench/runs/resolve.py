"""Resolve the names of a config, and compute the identity of its run."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from bench import registry
from bench.api import (
    Dataset,
    FeatureExtractor,
    HeadPlugin,
    LinearRecipe,
    PlanOptions,
    Protocol,
    Recipe,
    Sample,
    Trial,
)
from bench.api.experiment import MIN_STEPS
from bench.api.record import NUMERICS_VERSION, SCHEMA
from bench.api.run_config import RunConfig
from bench.api.spec import (
    BackboneSpec,
    DatasetSpec,
    HeadSpec,
    ProtocolSpec,
    RunSpec,
    ScoredSpec,
    ViewSpec,
)
from bench.data import find, leakage
from bench.data.shifts import shift
from bench.errors import BenchError
from bench.features.forward import ExtractorRunner
from bench.features.out_of_memory import is_out_of_memory, no_room
from bench.features.views import View
from bench.metrics import METRICS_VERSION
from bench.models.load import LoadedBackbone
from bench.runs import code_hash
from bench.runs.input_size import side_of, with_view
from bench.runs.session import Session, load_backbone
from bench.runs.trial_plan import planned, protocol_of
from bench.training.test_time import check_adaptable


@dataclass(frozen=True)
class ResolvedRun:
    """A config with every name resolved, and its identity; no weights are read.

    Attributes:
        handle: the data set of the training images.
        target: the data set of the scored images.
        samples, scored: their samples by id; the scored ones are shifted if the config says so.
        opened: the backbone on the meta device, with the identity of its weights.
        runner: the extractor, whose weights are loaded on first use.
        config: with its number of folds and its view.
        spec: the identity of the run: the config, and the hashes of data, weights and code.
    """

    handle: find.DatasetHandle
    target: find.DatasetHandle
    samples: Mapping[str, Sample]
    scored: Mapping[str, Sample]
    trials: Sequence[Trial]
    head: HeadPlugin
    opened: LoadedBackbone
    runner: ExtractorRunner
    recipe: Recipe | LinearRecipe
    config: RunConfig
    spec: RunSpec
    flags: tuple[str, ...]

    @property
    def reuses_maps(self) -> bool:
        """Whether all maps come from the bank: the extractor is frozen, also at test time."""
        return self.runner.frozen and self.config.adaptation is None

    def reset_weights(self, seed: int) -> None:
        """Give the trainable weights and the buffers of the extractor their values under a seed.

        Frozen weights do not change; weights from a file do not depend on the seed.
        """
        extractor = self.runner.extractor
        fresh = load_backbone(self.config, self.handle.dataset, seed).extractor
        frozen = {name for name, weight in extractor.named_parameters() if not weight.requires_grad}
        state = {name: value for name, value in fresh.state_dict().items() if name not in frozen}
        extractor.load_state_dict({**extractor.state_dict(), **state})


def resolve(config: RunConfig, session: Session | None = None) -> ResolvedRun:
    """Find the data, the plug-ins and the weights of a config; no weights are read.

    Args:
        session: data sets and backbones that several runs share.

    Raises:
        BenchError: something is unknown, missing or does not fit.
    """
    session = session or Session()
    config.check()
    protocol = protocol_of(config)
    handle = session.dataset(config.dataset)
    target = handle if config.target_dataset is None else session.dataset(config.target_dataset)
    config, trials = planned(config, protocol, handle, target)
    config = with_view(config, handle, target, session)
    opened = session.backbone(config, handle.dataset)
    recipe, head, side = fit_to(config, protocol, opened, handle.dataset)
    view = View(config.view or "whole", side)
    spec = RunSpec(
        schema=SCHEMA,
        metrics_version=METRICS_VERSION,
        numerics_version=NUMERICS_VERSION,
        dataset=DatasetSpec(handle.registered_name, handle.identity, config.limit),
        backbone=BackboneSpec(opened.backbone.name, opened.identity, dict(opened.options)),
        head=HeadSpec(head.name),
        recipe=recipe,
        ttt=config.adaptation,
        scored=ScoredSpec(target.registered_name, target.identity, config.shift),
        protocol=ProtocolSpec(protocol.name, _plan_spec(protocol, config.plan)),
        view=ViewSpec(view.kind, view.px),
        precision=config.precision,
        sources=code_hash.sha256(
            [protocol.plan, opened.backbone.build, head.build], [opened.extractor]
        ),
        repeat=0,
    )
    return ResolvedRun(
        handle=handle,
        target=target,
        samples={sample.id: sample for sample in handle.samples},
        scored={sample.id: _shifted(sample, config.shift) for sample in target.samples},
        trials=trials,
        head=head,
        opened=opened,
        runner=_runner(config, handle.dataset, session, opened, view),
        recipe=recipe,
        config=config,
        spec=spec,
        flags=_flags(config, opened, handle, target),
    )


def _runner(
    config: RunConfig,
    dataset: Dataset,
    session: Session,
    opened: LoadedBackbone,
    view: View,
) -> ExtractorRunner:
    """Return the runner of an extractor on the meta device, which loads the weights on first use.

    Loading raises a RunFailed if memory is exceeded.
    """

    def load() -> FeatureExtractor:
        try:
            return session.extractor(config, dataset)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise no_room(f"opening {config.backbone}") from error
            raise

    device = device_named(config.device)
    return ExtractorRunner(opened.extractor, view, device, config.precision, loader=load)


def _shifted(sample: Sample, name: str) -> Sample:
    """Return a sample with a corrupted image, the same label and another fingerprint."""
    if not name:
        return sample
    corruption, read = shift(name), sample.read

    def read_shifted() -> tuple[np.ndarray, np.ndarray]:
        image, instances = read()
        return corruption.apply(image), instances

    fingerprint = hashlib.sha256(f"{sample.fingerprint} {name}".encode()).hexdigest()
    return replace(sample, read=read_shifted, fingerprint=fingerprint)


def refuse_leaks(run: ResolvedRun) -> None:
    """Raise a BenchError if a patient or an image is in a training set and in a test set."""
    if not any(trial.train for trial in run.trials):
        return
    handle, target = run.handle, run.target
    if run.config.target_dataset is not None:
        train = {image for trial in run.trials for image in trial.train}
        test = {image for trial in run.trials for image in trial.test}
        members = [handle.member(s, "training") for s in handle.samples if s.id in train]
        members += [target.member(s, "test") for s in target.samples if s.id in test]
    elif run.config.plan.folds:
        fold = {image: trial.tags["fold"] for trial in run.trials for image in trial.test}
        members = [handle.member(s, f"fold {fold[s.id]}") for s in handle.samples if s.id in fold]
    else:
        members = [handle.member(sample, sample.split) for sample in handle.samples]
    leakage.refuse_leaks(members)


def extractor_identity(run: ResolvedRun) -> object:
    """Return everything that the maps of an extractor depend on, for the feature cache."""
    code = code_hash.sha256([run.opened.backbone.build], [run.opened.extractor])
    return [asdict(run.spec.backbone), code, NUMERICS_VERSION]


def _plan_spec(protocol: Protocol, plan: PlanOptions) -> dict[str, str | int | float]:
    chosen = {name: getattr(plan, name) for name in protocol.options}
    return chosen | {"folds": plan.folds, "seed": plan.seed}


def _flags(
    config: RunConfig,
    opened: LoadedBackbone,
    handle: find.DatasetHandle,
    target: find.DatasetHandle,
) -> tuple[str, ...]:
    shared = sorted(set(opened.backbone.trained_on) & set(target.dataset.sources))
    flags = []
    if opened.untrained:
        flags.append("untrained")
    elif shared:
        flags.append(f"trained on {', '.join(shared)}")
    if config.limit is not None:
        flags.append("smoke")
    if handle.has_accepted_labels or target.has_accepted_labels:
        flags.append("labels are no instance maps")
    return tuple(flags)


def fit_to(
    config: RunConfig, protocol: Protocol, opened: LoadedBackbone, dataset: Dataset
) -> tuple[Recipe | LinearRecipe, HeadPlugin, int]:
    """Return the recipe, the head and the side of the input (px) for a backbone.

    Raises:
        BenchError: they do not fit the backbone, or the backbone does not fit the config.
    """
    head: HeadPlugin = registry.get("heads", head_name(config, protocol, opened))
    frozen = not any(weight.requires_grad for weight in opened.extractor.parameters())
    recipe = _recipe(config, opened.backbone.recipe, head.recipe if frozen else None)
    side = side_of(config, opened, dataset)
    if protocol.frozen and not frozen:
        raise BenchError(
            f"{protocol.name!r} is about frozen features, and {opened.backbone.name} trains its "
            "own: use --protocol full or fewshot."
        )
    if config.adaptation is not None:
        check_adaptable(opened.extractor, config.adaptation, opened.backbone.name)
    return recipe, head, side


def _recipe(config: RunConfig, usual: Recipe, solved: LinearRecipe | None) -> Recipe | LinearRecipe:
    """Return the recipe of a config.

    Args:
        usual: the recipe of the backbone.
        solved: the recipe of a head that is solved to convergence.

    Raises:
        BenchError: a number is out of range, or changes the default recipe.
    """
    changes = config.recipe_changes
    if config.recipe == "default" and changes:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in changes)
        raise BenchError(f"--recipe default cannot be changed by {names}: use --recipe paper.")
    is_default = config.recipe != "paper" and not changes
    if solved is not None and is_default:
        return solved
    recipe = replace(usual, min_steps=MIN_STEPS if is_default else 0, **changes)
    is_invalid = {
        "--epochs": recipe.epochs < 1,
        "--batch-size": recipe.batch_size < 1,
        "--lr": not 0 < recipe.lr < math.inf,
        "--weight-decay": not 0 <= recipe.weight_decay < math.inf,
    }
    if any(is_invalid.values()):
        options = ", ".join(option for option, invalid in is_invalid.items() if invalid)
        raise BenchError(f"{options}: give a positive number.")
    return recipe


def head_name(config: RunConfig, protocol: Protocol, opened: LoadedBackbone) -> str:
    """Return the name of the head: the protocol's, else the config's, else the backbone's.

    Raises:
        BenchError: there is no such head, or the protocol prescribes another.
    """
    if config.head and protocol.head and config.head != protocol.head:
        registry.get("heads", config.head)  # an unknown name is the first error
        raise BenchError(
            f"the protocol {protocol.name!r} prescribes the head {protocol.head!r}; "
            f"for {config.head!r} use --protocol full."
        )
    return protocol.head or config.head or opened.backbone.default_head


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
