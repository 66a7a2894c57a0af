"""What a plug-in could change for all that comes after it: it is put back, and told."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

log = logging.getLogger("bench")

DTYPE = "the default dtype of torch"


@dataclass(frozen=True)
class Switch:
    """A setting of the whole process.

    Attributes:
        usual: what it is before its library is imported; None where that is not known.
    """

    name: str
    read: Callable[[], Any]
    put: Callable[[Any], object]
    usual: Any = None

    def now(self) -> Any:
        """Read it; None where it cannot be told."""
        try:
            return self.read()
        except (OSError, RuntimeError):  # a deleted folder; torch, of two ways that disagree
            return None


@contextmanager
def undisturbed(by: str) -> Iterator[list[str]]:
    """Put back what a block changes of the process; the list that it gives names it at the end.

    Args:
        by: who is at work in the block, in words.
    """
    before = {each.name: each.now() for each in _switches()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for each in _switches():
            was = before.get(each.name, each.usual)
            if was is not None and each.now() != was:
                each.put(was)
                changed.append(each.name)
        if changed:
            log.warning("%s changed %s; it was put back", by, " and ".join(changed))


def _switches() -> list[Switch]:
    own = [Switch("the working folder", Path.cwd, os.chdir)]
    if threading.current_thread() is threading.main_thread():  # no other one may
        own += [
            Switch(f"what {each.name} does", partial(signal.getsignal, each), _handler(each))
            for each in (signal.SIGINT, signal.SIGTERM)
        ]
    return own + _of_torch(sys.modules.get("torch"))


def _handler(number: signal.Signals) -> Callable[[Any], object]:
    return lambda handler: signal.signal(number, handler)


def _of_torch(torch: Any) -> list[Switch]:
    """List the settings on which the numbers depend, or whether a head can learn."""
    if torch is None:
        return []
    precision = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    return [
        Switch(DTYPE, torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        Switch("the precision of products", *precision, "highest"),
        Switch("whether gradients are kept", torch.is_grad_enabled, torch.set_grad_enabled, True),
        Switch("the number of threads", torch.get_num_threads, torch.set_num_threads),
        *(_of_cudnn(torch.backends.cudnn, name) for name in ("allow_tf32", "benchmark")),
    ]


def _of_cudnn(cudnn: Any, name: str) -> Switch:
    return Switch(f"cudnn.{name}", partial(getattr, cudnn, name), partial(setattr, cudnn, name))
