"""Simulate a kill or a full disk at the n-th change of files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHANGES = (
    *("mkdir", "open", "write", "fsync", "chmod", "link", "replace", "rename"),
    *("unlink", "rmdir"),
)
FULL = (
    "mkdir",
    "open",
    "write",
    "fsync",
    "link",
    "replace",
    "rename",
)  # need disk space
CREATES = os.O_CREAT | getattr(os, "O_TMPFILE", 0)


class Killed(BaseException):
    """The process was killed: nothing that it does from now on has an effect."""


class Changes:
    """Count the changes below a folder, and stop at the `at`-th."""

    def __init__(self, root: Path, at: int | None = None) -> None:
        self.root, self.at, self.made, self.stopped = root, at, 0, False

    def meet(self, name: str) -> None:
        """Count a change before it happens."""
        self.made += 1
        if self.made == self.at:
            self.stopped = True
        if self.stopped:
            self.stop(name)

    def stop(self, name: str) -> None:
        """Simulate the end of the process."""
        raise Killed

    def is_ours(self, target: object) -> bool:
        """Return whether a path is below the folder; `rmtree` uses relative paths."""
        if isinstance(target, int):
            return True
        path = Path(os.fsdecode(target))  # type: ignore[arg-type]
        return not path.is_absolute() or path.is_relative_to(self.root)


class Full(Changes):
    """A full disk: from the `at`-th change on, only removals succeed."""

    def stop(self, name: str) -> None:
        if name in FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Halved:
    """An unbuffered file: a stopped write reaches the disk by half."""

    def __init__(self, handle: int, changes: Changes) -> None:
        self.handle, self.changes = handle, changes

    def write(self, content: bytes) -> int:
        try:
            self.changes.meet("write")
        except BaseException:
            os.write(self.handle, content[: len(content) // 2])
            raise
        return os.write(self.handle, content)

    def flush(self) -> None: ...

    def fileno(self) -> int:
        return self.handle

    def __enter__(self) -> _Halved:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)


@contextmanager
def watched(changes: Changes) -> Iterator[Changes]:
    """Count and stop all changes of files in a `with` block."""

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: object, *rest: Any, **named: Any) -> Any:
            creates = name != "open" or bool(rest and rest[0] & CREATES)
            if creates and changes.is_ours(target):
                changes.meet(name)
            return real(target, *rest, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            if name != "write":
                patch.setattr(os, name, counted(name, getattr(os, name)))
        patch.setattr(os, "fdopen", lambda handle, *_: _Halved(handle, changes))
        yield changes
