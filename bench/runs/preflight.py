"""Find the problems of many runs before any weights are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from bench import registry
from bench.api import Progress
from bench.api.nn import Head
from bench.api.run_config import RunConfig
from bench.data.shifts import shift
from bench.errors import BenchError
from bench.runs.input_size import with_view
from bench.runs.resolve import device_named, fit_to
from bench.runs.session import Session, refuse_missing_weights
from bench.runs.trial_plan import planned, protocol_of


def problems(configs: Sequence[RunConfig], session: Session, progress: Progress) -> list[str]:
    """Return the problems of runs without duplicates; empty if all can run."""
    messages: dict[str, None] = {}
    for done, config in enumerate(configs):
        progress("checking", done, len(configs))
        messages |= dict.fromkeys(_problems(_checks(config, session)) or _misfit(config, session))
    progress("checking", len(configs), len(configs))
    return list(messages)


def refuse(problems: Sequence[str]) -> None:
    """Raise one BenchError that lists all problems, if there are any."""
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        raise BenchError(problems[0])
    if problems:
        lines = "".join(f"\n- {problem}" for problem in problems)
        raise BenchError(f"{len(problems)} problems, and nothing was run:{lines}")


def _checks(config: RunConfig, session: Session) -> list[Callable[[], object]]:
    """Return the checks that do not depend on each other."""
    checks: list[Callable[[], object]] = [
        config.check,
        partial(device_named, config.device),
        partial(protocol_of, config),
        partial(registry.get, "backbones", config.backbone.partition("@")[0]),
        partial(refuse_missing_weights, config),
        partial(session.dataset, config.dataset),
    ]
    if config.shift:
        checks.append(partial(shift, config.shift))
    if config.head:
        checks.append(partial(registry.get, "heads", config.head))
    if config.target_dataset:
        checks.append(partial(session.dataset, config.target_dataset))
    return checks


def _misfit(config: RunConfig, session: Session) -> list[str]:
    """Return why the parts of a run do not fit each other."""

    def check() -> None:
        protocol, handle = protocol_of(config), session.dataset(config.dataset)
        target = session.dataset(config.target_dataset) if config.target_dataset else handle
        fitted = with_view(planned(config, protocol, handle, target)[0], handle, target, session)
        shape = session.shape(fitted, handle.dataset)
        _, head, _ = fit_to(fitted, protocol, shape, handle.dataset)
        with torch.device("meta"):
            head.build(shape.extractor.channels, shape.extractor.strides, len(Head.classes))

    return _problems([check])


def _problems(checks: Sequence[Callable[[], object]]) -> list[str]:
    messages = []
    for check in checks:
        try:
            check()
        except BenchError as error:
            messages.append(str(error))
    return messages
