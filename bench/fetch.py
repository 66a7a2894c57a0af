"""Fetch the official release of a data set, unpack it, and turn it into a folder of the format."""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import folder
from bench.api import Dataset, Labelled, Progress
from bench.errors import BenchError
from bench.folder import Mended
from bench.manifest import is_file_name
from bench.unpack import unzip

TIMEOUT_S = 20
ATTEMPTS = 5
CHUNK_BYTES = 1 << 18
MAX_REPLY_BYTES = 4 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a record: its address, its size in bytes and its checksum, as "md5:0123..."."""

    name: str
    url: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Prepared:
    """How many images were written, and what the reader mended on the way."""

    images: int
    notes: tuple[str, ...]


# ---- from the release to the folder ----------------------------------------------------------


def prepare(dataset: Dataset, raw: Path, out: Path, progress: Progress | None = None) -> Prepared:
    """Turn the unpacked official release in `raw` into a folder of the format, `out`.

    Raises:
        BenchError: there is no reader for this set, or `raw` does not hold its release.
    """
    if dataset.release is None:
        raise BenchError(
            f"{dataset.name} has no official release that can be read: put your copy into a folder "
            f"with images/ and labels/, and `bench datasets make DIR/{dataset.name}`."
        )
    if not raw.is_dir():
        raise BenchError(f"there is no folder {raw}. Unpack the release of {dataset.name} there.")
    notes: list[str] = []
    samples = _noting(dataset.release(raw), notes)
    images = folder.write(samples, out, about=_about(dataset), mended=notes, progress=progress)
    return Prepared(images, tuple(notes))


def _noting(samples: Iterable[Labelled], notes: list[str]) -> Iterator[Labelled]:
    """Pass samples on; keep what their reader reports by warnings of the class `Mended`."""
    iterator = iter(samples)
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", Mended)
            sample = next(iterator, None)
        for warning in caught:
            if issubclass(warning.category, Mended):
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
        "Made from the official release by `bench datasets prepare`; manifest.csv lists the files.",
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
    """Download and unpack the release of a data set; one that was cut goes on.

    Args:
        out: gets the archive and, beside it, a folder of the archive's name with its files.
        api: where the hosting service is asked for the record.

    Returns:
        The folder with the unpacked files, for `prepare`.

    Raises:
        BenchError: the set is not openly hosted, the service cannot be reached or does not know the
            file, the bytes do not match size and checksum, or the archive is not safe to unpack.
    """
    if dataset.download is None:
        where = f" See {dataset.homepage}." if dataset.homepage else ""
        raise BenchError(f"{dataset.name} is not openly hosted; fetch its release by hand.{where}")
    remote = _ask(dataset, api)
    archive = out / remote.name
    if not (
        archive.is_file() and archive.stat().st_size == remote.size and _intact(archive, remote)
    ):
        _fetch(remote, archive, by_hand=_by_hand(dataset), progress=progress)
    unpacked = out / archive.stem
    unzip(archive, unpacked, progress=progress)
    return unpacked


def _ask(dataset: Dataset, api: str) -> RemoteFile:
    """Ask the service which file the record holds."""
    assert dataset.download is not None
    wanted, url = dataset.download.file, f"{api}/records/{dataset.download.zenodo_record}"
    try:
        with _open(url) as reply:
            files = [_remote(entry) for entry in json.loads(reply.read(MAX_REPLY_BYTES))["files"]]
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"cannot reach {url}: {error}. {_by_hand(dataset)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{url} gave no list of files. {_by_hand(dataset)}") from error
    archives = [file for file in files if file.name == wanted]
    archives = archives or [file for file in files if file.name.lower().endswith(".zip")]
    if len(archives) != 1:
        names = ", ".join(file.name for file in files) or "nothing"
        raise BenchError(f"{url} has no file {wanted}; it has {names}. {_by_hand(dataset)}")
    if urllib.parse.urlsplit(archives[0].url).scheme != urllib.parse.urlsplit(api).scheme:
        raise BenchError(
            f"{url} points to {archives[0].url}, which is refused. {_by_hand(dataset)}"
        )
    return archives[0]


def _remote(entry: dict) -> RemoteFile:
    name, checksum = str(entry["key"]), str(entry["checksum"])
    if not is_file_name(name) or checksum.partition(":")[0] not in ("md5", "sha256"):
        raise ValueError(f"{name!r} or {checksum!r} is not what a file of a record looks like")
    return RemoteFile(name, str(entry["links"]["self"]), int(entry["size"]), checksum)


def _by_hand(dataset: Dataset) -> str:
    assert dataset.download is not None
    record = f"https://zenodo.org/records/{dataset.download.zenodo_record}"
    return (
        f"Try again later (what was fetched is kept), or fetch {dataset.download.file} by hand "
        f"from {record}, unpack it and run `bench datasets prepare {dataset.name} --from RAW "
        "--out DIR`."
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


def _fetch(remote: RemoteFile, archive: Path, *, by_hand: str, progress: Progress | None) -> None:
    """Stream a file into `archive`, through a `.part` file that outlives a cut or a crash."""
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
        got = f"{part.stat().st_size} of {remote.size} bytes"
        raise BenchError(f"{remote.url} was cut after {got} ({failure or 'the end'}). {by_hand}")
    if part.stat().st_size != remote.size or not _intact(part, remote):
        part.unlink()
        raise BenchError(
            f"what {remote.url} sent does not match its size {remote.size} and checksum "
            f"{remote.checksum}; it was deleted. {by_hand}"
        )
    part.replace(archive)


def _append(remote: RemoteFile, part: Path, progress: Progress | None) -> None:
    start = part.stat().st_size
    with _open(remote.url, start) as reply:
        resumed = reply.status == 206
        if resumed and not reply.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise http.client.HTTPException("the server resumed at another byte")
        with part.open("ab" if resumed else "wb") as file:
            while chunk := reply.read(CHUNK_BYTES):
                file.write(chunk)
                if file.tell() > remote.size:
                    return
                if progress:
                    progress("download", file.tell(), remote.size)


def _intact(path: Path, remote: RemoteFile) -> bool:
    kind, _, wanted = remote.checksum.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == wanted.lower()
