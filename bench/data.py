"""Find a data set by its name or its path, and refuse one whose parts are not independent."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import folder, registry
from bench.api import Dataset, Sample
from bench.cache_place import cache_root_if_any
from bench.errors import BenchError


@dataclass(frozen=True)
class DataHandle:
    """A data set that was found.

    Attributes:
        dataset: its record; for a bare folder one that holds the folder's name only.
        identity: sha256 (hex) of what it holds: ids, splits, patients, images and labels.
        root: its folder; None for a built-in set.
    """

    name: str
    dataset: Dataset
    samples: tuple[Sample, ...]
    identity: str
    root: Path | None

    @property
    def known(self) -> str:
        """The name, where it is that of a known set; that of a bare folder is of no account."""
        return self.name if self.name in registry.names("datasets") else ""


def find(name: str, data_dir: Path | None = None) -> DataHandle:
    """Find a data set by name (built in, in `data_dir`, BENCH_DATA or the cache) or by path.

    Raises:
        BenchError: there is no such set (the message says where it was looked for and what to
            do), or its files are not those that its manifest describes.
    """
    path = Path(name).expanduser()
    known = registry.names("datasets")
    if path.is_dir() and (path.name != name or name not in known):
        path = path.resolve()
        if not path.name.isprintable():
            raise BenchError(f"the folder's name, {path.name!r}, is not printable: rename it.")
        unknown = Dataset(name=path.name, title=f"the folder {path}")
        own = registry.get("datasets", path.name) if path.name in known else unknown
        return _from_folder(own, path)
    if os.sep in name:
        raise BenchError(f"there is no folder {path}, and no data set has such a name.")
    dataset: Dataset = registry.get("datasets", name)
    if dataset.generate:
        return _generated(dataset, dataset.generate())
    for place in _places(name, data_dir):
        if place.is_dir():
            return _from_folder(dataset, place)
    raise BenchError(_not_found(dataset, data_dir))


def installed(data_dir: Path | None = None) -> dict[str, Path | None]:
    """Say for each known data set in which folder it lies; None: nowhere, or it is built in."""
    homes = {}
    for name in registry.names("datasets"):
        places = [place for place in _places(name, data_dir) if (place / "manifest.csv").is_file()]
        homes[name] = places[0] if places else None
    return homes


def without_manifest(data_dir: Path | None = None) -> list[Path]:
    """List the folders of known data sets that hold images and labels, but no manifest."""
    places = [place for name in registry.names("datasets") for place in _places(name, data_dir)]
    kinds = ("images", "labels")
    filled = [place for place in places if all((place / kind).is_dir() for kind in kinds)]
    return sorted({place for place in filled if not (place / "manifest.csv").is_file()})


def leaks(samples: Sequence[Sample], parts: Sequence[str] | None = None) -> list[str]:
    """Find the patients and the pictures that stand in more than one part of a data set.

    Args:
        parts: the part of each sample (of a fold, for example); its split where not given.
    """
    parts = [sample.split for sample in samples] if parts is None else parts
    patients: dict[str, set[str]] = defaultdict(set)
    pictures: dict[str, dict[str, str]] = defaultdict(dict)
    for sample, part in zip(samples, parts, strict=True):
        patients[sample.patient].add(part)
        image, _ = sample.read()
        digest = hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest()
        pictures[digest].setdefault(part, sample.id)
    found = [
        f"the patient {patient!r} is in {' and '.join(sorted(where))}"
        for patient, where in sorted(patients.items())
        if len(where) > 1
    ]
    for same in pictures.values():
        if len(same) > 1:
            names = " and ".join(f"{name} ({part})" for part, name in same.items())
            found.append(f"the same picture is in {names}")
    return found


def refuse_leaks(samples: Sequence[Sample], parts: Sequence[str] | None = None) -> None:
    """Raise a BenchError where `leaks` finds something: a score on such a set means little."""
    if found := leaks(samples, parts):
        shown = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        raise BenchError(
            f"the parts of this data set are not independent: {shown}. "
            "In manifest.csv, put each patient and each picture into one split, and give equal "
            "pictures one patient."
        )


def _from_folder(dataset: Dataset, root: Path) -> DataHandle:
    samples = tuple(folder.read(root))
    folder.verify(root)
    return DataHandle(dataset.name, dataset, samples, folder.manifest_sha256(root), root)


def _generated(dataset: Dataset, samples: list[Sample]) -> DataHandle:
    lines = sorted(f"{each.id} {each.split} {each.patient} {each.fingerprint}" for each in samples)
    identity = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return DataHandle(dataset.name, dataset, tuple(samples), identity, None)


def _places(name: str, data_dir: Path | None) -> list[Path]:
    named = os.environ.get("BENCH_DATA")
    cache = cache_root_if_any()
    roots = [data_dir, Path(named).expanduser() if named else None, cache and cache / "data"]
    return [root / name for root in roots if root is not None]


def sources(dataset: Dataset) -> list[str]:
    """Name the commands that give the folder of a data set that is not built in."""
    name, home = dataset.name, f" (from {dataset.homepage})" if dataset.homepage else ""
    found = [f"`bench datasets download {name}`"] if dataset.download else []
    if dataset.release:
        return [*found, f"`bench datasets prepare {name} --from RAW --out DIR`{home}"]
    return [*found, f"`bench datasets make DIR/{name}` where that holds your copy{home}"]


def _not_found(dataset: Dataset, data_dir: Path | None) -> str:
    name = dataset.name
    looked = ", ".join(str(place) for place in _places(name, data_dir)) or "any folder"
    if data_dir and not data_dir.is_dir():
        looked += f" (there is no folder {data_dir})"
    cures = [f"`--data DIR` (or BENCH_DATA) where DIR/{name} is a folder with manifest.csv"]
    if data_dir and (data_dir / "manifest.csv").is_file():
        cures = [f"`--dataset {data_dir}`: that folder is itself a data set"]
    cures += sources(dataset)
    return (
        f"the data set {name!r} was not found in {looked}. Any of these helps: {'; '.join(cures)}."
    )
