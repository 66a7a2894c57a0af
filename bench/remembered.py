"""Numbers that were computed before: a file of what pure functions of arrays gave. Disposable.

An entry is named by the hash of the function and of all that it was given; so it is right or it is
not found. The file begins with its own hash and names the code and the libraries that computed: one
that is damaged, or of others, counts as none, and the numbers are computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import ParamSpec

import numpy as np

from bench.cache_place import cache_root_if_any
from bench.errors import BenchError

MOST = 2**23  # numbers that are kept, 64 MiB: those that were used last
HASH = 64  # hex digits, and the end of a line
Given = ParamSpec("Given")


@dataclass
class Memory:
    """What is known.

    Attributes:
        known: results by key, those used last at the end.
        new: whether something was added.
    """

    known: dict[str, np.ndarray] = field(default_factory=dict)
    new: bool = False


_open: ContextVar[Memory | None] = ContextVar("memory", default=None)


def remembered(function: Callable[Given, np.ndarray]) -> Callable[Given, np.ndarray]:
    """Let a pure function of arrays, texts and numbers look up what it gave before.

    Its result, float64 of any shape, is looked up within `remembering`, and is read-only then;
    elsewhere it is computed.
    """
    own = f"{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def found(*args: Given.args, **kwargs: Given.kwargs) -> np.ndarray:
        memory = _open.get()
        if memory is None:
            return function(*args, **kwargs)
        assert not any(isinstance(each, np.ndarray) for each in kwargs.values())
        key = _key(own, *args, *sorted(kwargs.items()))
        value = memory.known.pop(key, None)
        if value is None:
            value, memory.new = function(*args, **kwargs), True
            value.flags.writeable = False
        memory.known[key] = value
        return value

    return found


@contextmanager
def remembering(results: Path) -> Iterator[None]:
    """Look up what `remembered` functions gave for these results, and keep what they give.

    It lies in the user's cache, a file for each folder of results. One that cannot be read or
    written changes nothing but the time that it takes. Of processes that write it at once, what the
    last one knew stays.
    """
    file = _file_of(results)
    memory, code = Memory(), _code()
    with suppress(OSError, ValueError):
        memory.known = {} if file is None else _read(file.read_bytes(), code)
    token = _open.set(memory)
    try:
        yield
    finally:
        _open.reset(token)
    if memory.new and file is not None:
        from bench.store import write_bytes

        with suppress(BenchError):
            write_bytes(file, _written(memory.known, code))


def _file_of(results: Path) -> Path | None:
    root = cache_root_if_any()
    name = hashlib.sha256(str(results.resolve()).encode()).hexdigest()[:16]
    return root and root / "boards" / name


def _key(*parts: object) -> str:
    """Name a call by the hash of all that its result follows from."""
    sha256 = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha256.update(f"{part.dtype} {part.shape}\n".encode())
            sha256.update(np.ascontiguousarray(part).data)
        else:
            sha256.update(f"{part!r}\n".encode())
    return sha256.hexdigest()[:32]


def _code() -> str:
    """Name the modules of the core, and the libraries that compute."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    own = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return f"{own} numpy {version('numpy')} scipy {version('scipy')}"


def _written(known: dict[str, np.ndarray], code: str) -> bytes:
    """Write what was used last: a hash, the code, a line of JSON, the numbers."""
    kept, room = [], MOST
    for key, value in reversed(known.items()):
        room -= value.size
        if room < 0:
            break
        kept.append((key, value))
    shapes = {key: value.shape for key, value in reversed(kept)}
    numbers = [np.asarray(value, "<f8").tobytes() for _, value in reversed(kept)]
    body = b"\n".join([code.encode(), json.dumps(shapes).encode(), b"".join(numbers)])
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _read(content: bytes, code: str) -> dict[str, np.ndarray]:
    """Read it back; a ValueError where it is not whole, or not of this code."""
    sha256, body = content[:HASH], content[HASH + 1 :]
    if hashlib.sha256(body).hexdigest().encode() != sha256:
        raise ValueError("it does not match its own hash")
    head, shapes, numbers = body.split(b"\n", 2)
    if head.decode() != code:
        raise ValueError("it is of other code")
    shapes = json.loads(shapes)
    flat = np.frombuffer(numbers, "<f8")
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()], dtype=int)
    parts = np.split(flat, ends)[:-1]
    return {key: part.reshape(shapes[key]) for key, part in zip(shapes, parts, strict=True)}
