"""Open a backbone: build it, find its weights, and load them strictly.

Weights come from the first of: the user's file, the user's cache, the backbone's own package, the
hub. A backbone that needs weights and has none is refused, never run untrained in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bench import registry
from bench.api import Backbone, FeatureExtractor
from bench.errors import BenchError
from bench.features.out_of_memory import is_out_of_memory
from bench.models import hub
from bench.models.checkpoints import kinds_are_kept, read_state, sha256_of
from bench.models.options import converted, split_source
from bench.registry import DTYPE, undisturbed

FILE_OF_A_FOLDER = "model.safetensors"
accepted: ContextVar[bool] = ContextVar("accepted", default=False)  # `accept_license`, see there
_outlining: ContextVar[bool] = ContextVar("outlining", default=False)  # inside `outlined`


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone that is ready to run.

    Attributes:
        identity: "sha256:..." of the file, "random:<seed>", or "none" without parameters.
        source: where the weights came from, in words.
        given: whether the user named the file of weights.
        untrained: whether parameters that stay frozen hold random values.
        options: every option that it was built with, and the extractor's own facts.
        loaded: whether the extractor can compute; one on the meta device only tells of itself.
    """

    extractor: FeatureExtractor
    backbone: Backbone
    identity: str
    source: str
    untrained: bool
    options: Mapping[str, object] = field(default_factory=dict)
    given: bool = False
    loaded: bool = True


@dataclass(frozen=True)
class Description:
    """What is known of a backbone with these options before any weight is read."""

    backbone: Backbone
    parameters: int
    trainable_parameters: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    facts: Mapping[str, object]


def open_backbone(
    name: str,
    *,
    checkpoint: Path | None = None,
    random: bool = False,
    options: Mapping[str, str] | None = None,
    seed: int = 0,
    accept_license: bool = False,
) -> LoadedBackbone:
    """Build a backbone and give it its weights.

    Args:
        name: NAME, NAME@FILE (a checkpoint) or NAME@random.
        checkpoint: a file of weights, or a folder that holds model.safetensors.
        random: keep the weights that the architecture starts with: the untrained twin.
        options: the backbone's own options, as text from the command line.
        seed: of the initial weights; one seed gives the same weights each time.
        accept_license: fetch weights even where nobody here knows their licence. It holds for what
            the backbone opens in turn, its condition for one. What this machine has is never asked
            about.

    Returns:
        The extractor in eval mode, on the CPU in float32. Inside `torch.device("meta")` it is built
        alone, and no file is read.

    Raises:
        BenchError: a name, an option or a file is wrong, or the weights cannot be had.
    """
    name, checkpoint, random = split_source(name, checkpoint, random)
    backbone: Backbone = registry.get("backbones", name)
    values = converted(backbone, options or {})
    path, source = None, "random weights, as asked"
    loads = not torch.empty(0).is_meta
    with accepting(accept_license):
        if not random and (loads or _outlining.get()):
            path, source = _find(backbone, checkpoint)
        extractor = _built(backbone, values, seed)
    if path is None:
        identity = f"random:{seed}" if any(True for _ in extractor.parameters()) else "none"
        frozen = any(not each.requires_grad for each in extractor.parameters())
        untrained = identity != "none" and (frozen or (random and backbone.weights.needed))
    else:
        identity, untrained = f"sha256:{_hashed(path)}", False
        if loads:
            _load(backbone, extractor, path)
    used = values | dict(extractor.facts)
    given = path is not None and checkpoint is not None
    return LoadedBackbone(
        extractor.eval(), backbone, identity, source, untrained, used, given, loads
    )


@contextmanager
def outlined() -> Iterator[None]:
    """Let `open_backbone` find and hash weights, here and in what it opens, but read none.

    The extractor lies on the meta device: it tells its channels, its facts and which weights it has
    without the time and the memory of building and loading it, and can compute nothing.
    """
    token = _outlining.set(True)
    try:
        with torch.device("meta"):
            yield
    finally:
        _outlining.reset(token)


@contextmanager
def accepting(accept_license: bool) -> Iterator[None]:
    """Let weights be fetched whose licence is not known, where that was accepted."""
    token = accepted.set(accept_license or accepted.get())
    try:
        yield
    finally:
        accepted.reset(token)


def file_of(checkpoint: Path) -> Path:
    """Give the file of weights that a path stands for: itself, or model.safetensors in a folder.

    Raises:
        BenchError: there is none.
    """
    path = checkpoint / FILE_OF_A_FOLDER if checkpoint.is_dir() else checkpoint
    if not path.is_file():
        raise BenchError(f"there is no file of weights {path}. Check the path.")
    return path


def describe(name: str, options: Mapping[str, str] | None = None) -> Description:
    """Count a backbone on the meta device: no download, no memory.

    Raises:
        BenchError: the name or an option is wrong.
    """
    with torch.device("meta"):
        opened = open_backbone(name, options=options)
    extractor = opened.extractor
    return Description(
        backbone=opened.backbone,
        parameters=sum(each.numel() for each in extractor.parameters()),
        trainable_parameters=sum(p.numel() for p in extractor.parameters() if p.requires_grad),
        channels=tuple(extractor.channels),
        strides=tuple(extractor.strides),
        mean=extractor.mean,
        std=extractor.std,
        facts=extractor.facts,
    )


def _built(backbone: Backbone, values: Mapping[str, Any], seed: int) -> FeatureExtractor:
    """Build with initial weights that depend on the seed alone, leaving the ambient state be."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            with undisturbed(f"the backbone {backbone.name}") as changed:
                extractor = backbone.build(**values)
            if DTYPE in changed:
                raise BenchError(
                    f"{backbone.name} changed {DTYPE} as it was built: give the dtype to its own "
                    "layers in `build`, and leave the default as it is."
                )
            _refuse_silence(backbone, extractor)
            return extractor
        except BenchError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise BenchError(
                f"the backbone {backbone.name} cannot be built ({_shortened(error)}): mend it, or "
                "its options."
            ) from error


def _refuse_silence(backbone: Backbone, extractor: FeatureExtractor) -> None:
    wanted = ("channels", "strides", "mean", "std")
    if unsaid := [name for name in wanted if not hasattr(extractor, name)]:
        raise BenchError(
            f"the extractor of {backbone.name} does not set {', '.join(unsaid)}: see "
            "bench.api.nn.FeatureExtractor; `bench check NAME` tells more."
        )


def _find(backbone: Backbone, checkpoint: Path | None) -> tuple[Path | None, str]:
    """Find the file of weights and say where it is from; no file where none is needed."""
    if checkpoint is not None:
        path = file_of(checkpoint)
        return path, f"file {path}"
    if own := hub.held_file(backbone):
        return own, f"cache {own}"
    if backbone.weights.package:
        return _packaged(backbone), f"package {backbone.weights.package}"
    if backbone.weights.repo:
        path = _fetched(backbone)
        return path, f"hub {backbone.weights.repo}/{path.name}"
    if backbone.weights.needed:
        raise BenchError(f"there are no weights for {backbone.name}: {_cures(backbone)}.")
    return None, "as built: it takes no weights"


def _packaged(backbone: Backbone) -> Path:
    where = backbone.weights
    path = hub.packaged_file(where)
    if path is None or not path.is_file() or sha256_of(path) != where.sha256:
        raise BenchError(
            f"{where.file} of {where.package} is missing or damaged: install "
            f"{where.package.partition('.')[0]} again. Otherwise {_cures(backbone)}."
        )
    return path


def _fetched(backbone: Backbone) -> Path:
    weights = backbone.weights
    if backbone.license == "unknown" and not accepted.get() and hub.cached(weights) is None:
        pinned = f" --revision {weights.revision}" if weights.revision else ""
        raise BenchError(
            f"nobody here knows the licence of the weights of {backbone.name}: read "
            f"{hub.page(weights)}. Where you may use them, add `--accept-license`, or fetch them "
            f"with `hf download {weights.repo} {weights.file}{pinned}`. Otherwise "
            f"{_cures(backbone)}."
        )
    try:
        return hub.fetch(weights, backbone.license, gated=backbone.gated)
    except BenchError as error:
        raise BenchError(f"{backbone.name}: {error} Otherwise {_cures(backbone)}.") from None


def _cures(backbone: Backbone) -> str:
    trainer = f"make them with `{backbone.trainer}`; " if backbone.trainer else ""
    return (
        f"give weights as a file with `--checkpoint FILE`; {trainer}"
        "or run an untrained control with `--weights random`"
    )


def _hashed(path: Path) -> str:
    """Hash a file once in a process, as long as it stays as it is."""
    try:
        found = path.stat()
    except OSError:
        return sha256_of(path)
    return _hash_of(path, found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=64)
def _hash_of(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    return sha256_of(path)


def _load(backbone: Backbone, extractor: FeatureExtractor, path: Path) -> None:
    state: Mapping[str, torch.Tensor] = read_state(path)
    try:
        if backbone.convert is not None:
            state = backbone.convert(state, extractor)
        with kinds_are_kept(extractor):
            extractor.load(state)
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from error
    except Exception as error:  # a converter is a plug-in's code, met with a file of anyone's
        raise BenchError(
            f"{path} (sha256 {sha256_of(path)}) does not hold weights of {backbone.name}: "
            f"{_shortened(error).rstrip('.')}. Check --backbone and --checkpoint."
        ) from error


def _shortened(error: Exception, lines: int = 3, width: int = 200) -> str:
    """Keep the first complaints of `load_state_dict`, which may name a thousand keys."""
    told = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in told if not line.startswith("Error(s) in loading")] or told
    shown = [line if len(line) <= width else f"{line[:width]} ..." for line in told[:lines]]
    return f"{type(error).__name__}: {' | '.join(shown)}"
