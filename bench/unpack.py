"""Unpack untrusted zip archives: regular files only, inside one folder."""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from bench.api import Progress
from bench.errors import BenchError
from bench.manifest import file_key
from bench.store import write_bytes

MAX_UNPACKED_BYTES = 16 << 30
MAX_RATIO = 100  # compression ratio; images compress far less than a zip bomb
SMALL_BYTES = 64 << 20  # below this size, any ratio is accepted
UNREADABLE = (  # raised by zipfile and its decoders for damaged archives
    *(zipfile.BadZipFile, NotImplementedError, EOFError, OSError),
    *(zlib.error, lzma.LZMAError, UnicodeDecodeError),
)


def unzip(archive: Path, out: Path, progress: Progress | None = None) -> None:
    """Unpack regular files into `out`, after checking the whole archive.

    Raises:
        BenchError: an entry is outside of `out`, a link, a device, a duplicate or encrypted; or the
            archive is damaged, or its unpacked size exceeds the limit.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            entries = [entry for entry in bundle.infolist() if not entry.is_dir()]
            _refuse_unsafe(archive, bundle.infolist())
            if (damaged := bundle.testzip()) is not None:
                raise BenchError(
                    f"{archive} is damaged at {damaged!r}. Delete it and download it again."
                )
            for done, entry in enumerate(entries, start=1):
                write_bytes(out / entry.filename, bundle.read(entry))
                if progress:
                    progress("unpack", done, len(entries))
    except UNREADABLE as error:
        raise BenchError(f"{archive} is not a readable zip file: {error}.") from error


def _refuse_unsafe(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    seen: dict[str, bool] = {}
    for entry in entries:
        if reason := _unsafe(entry, seen):
            raise BenchError(
                f"{archive} is refused, nothing was unpacked: {entry.filename!r} {reason}."
            )
    total = sum(entry.file_size for entry in entries)
    limit = max(SMALL_BYTES, min(MAX_UNPACKED_BYTES, MAX_RATIO * archive.stat().st_size))
    if total > limit:
        raise BenchError(
            f"{archive} is refused, nothing was unpacked: {archive.stat().st_size} bytes unpack to "
            f" {total}, the limit is {limit}. Unpack it manually if you trust it."
        )


def _unsafe(entry: zipfile.ZipInfo, seen: dict[str, bool]) -> str:
    """Return why an entry must not be unpacked, or "" if it is safe.

    Args:
        seen: the paths so far, and whether each is a file; updated with the paths of the entry.
    """
    # ZipInfo.filename is cut at NUL and has converted separators; check the raw name.
    name = entry.orig_filename
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or PureWindowsPath(name).drive:
        return "would be written outside of the folder"
    if not name.isprintable() or not path.parts:
        return "is not a file name"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.is_dir():
        return ""
    key, *folders = (file_key(str(each)) for each in (path, *path.parents))
    if key in seen or any(seen.get(folder) for folder in folders):
        return "is a duplicate name"
    seen |= {key: True, **dict.fromkeys(folders, False)}
    return ""
