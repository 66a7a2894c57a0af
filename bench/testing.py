"""Check that backbones, heads and data sets satisfy the plug-in interface, on the CPU.

Each check returns a list of problems, empty without problems; a problem states the expected and the
actual value.
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
TOLERANCE = 1e-4  # as a share of the largest value: float32 sums depend on their order
PYRAMIDS = (  # channels and strides of the maps on which heads are checked
    ((8,), (16,)),
    ((8,), (14,)),
    ((3,), (1,)),
    ((2,), (1,)),  # the logits of a zero-shot backbone
    ((4, 5, 6, 7), (4, 8, 16, 32)),
    ((4, 4, 5, 5, 6, 6), (1, 2, 4, 4, 8, 16)),
)


def check_backbone(
    backbone: str | api.Backbone | FeatureExtractor, *, sizes: Sequence[Size] = ()
) -> list[str]:
    """Check a backbone with random weights, or an extractor, which is left in evaluation mode.

    Args:
        backbone: a registered name, a plug-in record, or an extractor.
        sizes: heights and widths of the inputs in pixels; by default three sizes, one square, whose
            quotients by the strides include even and odd numbers.
    """
    if isinstance(backbone, FeatureExtractor):
        return _extractor_problems(backbone, sizes)
    record = registry.get("backbones", backbone) if isinstance(backbone, str) else backbone
    try:
        extractor = record.build()
    except Exception as error:
        return [f"build() failed: {_error_text(error)}"]
    if not isinstance(extractor, FeatureExtractor):
        return [f"build() should return a FeatureExtractor, not {type(extractor).__name__}"]
    problems = _gather(_meta_device, record, extractor)
    return problems + _extractor_problems(extractor, sizes)


def _extractor_problems(extractor: FeatureExtractor, sizes: Sequence[Size]) -> list[str]:
    if problems := _gather(_declaration, extractor):
        return problems  # the other checks need channels and strides
    extractor.eval()
    sizes = sizes or _sizes(extractor.strides)
    checks = (_feature_maps, _independence_of_images, _flat_images, _embedding, _gradients)
    problems = [problem for check in checks for problem in _gather(check, extractor, sizes)]
    return problems + _gather(_state, extractor, sizes)


def _declaration(extractor: FeatureExtractor) -> Iterator[str]:
    channels = getattr(extractor, "channels", ())
    strides = getattr(extractor, "strides", ())
    for name, values in (("channels", channels), ("strides", strides)):
        if not values or not all(isinstance(value, int) and value > 0 for value in values):
            yield f"{name} should be positive integers, one per map, but is {values!r}"
    if len(channels) != len(strides):
        yield f"channels has {len(channels)} values and strides {len(strides)}: one per map each"
    if list(strides) != sorted(strides):
        yield f"strides should ascend (finest map first), but are {tuple(strides)}"
    for name in ("mean", "std"):
        values = getattr(extractor, name, ())
        if len(values) != 3 or not np.isfinite(values).all():
            yield f"{name} should be three numbers, for R, G and B in [0, 1], but is {values!r}"
        elif name == "std" and min(values) <= 0:
            yield f"std should be positive, but is {values!r}"


def _meta_device(record: api.Backbone, extractor: FeatureExtractor) -> Iterator[str]:
    with torch.device("meta"):
        on_meta = record.build()
    n_cpu, n_meta = _count(extractor), _count(on_meta)
    if n_cpu != n_meta:
        yield f"build() has {n_cpu:,} parameters on the CPU, but {n_meta:,} on the meta device"
    devices = {str(parameter.device) for parameter in on_meta.parameters()} - {"meta"}
    if devices:
        yield f"built on the meta device, it has parameters on {', '.join(sorted(devices))}"


def _feature_maps(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    for size in sizes:
        images = _noise(2, 3, *size)
        before = images.clone()
        maps, again = _run(extractor, images), _run(extractor, images)
        prefix = f"images of {size[0]} x {size[1]} px"
        if not torch.equal(images, before):
            yield f"{prefix}: forward changed its input"
        if not isinstance(maps, list) or len(maps) != len(extractor.channels):
            count = len(extractor.channels)
            yield f"{prefix}: forward should return a list of {count} maps, not {_shape(maps)}"
            continue
        for i, (actual, repeated) in enumerate(zip(maps, again, strict=True)):
            stride = extractor.strides[i]
            expected = (2, extractor.channels[i], size[0] // stride, size[1] // stride)
            if tuple(actual.shape) != expected:
                yield f"{prefix}: map {i} should be {expected}, but is {tuple(actual.shape)}"
            elif not (actual.is_floating_point() and actual.isfinite().all()):
                yield f"{prefix}: map {i} contains NaN or infinity, or is not floating point"
            elif not _near(actual, repeated):
                yield f"{prefix}: map {i} differs between two runs by {_gap(actual, repeated):.2g}"


def _independence_of_images(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    images = _noise(3, 3, *sizes[0])
    together = _run(extractor, images)
    for n in range(len(images)):
        for i, alone in enumerate(_run(extractor, images[n : n + 1])):
            if not _near(alone[0], together[i][n]):
                gap = _gap(alone[0], together[i][n])
                yield f"map {i} of image {n} differs by {gap:.2g} between the image and a batch"


def _flat_images(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    for level in (0.0, 0.5, 1.0):
        for i, features in enumerate(_run(extractor, torch.full((1, 3, *sizes[0]), level))):
            if not features.isfinite().all():
                yield f"map {i} of a constant image of {level} contains NaN or infinity"


def _embedding(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    with torch.no_grad():
        embedding = extractor.embed(_noise(2, 3, *sizes[0]))
    if embedding.ndim != 2 or len(embedding) != 2 or not embedding.isfinite().all():
        yield f"embed() should return finite (2, D), but returned {_shape(embedding)}"


def _gradients(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    trains = any(weight.requires_grad for weight in extractor.parameters())
    has_gradient = any(features.requires_grad for features in extractor(_noise(1, 3, *sizes[0])))
    if trains and not has_gradient:
        yield "some weights have requires_grad, but no map has a gradient"
    if has_gradient and not trains:
        yield "no weight has requires_grad, but the maps have a gradient"


def _state(extractor: FeatureExtractor, sizes: Sequence[Size]) -> Iterator[str]:
    before = _hash(extractor)
    _run(extractor, _noise(2, 3, *sizes[-1]))
    if _hash(extractor) != before:
        yield "forward in evaluation mode changed the weights or buffers"


def _sizes(strides: Iterable[int]) -> list[Size]:
    unit = math.lcm(*strides)
    unit *= math.ceil(16 / unit)
    return [(4 * unit, 4 * unit), (2 * unit, 4 * unit), (5 * unit, 3 * unit)]


def check_head(head: str | api.HeadPlugin) -> list[str]:
    """Check a head on one and on several maps, with output sizes that do and do not fit the maps.

    A head may reject some of the maps with a `BenchError`, but not all.
    """
    record = registry.get("heads", head) if isinstance(head, str) else head
    refusals = {maps: _refusal(record, *maps) for maps in PYRAMIDS}
    if all(refusals.values()):
        return [f"it rejects all maps: {refusals[PYRAMIDS[-1]]}"]
    return [
        f"maps of strides {strides}: {problem}"
        for (channels, strides), refusal in refusals.items()
        if not refusal
        for problem in _gather(_logits, record, channels, strides)
    ]


def _refusal(record: api.HeadPlugin, channels: Sequence[int], strides: Sequence[int]) -> str:
    try:
        record.build(channels, strides, 2)
    except BenchError as error:
        return str(error)
    except Exception:  # `_gather` builds it again and reports the error
        return ""
    return ""


def _logits(
    record: api.HeadPlugin, channels: Sequence[int], strides: Sequence[int]
) -> Iterator[str]:
    head = record.build(channels, strides, 2)
    if not isinstance(head, Head):
        yield f"build() should return a Head, not {type(head).__name__}"
        return
    height, width = (side // 2 for side in _sizes(strides)[1])
    shapes = [(2, c, height // s, width // s) for c, s in zip(channels, strides, strict=True)]
    maps = [_noise(*shape) for shape in shapes]
    head.observe([maps])
    for size in ((height, width), (height + 5, width - 3)):
        logits = head(maps, size=size)
        if tuple(logits.shape) != (2, 2, *size):
            yield f"logits should be {(2, 2, *size)}, but are {tuple(logits.shape)}"
            return
    yield from _training(head, maps, (height, width))
    yield from _independence_of_logits(head.eval(), maps, (height, width))


def _training(head: Head, maps: Sequence[Tensor], size: Size) -> Iterator[str]:
    target = (_noise(*size) > 0.5).long().expand(len(maps[0]), -1, -1)
    loss = head.training_loss(maps, target)
    if loss.ndim or not loss.isfinite():
        yield f"training_loss() should return one finite number, but returned {_shape(loss)}"
        return
    if any(weight.requires_grad for weight in head.parameters()):
        loss.backward()
    for name, weight in head.named_parameters():
        if weight.requires_grad and (weight.grad is None or not weight.grad.isfinite().all()):
            yield f"the weight {name} has no finite gradient"
    classes = head.decode(head(maps, size=size).detach())
    if classes.shape != target.shape or classes.dtype != torch.int64:
        yield f"decode() should return int64 {tuple(target.shape)}, not {_shape(classes)}"


def _independence_of_logits(head: Head, maps: Sequence[Tensor], size: Size) -> Iterator[str]:
    before = _hash(head)
    with torch.no_grad():
        together, again = head(maps, size=size), head(maps, size=size)
        alone = head([features[:1] for features in maps], size=size)
    if _hash(head) != before:
        yield "forward in evaluation mode changed the weights or buffers"
    if not _near(together, again):
        yield f"logits differ between two runs by {_gap(together, again):.2g}"
    if not _near(alone, together[:1]):
        gap = _gap(alone, together[:1])
        yield f"logits differ by {gap:.2g} between an image and a batch"


def check_dataset(
    dataset: str | api.Dataset | Sequence[api.Sample], *, reads: int = 8
) -> list[str]:
    """Check a data set.

    Args:
        dataset: a built-in data set, as name or plug-in record, or the samples of any data set.
        reads: number of images to read, evenly spaced.
    """
    record = registry.get("datasets", dataset) if isinstance(dataset, str) else dataset
    if not isinstance(record, api.Dataset):
        samples: Sequence[api.Sample] = record
    elif record.generate is None:
        return [f"{record.name} is read from a folder: pass its samples"]
    else:
        samples = record.generate()
    problems = _gather(_ids_and_splits, samples)
    step = max(1, len(samples) // reads)
    return problems + [p for sample in samples[::step] for p in _gather(_reading, sample)]


def _ids_and_splits(samples: Sequence[api.Sample]) -> Iterator[str]:
    ids = [sample.id for sample in samples]
    for repeated in sorted({name for name in ids if ids.count(name) > 1}):
        yield f"{ids.count(repeated)} images have the id {repeated!r}: ids must be unique"
    for sample in samples:
        for column in ("id", "patient", "organ"):
            if reason := name_problem(column, getattr(sample, column)):
                yield reason
    splits = {sample.split for sample in samples}
    if unknown := sorted(splits - {"train", "val", "test"}):
        yield f"splits must be train, val or test, not {', '.join(map(repr, unknown))}"
    for needed in sorted({"train", "test"} - splits):
        yield f"no image is in the split {needed!r}"
    yield from leaks(Member(s.id, s.patient, s.split, s.fingerprint) for s in samples)


def _reading(sample: api.Sample) -> Iterator[str]:
    image, instances = sample.read()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        yield f"{sample.id}: the image should be (H, W, 3) uint8, but is {_shape(image)}"
    if instances.dtype != np.int32 or instances.shape != image.shape[:2]:
        expected = f"int32 {image.shape[:2]}"
        yield f"{sample.id}: instances should be {expected}, but are {_shape(instances)}"
    if instances.size and instances.min() < 0:
        yield f"{sample.id}: instances must not be negative, but {instances.min()} occurs"
    if sample.mpp is not None and not 0.05 < sample.mpp < 20:
        yield f"{sample.id}: mpp (micrometres per pixel) should be in (0.05, 20), not {sample.mpp}"
    if len(sample.fingerprint) != 64 or not set(sample.fingerprint) <= set("0123456789abcdef"):
        yield f"{sample.id}: the fingerprint should be a sha256 in hex, not {sample.fingerprint!r}"
    again = sample.read()
    if not all(np.array_equal(*pair) for pair in zip((image, instances), again, strict=True)):
        yield f"{sample.id}: reading it twice gives different values"


def _gather(check: Callable[..., Iterator[str]], *arguments: object) -> list[str]:
    """Collect the problems that a check yields, and the error of the plug-in if it raises one."""
    problems: list[str] = []
    try:
        problems.extend(check(*arguments))
    except Exception as error:
        name = check.__name__.strip("_").replace("_", " ")
        problems.append(f"the check of {name} failed: {_error_text(error)}")
    return problems


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@torch.no_grad()
def _run(extractor: FeatureExtractor, images: Tensor) -> list[Tensor]:
    return extractor(images)


def _noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and _gap(a, b) <= TOLERANCE * float(b.abs().max())


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(module.state_dict().items()):
        digest.update(name.encode() + values.detach().double().numpy().tobytes())
    return digest.hexdigest()


def _shape(value: object) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
