"""All that can be seen to be wrong with many requests before any weights are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bench import registry
from bench.api import Progress
from bench.api.experiment import Request
from bench.api.nn import Head
from bench.data.shifts import shift
from bench.errors import BenchError
from bench.runs.resolve import device_named, fit_to, planned, protocol_of, refuse_bad_words
from bench.runs.session import Session, refuse_missing_weights


def problems(requests: Sequence[Request], session: Session, progress: Progress) -> list[str]:
    """Tell all that is wrong, each thing once; empty where nothing is."""
    told: dict[str, None] = {}
    for done, request in enumerate(requests):
        progress("checking", done, len(requests))
        told |= dict.fromkeys(_complaints(_parts(request, session)) or _complaint(request, session))
    progress("checking", len(requests), len(requests))
    return list(told)


def refuse(told: Sequence[str]) -> None:
    """Raise one BenchError of all problems, where there are any."""
    told = list(dict.fromkeys(told))
    if len(told) == 1:
        raise BenchError(told[0])
    if told:
        lines = "".join(f"\n- {each}" for each in told)
        raise BenchError(f"{len(told)} things are wrong, and nothing was run:{lines}")


def _parts(request: Request, session: Session) -> list[Callable[[], object]]:
    """Give the checks that do not need each other."""
    datasets = filter(None, [request.dataset, request.to])
    return [
        lambda: refuse_bad_words(request),
        lambda: device_named(request.device),
        lambda: shift(request.shift) if request.shift else None,
        lambda: protocol_of(request),
        lambda: registry.get("backbones", request.backbone.partition("@")[0]),
        lambda: refuse_missing_weights(request),
        lambda: registry.get("heads", request.head) if request.head else None,
        *(lambda name=name: session.dataset(name) for name in datasets),
    ]


def _complaint(request: Request, session: Session) -> list[str]:
    """Check what needs all the parts: that they fit each other."""

    def fits() -> None:
        protocol, handle = protocol_of(request), session.dataset(request.dataset)
        target = handle if request.to is None else session.dataset(request.to)
        planned(request, protocol, handle, target)
        shape = session.shape(request, handle.dataset)
        _, head, _ = fit_to(request, protocol, shape, handle.dataset)
        with torch.device("meta"):
            head.build(shape.extractor.channels, shape.extractor.strides, len(Head.classes))

    return _complaints([fits])


def _complaints(checks: Sequence[Callable[[], object]]) -> list[str]:
    told = []
    for check in checks:
        try:
            check()
        except BenchError as error:
            told.append(str(error))
    return told
