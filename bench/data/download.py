"""Download and unpack the official release of a data set, and convert it to a folder."""

from __future__ import annotations

import hashlib
import http.client
import json
import stat
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from bench.api import Dataset, Labelled, Progress
from bench.data import folder
from bench.data.folder import ReleaseFixed
from bench.data.manifest import file_key
from bench.errors import BenchError
from bench.store.files import UNREADABLE, is_file_name, write_bytes

TIMEOUT_S = 20
ATTEMPTS = 5
CHUNK_BYTES = 1 << 18
MAX_REPLY_BYTES = 4 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a Zenodo record: URL, size in bytes, and checksum such as "md5:0123..."."""

    name: str
    url: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Prepared:
    """The number of written images, and the corrections of the reader."""

    images: int
    notes: tuple[str, ...]


# ---- from the release to the folder ----------------------------------------------------------


def prepare(dataset: Dataset, raw: Path, out: Path, progress: Progress | None = None) -> Prepared:
    """Convert the unpacked official release in `raw` to a data set folder `out`.

    Raises:
        BenchError: the data set has no release reader, or `raw` does not contain its release.
    """
    if dataset.release is None:
        raise BenchError(
            f"{dataset.name} has no reader for an official release. Put your copy into a folder "
            f"with images/ and labels/, and run `bench datasets make DIR/{dataset.name}`."
        )
    if not raw.is_dir():
        raise BenchError(f"there is no folder {raw}. Unpack the release of {dataset.name} there.")
    notes: list[str] = []
    samples = _collect_notes(dataset.release(raw), notes)
    images = folder.write(samples, out, about=_about(dataset), mended=notes, progress=progress)
    return Prepared(images, tuple(notes))


def _collect_notes(samples: Iterable[Labelled], notes: list[str]) -> Iterator[Labelled]:
    """Yield samples; append the `ReleaseFixed` warnings of their reader to `notes`."""
    iterator = iter(samples)
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ReleaseFixed)
            sample = next(iterator, None)
        for warning in caught:
            if issubclass(warning.category, ReleaseFixed):
                notes.append(str(warning.message))
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )
        if sample is None:
            return
        yield sample


def _about(dataset: Dataset) -> str:
    lines = [
        f"# {dataset.title or dataset.name}",
        dataset.paper,
        f"Licence of the images and labels: {dataset.license}.",
        f"Source: {dataset.homepage}" if dataset.homepage else "",
        "Created by `bench datasets prepare` from the official release; see manifest.csv.",
    ]
    return "\n".join(line for line in lines if line) + "\n"


# ---- download --------------------------------------------------------------------------------


def download(
    dataset: Dataset,
    out: Path,
    *,
    api: str = "https://zenodo.org/api",
    progress: Progress | None = None,
) -> Path:
    """Download and unpack the release of a data set; an interrupted download resumes.

    Args:
        out: folder for the archive, and for a folder with its contents, named like the archive.
        api: URL of the Zenodo API.

    Returns:
        The folder with the unpacked files, for `prepare`.

    Raises:
        BenchError: the data set is not openly hosted, the service is unreachable or does not have
            the file, size or checksum do not match, or the archive is unsafe.
    """
    if dataset.download is None:
        where = f" See {dataset.homepage}." if dataset.homepage else ""
        raise BenchError(
            f"{dataset.name} is not openly hosted; download its release manually.{where}"
        )
    remote = _find_file(dataset, api)
    archive = out / remote.name
    is_complete = archive.is_file() and archive.stat().st_size == remote.size
    if not (is_complete and _has_checksum(archive, remote)):
        _fetch(remote, archive, advice=_advice(dataset), progress=progress)
    unpacked = out / archive.stem
    unzip(archive, unpacked, progress=progress)
    return unpacked


def _find_file(dataset: Dataset, api: str) -> RemoteFile:
    """Query the service for the archive of a record."""
    assert dataset.download is not None
    wanted, url = dataset.download.file, f"{api}/records/{dataset.download.zenodo_record}"
    try:
        with _open(url) as reply:
            files = [_remote(entry) for entry in json.loads(reply.read(MAX_REPLY_BYTES))["files"]]
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"cannot reach {url}: {error}. {_advice(dataset)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{url} did not return a list of files. {_advice(dataset)}") from error
    archives = [file for file in files if file.name == wanted]
    archives = archives or [file for file in files if file.name.lower().endswith(".zip")]
    if len(archives) != 1:
        names = ", ".join(file.name for file in files) or "nothing"
        raise BenchError(f"{url} has no file {wanted}; it has {names}. {_advice(dataset)}")
    if urllib.parse.urlsplit(archives[0].url).scheme != urllib.parse.urlsplit(api).scheme:
        raise BenchError(f"{url} refers to {archives[0].url}, which is refused. {_advice(dataset)}")
    return archives[0]


def _remote(entry: dict) -> RemoteFile:
    name, checksum = str(entry["key"]), str(entry["checksum"])
    if not is_file_name(name) or checksum.partition(":")[0] not in ("md5", "sha256"):
        raise ValueError(f"invalid file name {name!r} or checksum {checksum!r}")
    return RemoteFile(name, str(entry["links"]["self"]), int(entry["size"]), checksum)


def _advice(dataset: Dataset) -> str:
    assert dataset.download is not None
    record = f"https://zenodo.org/records/{dataset.download.zenodo_record}"
    return (
        "Try again later (the download resumes), or download "
        f"{dataset.download.file} manually from {record}, unpack it and run "
        f"`bench datasets prepare {dataset.name} --from RAW --out DIR`."
    )


def _open(url: str, start: int = 0) -> http.client.HTTPResponse:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise BenchError(f"{url} is not a web address.")
    headers = {"User-Agent": "cmd-bench"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise


def _fetch(remote: RemoteFile, archive: Path, *, advice: str, progress: Progress | None) -> None:
    """Download a file to `archive` via a `.part` file, from which a later call resumes."""
    part = archive.with_name(archive.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise BenchError(
            f"cannot write {part}: {error.strerror}. Choose another `--out DIR`."
        ) from error
    failure: Exception | None = None
    for _ in range(ATTEMPTS):
        if part.stat().st_size >= remote.size:
            break
        try:
            _append(remote, part, progress)
        except (OSError, http.client.HTTPException) as error:
            failure = error
    if part.stat().st_size < remote.size:
        received = f"{part.stat().st_size} of {remote.size} bytes"
        cause = failure or "end of stream"
        raise BenchError(f"{remote.url} was interrupted after {received} ({cause}). {advice}")
    if part.stat().st_size != remote.size or not _has_checksum(part, remote):
        part.unlink()
        raise BenchError(
            f"the download of {remote.url} does not match its size {remote.size} and checksum "
            f"{remote.checksum} and was deleted. {advice}"
        )
    part.replace(archive)


def _append(remote: RemoteFile, part: Path, progress: Progress | None) -> None:
    start = part.stat().st_size
    with _open(remote.url, start) as reply:
        resumed = reply.status == 206
        if resumed and not reply.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise http.client.HTTPException("the server resumed at a different byte")
        with part.open("ab" if resumed else "wb") as file:
            while chunk := reply.read(CHUNK_BYTES):
                file.write(chunk)
                if file.tell() > remote.size:
                    return
                if progress:
                    progress("download", file.tell(), remote.size)


def _has_checksum(path: Path, remote: RemoteFile) -> bool:
    kind, _, expected = remote.checksum.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == expected.lower()


MAX_UNPACKED_BYTES = 16 << 30
MAX_RATIO = 100  # compression ratio; images compress far less than a zip bomb
SMALL_BYTES = 64 << 20  # below this size, any ratio is accepted


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
