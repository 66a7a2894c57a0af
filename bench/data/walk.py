"""Walk folders of images: hidden names are skipped, and linked folders are read once."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from bench.errors import BenchError

HIDDEN_FILE, HIDDEN_FOLDER = "hidden file", "hidden folder"  # "._a.png", "__MACOSX"
DUPLICATE = "duplicate folder link"
BROKEN = "broken link"
TEXT_LINK = "unresolved folder link"  # a text file: git without support of links
OTHER = "other file"
MAX_NAME_BYTES = 255


def is_hidden(name: str) -> bool:
    """Return whether a part of a path begins with a dot or is a resource folder of macOS."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def walk(
    root: Path,
    left_out: Counter[str],
    *,
    endings: tuple[str, ...] = ("",),
    is_leaf: Callable[[Path], bool] = lambda _: False,
) -> Iterator[tuple[str, Path, Sequence[str] | None]]:
    """Yield the folders below `root`, itself included, and the names of their files.

    Linked folders are followed after all others, so that a folder which is also linked is read
    under its real path. A link to a folder that contains it is not followed.

    Args:
        left_out: is increased by the number of entries that are left out, by reason.
        endings: endings in lower case of the files to list, in any case; by default all files.
        is_leaf: whether the content of a folder is not read.

    Yields:
        The path below `root` with a trailing slash (empty for `root`), the folder, and the sorted
        names of its files; None for a leaf.

    Raises:
        BenchError: a folder cannot be read.
    """
    top, seen = root.resolve(), set[Path]()
    folders, links = deque([("", root)]), deque[tuple[str, Path]]()
    while folders or links:
        prefix, folder = folders.popleft() if folders else links.popleft()
        target = folder.resolve()
        is_loop = prefix and any(
            path.is_relative_to(target) for path in (top, folder.parent.resolve())
        )
        if is_loop or target in seen:
            left_out[DUPLICATE] += 1
            continue
        seen.add(target)
        if is_leaf(folder):
            yield prefix, folder, None
            continue
        files: list[str] = []
        for entry in _entries(folder):
            # `DirEntry` raises an error for a link to itself; for other entries it is faster
            item = Path(entry.path) if entry.is_symlink() else entry
            if item.is_dir():
                if is_hidden(entry.name):
                    left_out[HIDDEN_FOLDER] += 1
                    continue
                queue = links if entry.is_symlink() else folders
                queue.append((f"{prefix}{entry.name}/", Path(entry.path)))
            elif is_hidden(entry.name):
                left_out[HIDDEN_FILE] += 1
            elif entry.is_symlink() and not item.is_file():
                left_out[BROKEN] += 1
            elif item.is_file() and entry.name.lower().endswith(endings):
                files.append(entry.name)
            else:
                left_out[TEXT_LINK if _is_text_link(Path(entry.path)) else OTHER] += 1
        yield prefix, folder, files


def _is_text_link(path: Path) -> bool:
    """Return whether a file contains only the path of a folder."""
    if path.suffix or not path.is_file() or not 0 < path.stat().st_size <= MAX_NAME_BYTES:
        return False
    return (path.parent / path.read_text(errors="replace")).is_dir()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise BenchError(f"cannot read {folder}: {error.strerror or error}.") from error
