"""Open a backbone: build it, find its weights, and load them strictly.

Weights come from the first of: the user's file, the user's cache, the backbone's own package, the
hub. A backbone that needs weights and has none is refused, never run with random weights instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bench import registry
from bench.api import Backbone, FeatureExtractor
from bench.errors import BenchError
from bench.features.out_of_memory import is_out_of_memory
from bench.models import hub
from bench.models.checkpoints import (
    FILES_OF_A_FOLDER,
    StateFile,
    files_of,
    read_weights,
    refuse_other_kinds,
    sha256_of,
)
from bench.models.options import converted, split_source

FILE_OF_A_FOLDER = "model.safetensors"


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone with its extractor and the identity of its weights.

    Attributes:
        extractor: in eval mode. On the meta device it has shapes and facts, but cannot compute.
        identity: "sha256:..." of the file, "random:<seed>", or "none" without parameters.
        source: where the weights come from, in words, and once they are loaded, the dictionaries
            and prefixes that were unwrapped.
        untrained: whether frozen parameters have random values.
        options: all options of its builder, and the extractor's facts.
        is_users_file: whether the user named the file of weights.
    """

    extractor: FeatureExtractor
    backbone: Backbone
    identity: str
    source: str
    untrained: bool
    options: Mapping[str, object] = field(default_factory=dict)
    is_users_file: bool = False


@dataclass(frozen=True)
class Description:
    """The properties of a backbone with some options that need no weights."""

    backbone: Backbone
    parameters: int
    trainable_parameters: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    facts: Mapping[str, object]


@dataclass(frozen=True)
class _Policy:
    """How weights are found, also for the backbones that a backbone opens: its condition.

    Attributes:
        accept_license: download weights whose licence is unknown.
        identify: find and hash weights on the meta device too.
    """

    accept_license: bool = False
    identify: bool = False


_DEFAULT = _Policy()
_policy: ContextVar[_Policy] = ContextVar("policy", default=_DEFAULT)


def open_backbone(
    name: str,
    *,
    checkpoint: Path | None = None,
    random: bool = False,
    options: Mapping[str, str] | None = None,
    seed: int | None = None,
    accept_license: bool = False,
) -> LoadedBackbone:
    """Build a backbone and load its weights.

    Args:
        name: NAME, NAME@FILE (a checkpoint) or NAME@random:SEED (the seed is 0 without :SEED).
        checkpoint: a file of weights, an index of shards, or a folder with one of
            `FILES_OF_A_FOLDER`.
        random: keep the initial weights of the architecture: the untrained control.
        options: the backbone's own options, as text from the command line.
        seed: of the initial weights; None takes that of the name, or 0.
        accept_license: download weights even if their licence is unknown, also those of a backbone
            that this one opens, such as its condition. Weights on this machine need no consent.

    Returns:
        The extractor in eval mode, on the CPU in float32. Inside `torch.device("meta")` it is only
        built, and no file is read.

    Raises:
        BenchError: a name, an option or a file is wrong, or the weights are not available.
    """
    name, checkpoint, control_seed = split_source(name, checkpoint, random)
    seed = control_seed or 0 if seed is None else seed
    backbone: Backbone = registry.get("backbones", name)
    values = converted(backbone, options or {})
    path, source = None, "random weights"
    on_meta = torch.empty(0).is_meta
    with accepting(accept_license):
        if control_seed is None and (not on_meta or _policy.get().identify):
            path, source = _find(backbone, checkpoint)
        extractor = _build(backbone, values, seed)
    if path is None:
        identity, untrained = _of_initial_weights(backbone, extractor, seed, control_seed)
    elif on_meta:
        identity, untrained = f"sha256:{_sha256_of_unchanged(path)}", False
    else:
        weights = _load_weights(backbone, extractor, path)
        identity, untrained = f"sha256:{weights.sha256}", False
        if weights.unwrapped:
            source += f" (unwrapped: {', '.join(weights.unwrapped)})"
    return LoadedBackbone(
        extractor=extractor.eval(),
        backbone=backbone,
        identity=identity,
        source=source,
        untrained=untrained,
        options=values | dict(extractor.facts),
        is_users_file=path is not None and checkpoint is not None,
    )


def _of_initial_weights(
    backbone: Backbone, extractor: FeatureExtractor, seed: int, control_seed: int | None
) -> tuple[str, bool]:
    """Return the identity of weights that come from no file, and whether they are a control's.

    Args:
        control_seed: the seed of an untrained control; None if none was requested.

    Raises:
        BenchError: a seed is set, but the backbone has no frozen weights.
    """
    identity = f"random:{seed}" if any(True for _ in extractor.parameters()) else "none"
    frozen = any(not weight.requires_grad for weight in extractor.parameters())
    if control_seed and not frozen:
        raise BenchError(
            f"{backbone.name}@random:{control_seed}: {backbone.name} has no frozen weights that "
            "could be random. Omit @random; --seed sets the initial values of what is trained."
        )
    is_control = control_seed is not None and backbone.weights.needed
    return identity, identity != "none" and (frozen or is_control)


def identify_backbone(
    name: str,
    *,
    checkpoint: Path | None = None,
    random: bool = False,
    options: Mapping[str, str] | None = None,
    accept_license: bool = False,
) -> LoadedBackbone:
    """Return a backbone on the meta device, with the identity of the weights that it would load.

    Weights are downloaded if necessary and hashed, but not read. Arguments and errors are those of
    `open_backbone`.
    """
    token = _policy.set(replace(_policy.get(), identify=True))
    try:
        with torch.device("meta"):
            return open_backbone(
                name,
                checkpoint=checkpoint,
                random=random,
                options=options,
                accept_license=accept_license,
            )
    finally:
        _policy.reset(token)


@contextmanager
def accepting(accept_license: bool) -> Iterator[None]:
    """Allow the download of weights whose licence is unknown within the context."""
    policy = _policy.get()
    token = _policy.set(replace(policy, accept_license=accept_license or policy.accept_license))
    try:
        yield
    finally:
        _policy.reset(token)


def file_of(checkpoint: Path) -> Path:
    """Return the file of weights of a path: the path itself, or the file of a folder.

    Raises:
        BenchError: there is no such file.
    """
    names = FILES_OF_A_FOLDER if checkpoint.is_dir() else ("",)
    paths = [checkpoint / name for name in names]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise BenchError(f"there is no file of weights {paths[0]}. Check the path.")
    return path


def describe(name: str, options: Mapping[str, str] | None = None) -> Description:
    """Describe a backbone on the meta device, without downloads and without memory.

    Raises:
        BenchError: the name or an option is wrong.
    """
    with torch.device("meta"):
        opened = open_backbone(name, options=options)
    extractor = opened.extractor
    return Description(
        backbone=opened.backbone,
        parameters=sum(weight.numel() for weight in extractor.parameters()),
        trainable_parameters=sum(w.numel() for w in extractor.parameters() if w.requires_grad),
        channels=tuple(extractor.channels),
        strides=tuple(extractor.strides),
        mean=extractor.mean,
        std=extractor.std,
        facts=extractor.facts,
    )


def _build(backbone: Backbone, values: Mapping[str, Any], seed: int) -> FeatureExtractor:
    """Build with initial weights that depend only on the seed."""
    with torch.random.fork_rng(devices=[]), _preserved_modes(backbone):
        torch.default_generator.manual_seed(seed)
        try:
            extractor = backbone.build(**values)
        except BenchError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise BenchError(
                f"the backbone {backbone.name} cannot be built ({_shortened(error)}): correct it, "
                "or its options."
            ) from error
    missing = [n for n in ("channels", "strides", "mean", "std") if not hasattr(extractor, n)]
    if missing:
        raise BenchError(
            f"the extractor of {backbone.name} does not set {', '.join(missing)}: see "
            "bench.api.nn.FeatureExtractor; `bench check NAME` shows more."
        )
    return extractor


@contextmanager
def _preserved_modes(backbone: Backbone) -> Iterator[None]:
    """Restore the default dtype and the grad mode; raise a BenchError if the dtype has changed."""
    dtype, grad_enabled = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
        changed = torch.get_default_dtype() != dtype
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad_enabled)
    if changed:
        raise BenchError(
            f"{backbone.name} changed the default dtype of torch while it was built: pass the "
            "dtype to its layers in `build` instead."
        )


def _find(backbone: Backbone, checkpoint: Path | None) -> tuple[Path | None, str]:
    """Return the file of weights, None if none is needed, and where it comes from."""
    if checkpoint is not None:
        path = file_of(checkpoint)
        return path, f"file {path}"
    if path := hub.cached_users_file(backbone):
        return path, f"cache {path}"
    if backbone.weights.package:
        return _packaged(backbone), f"package {backbone.weights.package}"
    if backbone.weights.repo:
        path = _fetched(backbone)
        return path, f"hub {backbone.weights.repo}/{path.name}"
    if backbone.weights.needed:
        raise BenchError(f"there are no weights for {backbone.name}: {_alternatives(backbone)}.")
    return None, "as built: it takes no weights"


def _packaged(backbone: Backbone) -> Path:
    weights = backbone.weights
    path = hub.packaged_file(weights)
    if path is None or not path.is_file() or sha256_of(path) != weights.sha256:
        raise BenchError(
            f"{weights.file} of {weights.package} is missing or damaged: install "
            f"{weights.package.partition('.')[0]} again. Otherwise {_alternatives(backbone)}."
        )
    return path


def _fetched(backbone: Backbone) -> Path:
    weights = backbone.weights
    accepted = backbone.license != "unknown" or _policy.get().accept_license
    if not accepted and hub.cached(weights) is None:
        pinned = f" --revision {weights.revision}" if weights.revision else ""
        raise BenchError(
            f"the licence of the weights of {backbone.name} is unknown: read "
            f"{hub.page(weights)}. If you may use them, add `--accept-license`, or fetch them "
            f"with `hf download {weights.repo} {weights.file}{pinned}`. Otherwise "
            f"{_alternatives(backbone)}."
        )
    try:
        return hub.fetch(weights, backbone.license, gated=backbone.gated)
    except BenchError as error:
        raise BenchError(f"{backbone.name}: {error} Otherwise {_alternatives(backbone)}.") from None


def _alternatives(backbone: Backbone) -> str:
    trainer = f"create them with `{backbone.trainer}`; " if backbone.trainer else ""
    return (
        f"give weights as a file with `--checkpoint FILE`; {trainer}"
        "or run an untrained control with `--weights random`"
    )


def _sha256_of_unchanged(path: Path) -> str:
    """Return the sha256 of a file, computed once per process while size and times are unchanged."""
    try:
        stats = [file.stat() for file in files_of(path)]
    except OSError:
        return sha256_of(path)
    facts = tuple((s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in stats)
    return _memoised_sha256(path, facts)


@lru_cache(maxsize=64)
def _memoised_sha256(path: Path, facts: tuple[tuple[int, ...], ...]) -> str:
    return sha256_of(path)


def _load_weights(backbone: Backbone, extractor: FeatureExtractor, path: Path) -> StateFile:
    """Load the weights with the fewest prefixes removed that fit; return what was loaded."""
    errors: list[Exception] = []
    for candidate in read_weights(path).candidates():
        try:
            state = candidate.tensors
            if backbone.convert is not None:
                state = backbone.convert(state, extractor)
            with refuse_other_kinds(extractor):
                extractor.load(state)
        except Exception as error:  # the converter of a plug-in may raise anything
            if is_out_of_memory(error):
                raise
            errors.append(error)
        else:
            try:
                candidate.refuse_damaged(state)
            except BenchError as error:
                raise BenchError(f"the weights {path} were not loaded: {error}") from error
            return candidate
    # `load_state_dict` names every key that differs, so the shortest error is the closest fit.
    error = min(errors, key=lambda error: (isinstance(error, BenchError), len(str(error))))
    if isinstance(error, BenchError):
        raise BenchError(f"{path}: {error}") from error
    raise BenchError(
        f"{path} (sha256 {sha256_of(path)}) does not contain weights of {backbone.name}: "
        f"{_shortened(error).rstrip('.')}. Check --backbone and --checkpoint."
    ) from error


def _shortened(error: Exception, lines: int = 3, width: int = 200) -> str:
    """Return the first lines of an error; `load_state_dict` may name a thousand keys."""
    texts = [line.strip() for line in str(error).splitlines() if line.strip()]
    texts = [line for line in texts if not line.startswith("Error(s) in loading")] or texts
    shown = [line if len(line) <= width else f"{line[:width]} ..." for line in texts[:lines]]
    return f"{type(error).__name__}: {' | '.join(shown)}"
