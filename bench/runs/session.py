"""Data sets and backbones shared by the runs of one command.

A data set is read once, and a frozen backbone is loaded once for consecutive runs.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from bench import registry
from bench.api import Backbone, Dataset
from bench.data import find
from bench.errors import BenchError
from bench.models import load

if TYPE_CHECKING:
    from bench.api.config import RunConfig

Found = TypeVar("Found")
log = logging.getLogger(__name__)


class Session:
    """The data sets and the last backbone of the runs of one command."""

    def __init__(self, data_dir: Path | None) -> None:
        """Take the folder that holds the data sets."""
        self.data_dir = data_dir
        self._datasets: dict[str, find.DataHandle | BenchError] = {}
        self._shapes: dict[str, load.LoadedBackbone | BenchError] = {}
        self._outlines: dict[str, load.LoadedBackbone] = {}
        self._last: tuple[str, load.LoadedBackbone] | None = None

    def dataset(self, name: str) -> find.DataHandle:
        """Find a data set; its files are read the first time.

        Raises:
            BenchError: see `bench.data.find.find`.
        """
        if name not in self._datasets:
            try:
                found = self._datasets[name] = find.find(name, self.data_dir)
                log.debug("%s: %d images, %s", name, len(found.samples), found.root or "built in")
            except BenchError as error:
                self._datasets[name] = error
        return _given(self._datasets[name])

    def backbone(self, request: RunConfig, dataset: Dataset) -> load.LoadedBackbone:
        """Open the backbone of a request, or give the one that is open already.

        One that trains with its head, or at test time, is opened anew for each run.

        Raises:
            BenchError: see `bench.models.load.open_backbone`.
        """
        key = _key(request, dataset)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        self._last = None  # before the next is loaded: two may not fit into memory
        opened = opened_backbone(request, dataset)
        log.debug("%s: %s, %s", request.backbone, opened.source, opened.identity)
        if request.adaptation is None and not any(
            p.requires_grad for p in opened.extractor.parameters()
        ):
            self._last = key, opened
        return opened

    def outline(self, request: RunConfig, dataset: Dataset) -> load.LoadedBackbone:
        """Open the backbone on the meta device, with its identity.

        Raises:
            BenchError: see `bench.models.load.open_backbone`.
        """
        key = _key(request, dataset)
        if key not in self._outlines:
            with load.outlined():
                self._outlines[key] = opened_backbone(request, dataset)
        return self._outlines[key]

    def shape(self, request: RunConfig, dataset: Dataset) -> load.LoadedBackbone:
        """Open the backbone of a request on the meta device: nothing is read or downloaded.

        Raises:
            BenchError: its name or an option is wrong, or a library that it needs is missing.
        """
        key = _key(request, dataset)
        if key not in self._shapes:
            try:
                with torch.device("meta"):
                    self._shapes[key] = opened_backbone(request, dataset)
            except BenchError as error:
                self._shapes[key] = error
        return _given(self._shapes[key])


def opened_backbone(request: RunConfig, dataset: Dataset, seed: int = 0) -> load.LoadedBackbone:
    """Open the backbone of a request for the images of a data set."""
    return load.open_backbone(
        request.backbone,
        checkpoint=request.checkpoint,
        random=request.random,
        options=_options(request, dataset),
        seed=seed,
        accept_license=request.accept_license,
    )


def refuse_missing_weights(request: RunConfig) -> None:
    """Raise a BenchError where a file of weights is named and is not there."""
    _, _, source = request.backbone.partition("@")
    named = [Path(source)] if source not in ("", "random") else []
    for checkpoint in filter(None, [*named, request.checkpoint]):
        load.file_of(checkpoint)


def _given(found: Found | BenchError) -> Found:
    if isinstance(found, BenchError):
        raise found
    return found


def _key(request: RunConfig, dataset: Dataset) -> str:
    """Name all that a backbone is opened by."""
    source = [request.backbone, request.checkpoint, request.random, request.accept_license]
    return repr([*source, request.adaptation, sorted(_options(request, dataset).items())])


def _options(request: RunConfig, dataset: Dataset) -> Mapping[str, str]:
    """Add the side of the input for a backbone that is built for one."""
    backbone: Backbone = registry.get("backbones", request.backbone.partition("@")[0])
    if "input_px" in request.backbone_options:
        raise BenchError("the side of the input is no option of a backbone: use --input-px.")
    if "input_px" not in inspect.signature(backbone.build).parameters:
        return request.backbone_options
    side = request.input_px or backbone.input_px or dataset.input_px[0]
    return {**request.backbone_options, "input_px": str(side)}
