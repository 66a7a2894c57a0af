"""Stop a run within this process at one numbered file operation, like a kill or a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

OPERATIONS = (
    *("mkdir", "open", "write", "fsync", "chmod", "replace", "rename"),
    *("unlink", "rmdir"),
)
NEED_SPACE = ("mkdir", "open", "write", "fsync", "replace", "rename")
CREATES = os.O_CREAT | getattr(os, "O_TMPFILE", 0)


class Killed(BaseException):
    """The process is dead: nothing it does from here on has an effect."""


class Changes:
    """Count the file operations below a folder; from number `at` on, each of them is stopped."""

    def __init__(self, root: Path, at: int | None = None) -> None:
        self.root, self.at, self.count, self.stopped = root, at, 0, False

    def meet(self, name: str) -> None:
        """Count an operation before it is executed."""
        self.count += 1
        if self.count == self.at:
            self.stopped = True
        if self.stopped:
            self.stop(name)

    def stop(self, name: str) -> None:
        """Raise the error of an operation; subclasses choose which."""
        raise Killed

    def is_inside(self, target: object) -> bool:
        """Return whether a path is below the folder; relative paths are those of `rmtree`."""
        if isinstance(target, int):
            return True
        path = Path(os.fsdecode(target))  # type: ignore[arg-type]
        return not path.is_absolute() or path.is_relative_to(self.root)


class Full(Changes):
    """A disk that is full from one operation on; deletions succeed."""

    def stop(self, name: str) -> None:
        if name in NEED_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _HalfWritten:
    """An unbuffered file; half of a stopped write reaches the disk."""

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

    def __enter__(self) -> _HalfWritten:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)


@contextmanager
def watched(changes: Changes) -> Iterator[Changes]:
    """Count, and stop, all file operations of a block."""

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: object, *rest: Any, **named: Any) -> Any:
            creates = name != "open" or bool(rest and rest[0] & CREATES)
            if creates and changes.is_inside(target):
                changes.meet(name)
            return real(target, *rest, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            if name != "write":
                patch.setattr(os, name, counted(name, getattr(os, name)))
        patch.setattr(os, "fdopen", lambda handle, *_: _HalfWritten(handle, changes))
        yield changes
