"""Data sets and backbones that the runs of one command share.

A data set is read once, and a frozen backbone is loaded once for consecutive runs.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from bench import registry
from bench.api import Backbone, Dataset, FeatureExtractor
from bench.api.run_config import RunConfig
from bench.data import find
from bench.errors import BenchError
from bench.models import load
from bench.models.options import split_source

Value = TypeVar("Value")
log = logging.getLogger(__name__)


class Session:
    """The data sets and backbones of the runs of one command."""

    def __init__(self, data_dir: Path | None = None) -> None:
        """Create a session without data sets and backbones.

        Args:
            data_dir: folder of the data sets.
        """
        self.data_dir = data_dir
        self._datasets: dict[str, find.DatasetHandle | BenchError] = {}
        self._shapes: dict[str, load.LoadedBackbone | BenchError] = {}
        self._backbones: dict[str, load.LoadedBackbone] = {}
        self._last: tuple[str, FeatureExtractor] | None = None

    def dataset(self, name: str) -> find.DatasetHandle:
        """Return a data set; its files are read once.

        Raises:
            BenchError: see `bench.data.find.find`.
        """
        return _computed_once(self._datasets, name, lambda: find.find(name, self.data_dir))

    def shape(self, config: RunConfig, dataset: Dataset) -> load.LoadedBackbone:
        """Return the backbone of a config on the meta device; no weights are found or downloaded.

        Raises:
            BenchError: its name or an option is wrong, or a library that it needs is missing.
        """

        def build() -> load.LoadedBackbone:
            with torch.device("meta"):
                return load_backbone(config, dataset)

        return _computed_once(self._shapes, _key(config, dataset), build)

    def backbone(self, config: RunConfig, dataset: Dataset) -> load.LoadedBackbone:
        """Return the backbone of a config on the meta device, with the identity of its weights.

        Raises:
            BenchError: see `bench.models.load.open_backbone`.
        """
        key = _key(config, dataset)
        if key not in self._backbones:
            self._backbones[key] = load.identify_backbone(
                config.backbone,
                checkpoint=config.checkpoint,
                random=config.random,
                options=_options(config, dataset),
                accept_license=config.accept_license,
            )
        return self._backbones[key]

    def extractor(self, config: RunConfig, dataset: Dataset) -> FeatureExtractor:
        """Return the extractor of a config with its weights.

        Consecutive runs share a frozen one; one that trains with its head, or at test time, is
        loaded for each run.

        Raises:
            BenchError: see `bench.models.load.open_backbone`; or the weights have changed since
                `backbone` identified them.
        """
        key = _key(config, dataset)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        self._last = None  # freed before the next is loaded: both may not fit into memory
        opened = load_backbone(config, dataset)
        resolved = self.backbone(config, dataset)
        level = logging.DEBUG if opened.source == resolved.source else logging.INFO
        log.log(level, "%s: %s, %s", config.backbone, opened.source, opened.identity)
        if opened.identity != resolved.identity:
            raise BenchError(
                f"the weights of {config.backbone} have changed during this command "
                f"({opened.source}). Run the same command again."
            )
        extractor = opened.extractor
        if config.adaptation is None and not any(p.requires_grad for p in extractor.parameters()):
            self._last = key, extractor
        return extractor


def load_backbone(
    config: RunConfig, dataset: Dataset, seed: int | None = None
) -> load.LoadedBackbone:
    """Open the backbone of a config for the images of a data set.

    Args:
        seed: of the initial weights; None takes that of the backbone's name, or 0.
    """
    return load.open_backbone(
        config.backbone,
        checkpoint=config.checkpoint,
        random=config.random,
        options=_options(config, dataset),
        seed=seed,
        accept_license=config.accept_license,
    )


def refuse_missing_weights(config: RunConfig) -> None:
    """Raise a BenchError if the source of the weights is invalid, or a file that does not exist."""
    _, checkpoint, _ = split_source(config.backbone, config.checkpoint, config.random)
    if checkpoint is not None:
        load.file_of(checkpoint)


def _computed_once(
    memo: dict[str, Value | BenchError], key: str, compute: Callable[[], Value]
) -> Value:
    """Return the value of a key, or raise its error; both are computed once."""
    if key not in memo:
        try:
            memo[key] = compute()
        except BenchError as error:
            memo[key] = error
    value = memo[key]
    if isinstance(value, BenchError):
        raise value
    return value


def _key(config: RunConfig, dataset: Dataset) -> str:
    """Return a key of everything that a backbone is opened with."""
    source = [config.backbone, config.checkpoint, config.random, config.accept_license]
    return repr([*source, config.adaptation, sorted(_options(config, dataset).items())])


def _options(config: RunConfig, dataset: Dataset) -> Mapping[str, str]:
    """Return the options of the backbone, with `input_px` if it is built for one input size."""
    backbone: Backbone = registry.get("backbones", config.backbone.partition("@")[0])
    if "input_px" in config.backbone_options:
        raise BenchError("the side of the input is no option of a backbone: use --input-px.")
    if "input_px" not in inspect.signature(backbone.build).parameters:
        return config.backbone_options
    side = config.input_px or backbone.input_px or dataset.input_px[0]
    return {**config.backbone_options, "input_px": str(side)}
