"""Find a data set by name or path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import registry
from bench.api import Dataset, Progress, Sample
from bench.data import folder, label_check
from bench.data.leakage import Member, pixel_sha256
from bench.data.manifest import ManifestRow, content_of, match, parse, read_rows
from bench.errors import BenchError
from bench.store.cache_dir import cache_root_if_any
from bench.store.files import Problem


@dataclass(frozen=True)
class DatasetHandle:
    """A data set on this machine.

    Attributes:
        dataset: its plug-in record; for an unregistered folder, a record with its name only.
        identity: sha256 (hex) of its ids, splits, patients, images and labels.
        root: its folder; None for a built-in data set.
        has_accepted_labels: some labels are no instance maps, but the user accepted them.
    """

    name: str
    dataset: Dataset
    samples: tuple[Sample, ...]
    identity: str
    root: Path | None
    has_accepted_labels: bool = False
    _pixel_hashes: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def registered_name(self) -> str:
        """The name if the data set is registered, else an empty string."""
        return self.name if self.name in registry.names("datasets") else ""

    def member(self, sample: Sample, part: str) -> Member:
        """Return a sample of this data set in a part; its image is read and hashed only once.

        Raises:
            BenchError: the label is no instance map, and was not accepted.
        """
        if sample.id not in self._pixel_hashes:
            image, instances = sample.read()
            if self.root is not None and not self.has_accepted_labels:
                label_check.refuse(instances, f"the label of {sample.id}")
            self._pixel_hashes[sample.id] = pixel_sha256(image)
        return Member(sample.id, sample.patient, part, self._pixel_hashes[sample.id])


def find(name: str, data_dir: Path | None = None) -> DatasetHandle:
    """Find a data set by name (built in, in `data_dir`, BENCH_DATA or the cache) or by path.

    Raises:
        BenchError: the data set does not exist (the message lists the searched folders and how to
            get it), or its files differ from its manifest.
    """
    path = Path(name).expanduser()
    names = registry.names("datasets")
    if path.is_dir() and (path.name != name or name not in names):
        path = path.resolve()
        if not path.name.isprintable():
            raise BenchError(f"the name of the folder, {path.name!r}, is not printable. Rename it.")
        if path.name in names:
            return _from_folder(registry.get("datasets", path.name), path)
        return _from_folder(Dataset(name=path.name, title=f"the folder {path}"), path)
    if os.sep in name:
        raise BenchError(f"there is no folder {path}. Give a folder or the name of a data set.")
    dataset: Dataset = registry.get("datasets", name)
    if dataset.generate:
        return _generated(dataset, dataset.generate())
    for place in _places(name, data_dir):
        if place.is_dir():
            return _from_folder(dataset, place)
    raise BenchError(_not_found(dataset, data_dir))


def installed(data_dir: Path | None = None) -> dict[str, Path | None]:
    """Return the folder of each registered data set; None if missing or built in."""
    homes = {}
    for name in registry.names("datasets"):
        places = [place for place in _places(name, data_dir) if (place / "manifest.csv").is_file()]
        homes[name] = places[0] if places else None
    return homes


def without_manifest(data_dir: Path | None = None) -> list[Path]:
    """List the folders of registered data sets that have images and labels, but no manifest."""
    places = [place for name in registry.names("datasets") for place in _places(name, data_dir)]
    kinds = ("images", "labels")
    filled = [place for place in places if all((place / kind).is_dir() for kind in kinds)]
    return sorted({place for place in filled if not (place / "manifest.csv").is_file()})


def _from_folder(dataset: Dataset, root: Path) -> DatasetHandle:
    rows = read_rows(root)
    folder.verify(rows)
    samples = tuple(folder.sample_of(row) for row in rows)
    identity, accepted = folder.manifest_sha256(rows), any(row.labels_accepted for row in rows)
    return DatasetHandle(dataset.name, dataset, samples, identity, root, accepted)


def _generated(dataset: Dataset, samples: list[Sample]) -> DatasetHandle:
    lines = sorted(f"{s.id} {s.split} {s.patient} {s.fingerprint}" for s in samples)
    identity = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return DatasetHandle(dataset.name, dataset, tuple(samples), identity, None)


def _places(name: str, data_dir: Path | None) -> list[Path]:
    named = os.environ.get("BENCH_DATA")
    cache = cache_root_if_any()
    roots = [data_dir, Path(named).expanduser() if named else None, cache and cache / "data"]
    return [root / name for root in roots if root is not None]


def sources(dataset: Dataset) -> list[str]:
    """List the commands that create the folder of a data set that is not built in."""
    name, home = dataset.name, f" (from {dataset.homepage})" if dataset.homepage else ""
    commands = [f"`bench datasets download {name}`"] if dataset.download else []
    if dataset.release:
        return [*commands, f"`bench datasets prepare {name} --from RAW --out DIR`{home}"]
    return [*commands, f"`bench datasets make DIR/{name}`, where DIR/{name} is your copy{home}"]


def _not_found(dataset: Dataset, data_dir: Path | None) -> str:
    name = dataset.name
    searched = ", ".join(str(place) for place in _places(name, data_dir)) or "any folder"
    if data_dir and not data_dir.is_dir():
        searched += f" ({data_dir} does not exist)"
    fixes = [f"`--data DIR` (or BENCH_DATA), where DIR/{name} is a folder with manifest.csv"]
    if data_dir and (data_dir / "manifest.csv").is_file():
        fixes = [f"`--dataset {data_dir}`, since this folder is itself a data set"]
    fixes += sources(dataset)
    return f"the data set {name!r} was not found in {searched}. Use one of: {'; '.join(fixes)}."


def check_installed(data_dir: Path | None, progress: Progress) -> Iterator[Problem]:
    """Compare every file of the installed data sets with the manifests."""
    for root in without_manifest(data_dir):
        fix = "restore it, or prepare the data set again with `bench datasets prepare`"
        yield Problem(root / "manifest.csv", "it is missing: the data set was not checked", fix)
    for root in sorted({root for root in installed(data_dir).values() if root is not None}):
        rows, problems = parse(root)
        for problem in problems:
            yield Problem(root / "manifest.csv", problem, f"see `bench datasets check {root}`")
        for done, row in enumerate(rows):
            progress(f"data set {root.name}", done, len(rows))
            yield from _check_row(row)
        if not problems:
            yield from _unlisted(root, rows)
        progress(f"data set {root.name}", len(rows), len(rows))


def _check_row(row: ManifestRow) -> Iterator[Problem]:
    for name, sha256 in (row.image, row.image_sha256), (row.label, row.label_sha256):
        path = row.root / name
        try:
            match(content_of(path), path, sha256)
        except BenchError as error:
            fix = "restore the file, or recreate the data set: `bench datasets prepare` or `make`"
            yield Problem(path, str(error), fix)


def _unlisted(root: Path, rows: Sequence[ManifestRow]) -> Iterator[Problem]:
    """Find files in the image and label folders that are not in the manifest."""
    named = {root / path for row in rows for path in (row.image, row.label)}
    tops = sorted({path.relative_to(root).parts[0] for path in named if path.parent != root})
    paths = [path for top in tops for path in sorted((root / top).rglob("*"))]
    for path in paths:
        if path.is_file() and path not in named and not path.name.startswith("."):
            yield Problem(path, "it is not in the manifest", "delete it, or move it elsewhere")
