"""Check that a plug-in keeps its promises: for our own tests, and for anyone who writes one.

Each check gives a list of problems, empty where there is none; each problem says what was promised
and what was got. Everything runs on the CPU.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bench import api, registry
from bench.api.nn import FeatureExtractor, Head
from bench.data.leakage import Member, leaks
from bench.data.manifest import name_problem
from bench.errors import BenchError

Size = tuple[int, int]
TOLERANCE = 1e-4  # of the largest value: float32 sums in another order
PYRAMIDS = (  # channels and strides of the maps that a head is tried on
    ((8,), (16,)),
    ((8,), (14,)),
    ((3,), (1,)),
    ((2,), (1,)),  # what a backbone with masks of its own gives: two classes
    ((4, 5, 6, 7), (4, 8, 16, 32)),
    ((4, 4, 5, 5, 6, 6), (1, 2, 4, 4, 8, 16)),
)


def check_backbone(
    backbone: str | api.Backbone | FeatureExtractor, *, sizes: Sequence[Size] = ()
) -> list[str]:
    """Check an extractor, or a backbone with random weights, and leave it in evaluation mode.

    Args:
        backbone: a registered name, a record, or an extractor that is built already.
        sizes: heights and widths of the inputs to try, in pixels; by default three, one of them
            square, which the strides divide by an even and by an odd number.
    """
    if isinstance(backbone, FeatureExtractor):
        return _problems_of_extractor(backbone, sizes)
    record = registry.get("backbones", backbone) if isinstance(backbone, str) else backbone
    try:
        extractor = record.build()
    except Exception as error:
        return [f"build() failed: {_told(error)}"]
    if not isinstance(extractor, FeatureExtractor):
        return [f"build() promised a FeatureExtractor and gave a {type(extractor).__name__}"]
    problems = _gather(_is_counted_on_meta, record, extractor)
    return problems + _problems_of_extractor(extractor, sizes)


def _problems_of_extractor(extractor: FeatureExtractor, sizes: Sequence[Size]) -> list[str]:
    if problems := _gather(_describes_itself, extractor):
        return problems  # without channels and strides there is nothing to hold it to
    extractor.eval()
    sizes = sizes or _sizes(extractor.strides)
    checks = (_gives_the_maps, _sees_images_one_by_one, _survives_flat_images, _embeds, _trains)
    problems = [problem for check in checks for problem in _gather(check, extractor, sizes)]
    return problems + _gather(_stays_as_it_is, extractor, sizes)


def _describes_itself(extractor: FeatureExtractor) -> Iterator[str]:
    channels = getattr(extractor, "channels", ())
    strides = getattr(extractor, "strides", ())
    for name, values in (("channels", channels), ("strides", strides)):
        if not values or not all(isinstance(each, int) and each > 0 for each in values):
            yield f"{name} should be whole numbers above 0, one a map, and is {values!r}"
    if len(channels) != len(strides):
        yield f"there are {len(channels)} channels and {len(strides)} strides: both are one a map"
    if list(strides) != sorted(strides):
        yield f"maps come finest first, so strides never fall, and they are {tuple(strides)}"
    for name in ("mean", "std"):
        values = getattr(extractor, name, ())
        if len(values) != 3 or not np.isfinite(values).all():
            yield f"{name} should be three numbers, of R, G and B in [0, 1], and is {values!r}"
        elif name == "std" and min(values) <= 0:
            yield f"std should be above 0 and is {values!r}"


def _is_counted_on_meta(record: api.Backbone, extractor: FeatureExtractor) -> Iterator[str]:
    with torch.device("meta"):
        described = record.build()
    here, there = _count(extractor), _count(described)
    if here != there:
        yield f"build() has {here:,} parameters on the CPU and {there:,} on the meta device"
    elsewhere = {str(each.device) for each in described.parameters()} - {"meta"}
    if elsewhere:
        yield f"built on the meta device, parameters lie on {', '.join(sorted(elsewhere))}"


def _gives_the_maps(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    for size in sizes:
        images = _noise(2, 3, *size)
        before = images.clone()
        maps, again = _run(extractor, images), _run(extractor, images)
        where = f"for images of {size[0]} x {size[1]} px"
        if not torch.equal(images, before):
            yield f"{where}: forward changed its input"
        if not isinstance(maps, list) or len(maps) != len(extractor.channels):
            yield f"{where}: promised a list of {len(extractor.channels)} maps, got {_shape(maps)}"
            continue
        for i, (got, repeated) in enumerate(zip(maps, again, strict=True)):
            stride = extractor.strides[i]
            wanted = (2, extractor.channels[i], size[0] // stride, size[1] // stride)
            if tuple(got.shape) != wanted:
                yield f"{where}: map {i} was promised as {wanted} and is {tuple(got.shape)}"
            elif not (got.is_floating_point() and got.isfinite().all()):
                yield f"{where}: map {i} holds NaN or infinity, or whole numbers"
            elif not _near(got, repeated):
                yield f"{where}: map {i} differs between two runs by {_gap(got, repeated):.2g}"


def _sees_images_one_by_one(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    images = _noise(3, 3, *sizes[0])
    together = _run(extractor, images)
    for n in range(len(images)):
        for i, alone in enumerate(_run(extractor, images[n : n + 1])):
            if not _near(alone[0], together[i][n]):
                gap = _gap(alone[0], together[i][n])
                yield f"image {n} alone and in a batch: map {i} differs by {gap:.2g}"


def _survives_flat_images(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    for level in (0.0, 0.5, 1.0):
        for i, got in enumerate(_run(extractor, torch.full((1, 3, *sizes[0]), level))):
            if not got.isfinite().all():
                yield f"map {i} of an image that is {level} all over holds NaN or infinity"


def _embeds(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    with torch.no_grad():
        embedding = extractor.embed(_noise(2, 3, *sizes[0]))
    if embedding.ndim != 2 or len(embedding) != 2 or not embedding.isfinite().all():
        yield f"embed() promised finite (2, D) and gave {_shape(embedding)}"


def _trains(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    trains = any(weight.requires_grad for weight in extractor.parameters())
    carries = any(got.requires_grad for got in extractor(_noise(1, 3, *sizes[0])))
    if trains and not carries:
        yield "some weights have requires_grad, but no map carries a gradient back to them"
    if carries and not trains:
        yield "no weight has requires_grad, but the maps carry a gradient"


def _stays_as_it_is(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    before = _hash(extractor)
    _run(extractor, _noise(2, 3, *sizes[-1]))
    if _hash(extractor) != before:
        yield "forward in evaluation mode changed the weights or buffers"


def _sizes(strides: Iterable[int]) -> list[Size]:
    unit = math.lcm(*strides)
    unit *= math.ceil(16 / unit)
    return [(4 * unit, 4 * unit), (2 * unit, 4 * unit), (5 * unit, 3 * unit)]


def check_head(head: str | api.HeadPlugin) -> list[str]:
    """Check a head on one map and on several, at sizes that fit the maps and that do not.

    A head may refuse maps that it is not made for, with a `BenchError`, but not all of them.
    """
    record = registry.get("heads", head) if isinstance(head, str) else head
    refusals = {maps: _refusal(record, *maps) for maps in PYRAMIDS}
    if all(refusals.values()):
        return [f"it refuses all maps that it was tried on: {refusals[PYRAMIDS[-1]]}"]
    return [
        f"on maps of strides {strides}: {problem}"
        for (channels, strides), refusal in refusals.items()
        if not refusal
        for problem in _gather(_segments, record, channels, strides)
    ]


def _refusal(record: api.HeadPlugin, channels: Sequence[int], strides: Sequence[int]) -> str:
    try:
        record.build(channels, strides, 2)
    except BenchError as error:
        return str(error)
    except Exception:  # a failure, which building it again under `_gather` tells of
        return ""
    return ""


def _segments(
    record: api.HeadPlugin, channels: Sequence[int], strides: Sequence[int]
) -> Iterator[str]:
    head = record.build(channels, strides, 2)
    if not isinstance(head, Head):
        yield f"build() promised a Head and gave a {type(head).__name__}"
        return
    height, width = (side // 2 for side in _sizes(strides)[1])
    shapes = [(2, c, height // s, width // s) for c, s in zip(channels, strides, strict=True)]
    maps = [_noise(*shape) for shape in shapes]
    head.observe([maps])
    for size in ((height, width), (height + 5, width - 3)):
        logits = head(maps, size=size)
        if tuple(logits.shape) != (2, 2, *size):
            yield f"logits were promised as {(2, 2, *size)} and are {tuple(logits.shape)}"
            return
    yield from _learns(head, maps, (height, width))
    yield from _judges_images_one_by_one(head.eval(), maps, (height, width))


def _learns(head: Head, maps: Sequence[Tensor], size: Size) -> Iterator[str]:
    target = (_noise(*size) > 0.5).long().expand(len(maps[0]), -1, -1)
    loss = head.training_loss(maps, target)
    if loss.ndim or not loss.isfinite():
        yield f"training_loss() promised one finite number and gave {_shape(loss)}"
        return
    if any(weight.requires_grad for weight in head.parameters()):
        loss.backward()
    for name, weight in head.named_parameters():
        if weight.requires_grad and (weight.grad is None or not weight.grad.isfinite().all()):
            yield f"the weight {name} gets no finite gradient"
    classes = head.decode(head(maps, size=size).detach())
    if classes.shape != target.shape or classes.dtype != torch.int64:
        yield f"decode() promised int64 {tuple(target.shape)} and gave {_shape(classes)}"


def _judges_images_one_by_one(head: Head, maps: Sequence[Tensor], size: Size) -> Iterator[str]:
    before = _hash(head)
    with torch.no_grad():
        together, again = head(maps, size=size), head(maps, size=size)
        alone = head([each[:1] for each in maps], size=size)
    if _hash(head) != before:
        yield "forward in evaluation mode changed the weights or buffers"
    if not _near(together, again):
        yield f"logits differ between two runs by {_gap(together, again):.2g}"
    if not _near(alone, together[:1]):
        yield f"an image alone and in a batch: logits differ by {_gap(alone, together[:1]):.2g}"


def check_dataset(
    dataset: str | api.Dataset | Sequence[api.Sample], *, reads: int = 8
) -> list[str]:
    """Check a data set.

    Args:
        dataset: a name or a record, for a built-in set; or the samples of any set.
        reads: how many images to read, spread evenly over the set.
    """
    record = registry.get("datasets", dataset) if isinstance(dataset, str) else dataset
    if not isinstance(record, api.Dataset):
        samples: Sequence[api.Sample] = record
    elif record.generate is None:
        return [f"{record.name} is read from a folder: give the samples that were read from it"]
    else:
        samples = record.generate()
    problems = _gather(_are_told_apart, samples)
    step = max(1, len(samples) // reads)
    return problems + [p for sample in samples[::step] for p in _gather(_reads, sample)]


def _are_told_apart(samples: Sequence[api.Sample]) -> Iterator[str]:
    ids = [sample.id for sample in samples]
    for repeated in sorted({each for each in ids if ids.count(each) > 1}):
        yield f"{ids.count(repeated)} images have the id {repeated!r}: ids are unique"
    for sample in samples:
        for column in ("id", "patient", "organ"):
            if reason := name_problem(column, getattr(sample, column)):
                yield reason
    splits = {sample.split for sample in samples}
    if strange := sorted(splits - {"train", "val", "test"}):
        yield f"a split is train, val or test; there is {', '.join(map(repr, strange))}"
    for needed in sorted({"train", "test"} - splits):
        yield f"there is no image in the split {needed!r}"
    yield from leaks(Member(s.id, s.patient, s.split, s.fingerprint) for s in samples)


def _reads(sample: api.Sample) -> Iterator[str]:
    image, instances = sample.read()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        yield f"{sample.id}: the image should be (H, W, 3) uint8 and is {_shape(image)}"
    if instances.dtype != np.int32 or instances.shape != image.shape[:2]:
        wanted = f"int32 {image.shape[:2]}"
        yield f"{sample.id}: instances should be {wanted} and are {_shape(instances)}"
    if instances.size and instances.min() < 0:
        yield f"{sample.id}: instances are numbered from 0, and {instances.min()} is there"
    if sample.mpp is not None and not 0.05 < sample.mpp < 20:
        yield f"{sample.id}: mpp is micrometres per pixel, and is {sample.mpp}"
    if len(sample.fingerprint) != 64 or not set(sample.fingerprint) <= set("0123456789abcdef"):
        yield f"{sample.id}: a fingerprint is a sha256 in hex; it is {sample.fingerprint!r}"
    again = sample.read()
    if not all(np.array_equal(*pair) for pair in zip((image, instances), again, strict=True)):
        yield f"{sample.id}: read twice, it is not the same"


def _gather(check: Callable[..., Iterator[str]], *given: object) -> list[str]:
    """Collect what a check finds; an error that the plug-in raises is a problem too."""
    problems: list[str] = []
    try:
        problems.extend(check(*given))
    except Exception as error:
        what = check.__name__.strip("_").replace("_", " ")
        problems.append(f"failed while checking that it {what}: {_told(error)}")
    return problems


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@torch.no_grad()
def _run(extractor: FeatureExtractor, images: Tensor) -> list[Tensor]:
    return extractor(images)


def _noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _near(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and _gap(one, other) <= TOLERANCE * float(other.abs().max())


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(module.state_dict().items()):
        digest.update(name.encode() + values.detach().double().numpy().tobytes())
    return digest.hexdigest()


def _shape(thing: object) -> str:
    if isinstance(thing, Tensor | np.ndarray):
        return f"{thing.dtype} {tuple(thing.shape)}"
    if isinstance(thing, list | tuple):
        return f"a {type(thing).__name__} of {len(thing)}"
    return f"a {type(thing).__name__}"
