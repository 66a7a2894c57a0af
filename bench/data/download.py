"""Download and unpack the official release of a data set, and convert it to a folder."""

from __future__ import annotations

import http.client
import json
import logging
import urllib.request
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bench.api import Dataset, Labelled, Progress
from bench.data import folder, label_check
from bench.data.audit import Audit
from bench.data.folder import ReleaseFixed
from bench.data.leakage import Member, pixel_sha256
from bench.errors import BenchError
from bench.store.files import is_file_name, read_zip, write_bytes

ZENODO_API = "https://zenodo.org/api"
TIMEOUT_S = 20
CHUNK_BYTES = 1 << 18
DOWNLOAD_ERRORS = (OSError, http.client.HTTPException, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Prepared:
    """The number of written images, the corrections of the reader, and what may be wrong."""

    images: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


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
    audit = Audit()
    samples = _audited(_collect_notes(dataset.release(raw), notes), audit)
    images = folder.write(samples, out, about=_about(dataset), corrections=notes, progress=progress)
    warnings = [*label_check.describe(audit.label_problems()), *audit.warnings()]
    return Prepared(images, tuple(notes), tuple(warnings))


def _audited(samples: Iterable[Labelled], audit: Audit) -> Iterator[Labelled]:
    """Yield samples that are written; add them to an audit."""
    for sample in samples:
        yield sample
        member = Member(sample.id, sample.patient, sample.split, pixel_sha256(sample.image))
        audit.add(member, sample.image, sample.instances, f"the label of {sample.id}")


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


def download(
    dataset: Dataset, out: Path, *, api: str = ZENODO_API, progress: Progress | None = None
) -> Path:
    """Download and unpack the release of a data set; a complete archive is not downloaded again.

    Args:
        out: folder for the archive, and for a folder with its contents, named like the archive.
        api: URL of the Zenodo API.

    Returns:
        The folder with the unpacked files, for `prepare`.

    Raises:
        BenchError: the data set is not openly hosted, the service is unreachable or does not have
            the file, its checksum does not match, or the archive is refused (see `read_zip`).
    """
    if dataset.download is None:
        where = f" See {dataset.homepage}." if dataset.homepage else ""
        raise BenchError(
            f"{dataset.name} is not openly hosted; download its release manually.{where}"
        )
    record = dataset.download.zenodo_record
    try:
        name, url, checksum = _find_file(f"{api}/records/{record}", dataset.download.file)
        archive = _retrieve(url, out / name, checksum, progress)
    except DOWNLOAD_ERRORS as error:
        raise BenchError(
            f"cannot download {dataset.download.file} from {api}/records/{record}: {error}. Try "
            "again later, or download it manually from "
            f"https://zenodo.org/records/{record}, unpack it and run "
            f"`bench datasets prepare {dataset.name} --from RAW --out DIR`."
        ) from error
    unpacked = out / archive.stem
    unzip(archive, unpacked, progress)
    return unpacked


def _find_file(url: str, wanted: str) -> tuple[str, str, str]:
    """Return the name, URL and checksum ("md5:...") of an archive of a Zenodo record."""
    request = urllib.request.Request(url, headers={"User-Agent": "cmd-bench"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
        files = {str(entry["key"]): entry for entry in json.load(reply)["files"]}
    archives = [name for name in files if name == wanted]
    archives = archives or [name for name in files if name.lower().endswith(".zip")]
    if len(archives) != 1 or not is_file_name(archives[0]):
        raise ValueError(f"the record has no such file; it has {', '.join(files) or 'none'}")
    entry = files[archives[0]]
    return archives[0], str(entry["links"]["self"]), str(entry["checksum"])


class _ProgressBar:
    """The progress bar of pooch, as a callback of this package."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.total, self.done = progress, 0, 0

    def update(self, size: int) -> None:
        self.done = min(self.done + size, self.total)
        self.progress("download", self.done, self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None: ...


def _retrieve(url: str, archive: Path, checksum: str, progress: Progress | None) -> Path:
    """Download a file unless it exists with this checksum."""
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    bar: Any = _ProgressBar(progress) if progress else False
    downloader: Any = pooch.HTTPDownloader(bar, CHUNK_BYTES, timeout=TIMEOUT_S)
    path = pooch.retrieve(url, checksum, archive.name, archive.parent, downloader=downloader)
    return Path(path)


def unzip(archive: Path, out: Path, progress: Progress | None = None) -> None:
    """Unpack regular files into `out`, after checking the whole archive.

    Raises:
        BenchError: the archive is refused (see `read_zip`), or contains a path outside of `out`.
    """
    files = read_zip(archive, _stays_inside)
    for done, (name, content) in enumerate(files.items(), start=1):
        write_bytes(out / name, content)
        if progress:
            progress("unpack", done, len(files))


def _stays_inside(name: str) -> bool:
    """Return whether a name is a relative path in its simplest form on every system."""
    path = PurePosixPath(name)
    is_plain = name.isprintable() and not set(name) & set("\\:") and path.as_posix() == name
    return is_plain and not path.is_absolute() and ".." not in path.parts and name != "."
