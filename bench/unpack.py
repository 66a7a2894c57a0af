"""Unpack an archive that a stranger may have made: regular files only, below one folder."""

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
MAX_RATIO = 100  # images hardly shrink; a bomb does
SMALL_BYTES = 64 << 20  # below this no ratio is suspicious
UNREADABLE = (  # what zipfile and its decoders raise on a damaged archive
    *(zipfile.BadZipFile, NotImplementedError, EOFError, OSError),
    *(zlib.error, lzma.LZMAError, UnicodeDecodeError),
)


def unzip(archive: Path, out: Path, progress: Progress | None = None) -> None:
    """Unpack regular files into `out`; nothing is written before the whole archive was checked.

    Raises:
        BenchError: an entry would leave `out`, is a link or a device, stands twice, or is
            encrypted; the archive is damaged, or unpacks to far more than it should.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            entries = [entry for entry in bundle.infolist() if not entry.is_dir()]
            _refuse_unsafe(archive, bundle.infolist())
            if (damaged := bundle.testzip()) is not None:
                raise BenchError(
                    f"{archive} is damaged at {damaged!r}. Delete it and fetch it again."
                )
            for done, entry in enumerate(entries, start=1):
                write_bytes(out / entry.filename, bundle.read(entry))
                if progress:
                    progress("unpack", done, len(entries))
    except UNREADABLE as error:
        raise BenchError(f"{archive} is not a zip file that can be read: {error}.") from error


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
            f"{archive} is refused, nothing was unpacked: {archive.stat().st_size} bytes claim to "
            f"hold {total}, over the limit of {limit}. Unpack it by hand if you trust it."
        )


def _unsafe(entry: zipfile.ZipInfo, seen: dict[str, bool]) -> str:
    """Say why an entry must not be unpacked; "" where it may.

    Args:
        seen: every path so far, and whether it is a file; those of the entry are added.
    """
    # ZipInfo cuts a name at a NUL and turns the separators of this system; the raw name is judged.
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
    own, *folders = (file_key(str(each)) for each in (path, *path.parents))
    if own in seen or any(seen.get(each) for each in folders):
        return "stands in it twice"
    seen |= {own: True, **dict.fromkeys(folders, False)}
    return ""
