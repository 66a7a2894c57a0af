"""Compute the feature maps of images, and cache those of a frozen extractor.

Cached maps are bfloat16, in memory and on disk. All maps of a frozen extractor are rounded to it,
so cached and newly computed features are bitwise equal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.api import Progress, Sample
from bench.errors import BenchError, RunFailed
from bench.features.cache import OWNER, SUFFIX, owner
from bench.features.forward import ExtractorRunner
from bench.features.numerics import numerics
from bench.features.out_of_memory import BatchSplit, map_patches
from bench.store.cache_dir import is_writable
from bench.store.files import write_bytes, write_errors

MEMORY_BYTES = 6 << 30  # maps beyond this limit are read from the disk at every use
MICRO_BATCH_PX = 4 * 512 * 512  # input pixels per forward pass of an extractor
TOGETHER = 16  # largest number of images per batch; smaller batches are padded to their full size
ROWS = 1024  # map positions per batch on a CPU, whose matrix products need some hundreds
WIDENED = 4  # largest ratio of the width inside a block to the width of its map
READERS = 2  # threads that read images
AHEAD = 4  # images read in advance, or waiting to be written
log = logging.getLogger(__name__)


class FeatureBank:
    """The feature maps of all patches that a run trains on or scores."""

    def __init__(
        self, runner: ExtractorRunner, samples: Sequence[Sample], cache: Path | None
    ) -> None:
        """Create a bank without maps.

        Args:
            runner: the extractor.
            samples: the images.
            cache: folder of this extractor's maps; None caches them only in memory. From a
                read-only folder maps are only read.
        """
        self.runner = runner
        self.samples = {sample.id: sample for sample in samples}
        self.cache = cache
        self.writes = cache is not None and is_writable(cache)
        self._maps: dict[str, list[Tensor]] = {}  # by image id: bfloat16 maps of its patches
        self._patches: dict[str, Tensor] = {}  # by image id, for an extractor that trains
        self._free_bytes = _cache_capacity(runner.device)
        self.images_computed = 0
        self.fits = BatchSplit()

    def prepare(self, ids: Sequence[str], progress: Progress) -> None:
        """Compute and cache the maps of images that are not cached, if the extractor is frozen.

        Other threads read the next images and write the previous maps during the computation.

        Raises:
            BenchError: the disk has too little space.
            RunFailed: the maps are not finite, or a single patch exceeds memory.
        """
        if not self.runner.frozen:
            return
        missing = [image_id for image_id in ids if not self._is_cached(image_id)]
        log.debug("maps of %d of %d images are cached", len(ids) - len(missing), len(ids))
        log.debug("others are computed on %s, for %s", self.runner.device, self.cache or "memory")
        self._check_disk_space(len(missing))
        done = len(ids) - len(missing)
        stage = "features"
        if missing:
            stage += f": about {self.estimated_bytes(len(missing)) / 2**30:.2f} GiB"
        with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as writer:
            writes: deque[Future[None]] = deque()
            images = _prefetch(readers, self._read, missing, max(AHEAD, self._batch_size))
            while batch := list(islice(images, self._batch_size)):
                progress(stage, done, len(ids))
                computed = self._compute([patches for _, patches in batch])
                for (image_id, _), maps in zip(batch, computed, strict=True):
                    if self.writes:
                        writes.append(writer.submit(self._write, image_id, maps))
                    self._store(image_id, maps)
                while len(writes) > AHEAD:  # pending writes hold their maps in memory
                    writes.popleft().result()
                done += len(batch)
            for write in writes:
                write.result()
        progress("features", len(ids), len(ids))

    def maps(self, patches: Sequence[tuple[str, int]]) -> list[Tensor]:
        """Return the maps of patches (image id, index): [(N, C_i, h_i, w_i), ...], float32."""
        if not self.runner.frozen:
            return self.runner(self.pixels(patches))
        maps_of_patches = [
            [level[i : i + 1] for level in self._maps_of(image_id)] for image_id, i in patches
        ]
        return [
            torch.cat([feature_map.to(self.runner.device) for feature_map in level]).float()
            for level in zip(*maps_of_patches, strict=True)
        ]

    def fresh(self, patches: Sequence[tuple[str, int]]) -> list[Tensor]:
        """Compute the maps of patches without the cache, rounded like cached maps."""
        maps = self.runner(self.pixels(patches))
        return [rounded(feature_map).float() for feature_map in maps]

    def pixels(self, patches: Sequence[tuple[str, int]]) -> Tensor:
        """Return the pixels of patches, (N, 3, S, S) in [0, 1]; images stay in memory."""
        for image_id, _ in patches:
            if image_id not in self._patches:
                self._patches[image_id] = self._read(image_id)
        return torch.stack([self._patches[image_id][i] for image_id, i in patches])

    def _read(self, image_id: str) -> Tensor:
        image, _ = self.samples[image_id].read()
        patches = self.runner.view.cut_image(image)  # (P, 3, S, S)
        return patches.pin_memory() if self.runner.device.type == "cuda" else patches

    def _is_cached(self, image_id: str) -> bool:
        """Return whether the maps of an image are in memory or in a valid file."""
        return image_id in self._maps or self._from_disk(image_id) is not None

    def _maps_of(self, image_id: str) -> list[Tensor]:
        if image_id in self._maps:
            return self._maps[image_id]
        maps = self._from_disk(image_id)
        if maps is None:
            (maps,) = self._compute([self._read(image_id)])
            if self.writes:
                self._write(image_id, maps)
        return self._store(image_id, maps)

    def _store(self, image_id: str, maps: list[Tensor]) -> list[Tensor]:
        """Store maps on the device if they fit, else in memory if they fit; return them."""
        size = sum(feature_map.nbytes for feature_map in maps)
        for device in self._free_bytes:
            is_last_resort = not self.writes and device.type == "cpu"
            if size <= self._free_bytes[device] or is_last_resort:
                self._free_bytes[device] -= size
                self._maps[image_id] = maps = [feature_map.to(device) for feature_map in maps]
                break
        return maps

    @torch.inference_mode()
    def _compute(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return the maps of the patches of each image, (P, 3, S, S), in bfloat16 on the CPU.

        A small batch is padded to its full size by repetition: a network may round differently with
        another batch size, and maps must not depend on the other images of a batch.
        """
        self.runner.load()  # not in `map_patches`, which would retry with smaller batches
        patches = torch.cat(list(images))
        count = len(patches)
        padded_count = max(count, self._batch_size)
        if padded_count > count:
            patches = patches[torch.arange(padded_count) % count]
        parts = map_patches(self.runner, patches, self._max_patches, self.fits)
        if not all(bool(torch.isfinite(level).all()) for maps in parts for level in maps):
            raise RunFailed(
                "the backbone returned maps that are not finite, so there is no score. Its weights "
                "are damaged, or need another --precision."
            )
        self.images_computed += len(images)
        sizes = [len(image) for image in images]
        levels = [
            rounded(torch.cat(level)[:count]).cpu().split(sizes)
            for level in zip(*parts, strict=True)
        ]
        return [list(maps) for maps in zip(*levels, strict=True)]

    @property
    def _batch_size(self) -> int:
        """The number of images per batch; 1 for tiles.

        A GPU is underused by single images. On a CPU the large maps of convolutional networks
        compete for the caches, while the few positions of a ViT leave it waiting for the weights.
        """
        if self.runner.view.kind != "whole":
            return 1
        if self.runner.device.type == "cuda":
            return min(TOGETHER, self._max_patches)
        positions = (self.runner.view.px // min(self.runner.extractor.strides)) ** 2
        return max(1, min(TOGETHER, ROWS // positions))

    @property
    def patches_at_once(self) -> int:
        """The number of patches per forward pass of the extractor."""
        is_whole = self.runner.view.kind == "whole"
        return min(self._max_patches, self._batch_size) if is_whole else self._max_patches

    @property
    def _max_patches(self) -> int:
        """The largest number of patches per forward pass; cuDNN indexes up to 2^31 - 1 elements."""
        extractor, side = self.runner.extractor, self.runner.view.px
        levels = zip(extractor.channels, extractor.strides, strict=False)
        largest = WIDENED * max((c * (side // stride) ** 2 for c, stride in levels), default=1)
        return max(1, min(MICRO_BATCH_PX // side**2, (2**31 - 1) // largest))

    def _write(self, image_id: str, maps: list[Tensor]) -> None:
        tensors = {str(level): maps[level].contiguous() for level in range(len(maps))}
        path = self._file(image_id)
        write_bytes(path, safetensors.torch.save(tensors, {OWNER: owner(path)}))

    def _from_disk(self, image_id: str) -> list[Tensor] | None:
        """Return memory-mapped maps, whose pages are read on use and can be evicted.

        None if the file is missing, damaged, or of another image or extractor.
        """
        if self.cache is None or not self._file(image_id).is_file():
            return None
        path = self._file(image_id)
        try:
            with safe_open(path, "pt") as file:  # reads only the header
                if (file.metadata() or {}).get(OWNER) != owner(path):
                    return None
                return [file.get_tensor(str(level)) for level in range(len(file.keys()))]
        except (SafetensorError, OSError):
            return None

    def _file(self, image_id: str) -> Path:
        assert self.cache is not None
        return self.cache / f"{self.samples[image_id].fingerprint}{SUFFIX}"

    def estimated_bytes(self, images: int) -> int:
        """Return the size of the maps of `images` images of one patch each."""
        extractor, side = self.runner.extractor, self.runner.view.px
        levels = zip(extractor.channels, extractor.strides, strict=False)
        return images * 2 * sum(c * (side // stride) ** 2 for c, stride in levels)

    def _check_disk_space(self, images: int) -> None:
        if self.cache is None or not self.writes:
            return
        with write_errors(self.cache):
            self.cache.mkdir(parents=True, exist_ok=True)
        needed, free = self.estimated_bytes(images), shutil.disk_usage(self.cache).free
        if needed > free:
            raise BenchError(
                f"the features of {images} images need about {needed / 2**30:.1f} GiB and "
                f"{self.cache} has {free / 2**30:.1f} GiB free. Use --no-cache, set BENCH_CACHE to "
                "a folder with more space, or free space with `bench cache clear`."
            )


def _cache_capacity(device: torch.device) -> dict[torch.device, int]:
    """Return the bytes of maps that each device may hold, fastest device first."""
    capacity = {torch.device("cpu"): MEMORY_BYTES}
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return {device: free // 3, **capacity}  # the rest is for the extractor and the training
    return capacity


def _prefetch(
    pool: ThreadPoolExecutor, read: Callable[[str], Tensor], ids: Sequence[str], count: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield ids and patches in order while the pool reads the next `count` images."""
    pending: deque[tuple[str, Future[Tensor]]] = deque()
    for image_id in ids:
        pending.append((image_id, pool.submit(read, image_id)))
        if len(pending) > count:
            first_id, patches = pending.popleft()
            yield first_id, patches.result()
    for first_id, patches in pending:
        yield first_id, patches.result()


def rounded(features: Tensor) -> Tensor:
    """Round to bfloat16, contiguous: the memory layout can change the last bits of results."""
    return features.to(torch.bfloat16).contiguous()


def cache_key(identity: object, runner: ExtractorRunner) -> str:
    """Return the name of the cache folder of an extractor, view, precision and numerics."""
    facts = {
        "extractor": identity,
        "view": [runner.view.kind, runner.view.px],
        "precision": runner.precision,
        **numerics(runner.device),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
