"""Run an extractor over the patches of images; keep the maps of a frozen one.

Maps are kept in bfloat16, in memory and on disk, and a frozen extractor's maps pass through that
rounding whether they come from the cache or not: cached and fresh features are equal to the bit.
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
from bench.cache import DIGEST, SUFFIX, digest, is_of
from bench.cache_place import is_writable
from bench.context import numerics
from bench.errors import BenchError, RunFailed
from bench.parts import Fits, map_patches
from bench.runner import Runner
from bench.store import changing, write_bytes

MEMORY_BYTES = 6 << 30  # maps beyond this are read from the cache again at every use
MICRO_BATCH_PX = 4 * 512 * 512  # input pixels that go through an extractor at once
TOGETHER = 16  # images that go through at once, at most: fewer are filled up to as many
ROWS = 1024  # places of maps that a CPU takes at once: its products of matrices want some hundreds
WIDENED = 4  # a block may be so many times as wide inside as its map
READERS = 2  # threads that read images
AHEAD = 4  # images that are read before their turn, or wait to be written
log = logging.getLogger(__name__)


class FeatureBank:
    """The maps of every patch that a run trains on or scores."""

    def __init__(self, runner: Runner, samples: Sequence[Sample], cache: Path | None) -> None:
        """Take the folder of this extractor's maps; None keeps them in memory alone.

        From a folder that cannot be written to, maps are read.
        """
        self.runner = runner
        self.samples = {sample.id: sample for sample in samples}
        self.cache = cache
        self.writes = cache is not None and is_writable(cache)
        self._kept: dict[str, list[Tensor]] = {}  # by image: bfloat16 maps of its patches
        self._patches: dict[str, Tensor] = {}  # by image, for an extractor that trains
        self._room = _room(runner.device)  # bytes of maps that may be kept, by place
        self.images_computed = 0
        self.fits = Fits()

    def keeps(self, ids: Sequence[str]) -> bool:
        """Tell whether the maps of all these images are kept."""
        return all(self._is_here(image_id) for image_id in ids)

    def prepare(self, ids: Sequence[str], progress: Progress) -> None:
        """Compute, or find in the cache, the maps of these images; nothing for one that trains.

        The next images are read, and the last ones written, while one is computed.
        """
        if not self.runner.frozen:
            return
        missing = [image_id for image_id in ids if not self._is_here(image_id)]
        log.debug("maps of %d of %d images are kept", len(ids) - len(missing), len(ids))
        log.debug("others are computed on %s, for %s", self.runner.device, self.cache or "memory")
        self._refuse_a_full_disk(len(missing))
        done = len(ids) - len(missing)
        stage = (
            f"features: about {self._bytes(len(missing)) / 2**30:.2f} GiB"
            if missing
            else "features"
        )
        with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as writer:
            written: deque[Future[None]] = deque()
            read = _ahead(readers, self._read, missing, max(AHEAD, self._together))
            while group := list(islice(read, self._together)):
                progress(stage, done, len(ids))
                computed = self._compute([patches for _, patches in group])
                for (image_id, _), maps in zip(group, computed, strict=True):
                    if self.writes:
                        written.append(writer.submit(self._write, image_id, maps))
                    self._keep(image_id, maps)
                while len(written) > AHEAD:  # what waits to be written takes memory
                    written.popleft().result()
                done += len(group)
            for each in written:
                each.result()
        progress("features", len(ids), len(ids))

    def maps(self, patches: Sequence[tuple[str, int]]) -> list[Tensor]:
        """Give the maps of patches, named by image and number: [(N, C_i, h_i, w_i), ...]."""
        if self.runner.frozen:
            each = [[m[p : p + 1] for m in self._maps_of(image_id)] for image_id, p in patches]
            levels = zip(*each, strict=True)
            device = self.runner.device
            return [torch.cat([own.to(device) for own in level]).float() for level in levels]
        return self.runner(self.pixels(patches))

    def fresh(self, patches: Sequence[tuple[str, int]]) -> list[Tensor]:
        """Compute the maps of patches anew, rounded as kept ones are."""
        return [rounded(each).float() for each in self.runner(self.pixels(patches))]

    def pixels(self, patches: Sequence[tuple[str, int]]) -> Tensor:
        """Give the patches themselves, (N, 3, S, S) in [0, 1]; they are kept for the next time."""
        return torch.stack([self._patches_of(image_id)[p] for image_id, p in patches])

    def _patches_of(self, image_id: str) -> Tensor:
        if image_id not in self._patches:
            self._patches[image_id] = self._read(image_id)
        return self._patches[image_id]

    def _read(self, image_id: str) -> Tensor:
        image, _ = self.samples[image_id].read()
        patches = self.runner.view.cut_image(image)  # (P, 3, S, S)
        return patches.pin_memory() if self.runner.device.type == "cuda" else patches

    def _is_here(self, image_id: str) -> bool:
        """Tell whether the maps of an image are kept; a damaged file is as none."""
        return image_id in self._kept or self._from_cache(image_id) is not None

    def _maps_of(self, image_id: str) -> list[Tensor]:
        if image_id in self._kept:
            return self._kept[image_id]
        maps = self._from_cache(image_id)
        if maps is None:
            (maps,) = self._compute([self._read(image_id)])
            if self.writes:
                self._write(image_id, maps)
        return self._keep(image_id, maps)

    def _keep(self, image_id: str, maps: list[Tensor]) -> list[Tensor]:
        """Keep maps on the device where there is room, else in memory, else on the disk alone."""
        size = sum(each.nbytes for each in maps)
        for place in self._room:
            if size <= self._room[place] or (not self.writes and place.type == "cpu"):
                self._room[place] -= size
                self._kept[image_id] = maps = [each.to(place) for each in maps]
                break
        return maps

    @torch.inference_mode()
    def _compute(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        """Map the patches of each image, (P, 3, S, S), to bfloat16 maps in memory.

        Fewer images than go through together are filled up by their own repetition: a network may
        round otherwise in a batch of another size, and maps must not depend on what else is asked.
        """
        patches = torch.cat(list(images))
        count = len(patches)
        filled = max(count, self._together)
        patches = patches if filled == count else patches[torch.arange(filled) % count]
        parts = map_patches(self.runner, patches, self._at_once, self.fits)
        _refuse_no_numbers(parts)
        self.images_computed += len(images)
        sizes = [len(each) for each in images]
        levels = [
            rounded(torch.cat(level)[:count]).cpu().split(sizes)
            for level in zip(*parts, strict=True)
        ]
        return [list(own) for own in zip(*levels, strict=True)]

    @property
    def _together(self) -> int:
        """Say how many images of one patch go through together, filled up where there are fewer.

        A GPU has cores to spare. On a CPU maps as large as those of a convolutional network only
        get in each other's way, and the few places of a ViT's leave it waiting for the weights.
        """
        if self.runner.view.kind != "whole":
            return 1
        if self.runner.device.type == "cuda":
            return min(TOGETHER, self._at_once)
        places = (self.runner.view.px // min(self.runner.extractor.strides)) ** 2
        return max(1, min(TOGETHER, ROWS // places))

    @property
    def _at_once(self) -> int:
        """Say how many patches go through at once: cuDNN numbers at most 2^31 - 1 elements."""
        extractor, side = self.runner.extractor, self.runner.view.px
        levels = zip(extractor.channels, extractor.strides, strict=False)
        largest = WIDENED * max((c * (side // stride) ** 2 for c, stride in levels), default=1)
        return max(1, min(MICRO_BATCH_PX // side**2, (2**31 - 1) // largest))

    def _write(self, image_id: str, maps: list[Tensor]) -> None:
        named = {str(level): each.contiguous() for level, each in enumerate(maps)}
        path = self._file(image_id)
        line = digest(path, (each.view(torch.uint8).numpy().data for each in named.values()))
        write_bytes(path, safetensors.torch.save(named, {DIGEST: line}))

    def _from_cache(self, image_id: str) -> list[Tensor] | None:
        """Map a file into memory: its pages are read when they are used, and may be dropped.

        A damaged one, or one of another image or extractor, is as none: it is made again.
        """
        if self.cache is None or not self._file(image_id).is_file():
            return None
        path = self._file(image_id)
        try:
            with safe_open(path, "pt") as file:  # reads the header alone
                if not is_of(path, (file.metadata() or {}).get(DIGEST, "")):
                    return None
                return [file.get_tensor(str(level)) for level in range(len(file.keys()))]
        except (SafetensorError, OSError):
            return None

    def _file(self, image_id: str) -> Path:
        assert self.cache is not None
        return self.cache / f"{self.samples[image_id].fingerprint}{SUFFIX}"

    def _bytes(self, images: int) -> int:
        """Estimate what the maps of so many images take, of one patch each."""
        extractor, side = self.runner.extractor, self.runner.view.px
        levels = zip(extractor.channels, extractor.strides, strict=False)
        return images * 2 * sum(c * (side // stride) ** 2 for c, stride in levels)

    def _refuse_a_full_disk(self, images: int) -> None:
        if self.cache is None or not self.writes:
            return
        with changing(self.cache):
            self.cache.mkdir(parents=True, exist_ok=True)
        needed, free = self._bytes(images), shutil.disk_usage(self.cache).free
        if needed > free:
            raise BenchError(
                f"the features of {images} images need about {needed / 2**30:.1f} GiB and "
                f"{self.cache} has {free / 2**30:.1f} GiB free. Use --no-cache, or set BENCH_CACHE "
                "to a folder with more room; `bench cache clear` makes some."
            )


def _room(device: torch.device) -> dict[torch.device, int]:
    """Say how many bytes of maps may be kept where, the fastest place first."""
    room = {torch.device("cpu"): MEMORY_BYTES}
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return {device: free // 3, **room}  # the rest is for the extractor and the training
    return room


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[str], Tensor], ids: Sequence[str], count: int
) -> Iterator[tuple[str, Tensor]]:
    """Give what is read of each, in order, with the next `count` read meanwhile."""
    under_way: deque[tuple[str, Future[Tensor]]] = deque()
    for image_id in ids:
        under_way.append((image_id, pool.submit(read, image_id)))
        if len(under_way) > count:
            done, patches = under_way.popleft()
            yield done, patches.result()
    for done, patches in under_way:
        yield done, patches.result()


def _refuse_no_numbers(parts: Sequence[Sequence[Tensor]]) -> None:
    if not all(bool(torch.isfinite(each).all()) for maps in parts for each in maps):
        raise RunFailed(
            "the backbone gave maps that are not finite; no score was made. Its weights are "
            "damaged, or do not bear this --precision."
        )


def rounded(features: Tensor) -> Tensor:
    """Give features as they are kept: bfloat16, and in one layout, which decides on last bits."""
    return features.to(torch.bfloat16).contiguous()


def cache_key(identity: object, runner: Runner) -> str:
    """Name the cache folder of an extractor (by its identity), view, precision and numerics."""
    facts = {
        "extractor": identity,
        "view": [runner.view.kind, runner.view.px],
        "precision": runner.precision,
        **numerics(runner.device),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
