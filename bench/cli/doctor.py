"""What a user should know about this machine before a run, and how to mend what is wrong."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import registry
from bench.api.report import several
from bench.data.find import installed, sources
from bench.errors import BenchError
from bench.store.cache_dir import cache_root
from bench.store.locks import orphans
from bench.store.results import Store

SCARCE_BYTES = 5 << 30


@dataclass(frozen=True)
class Check:
    """One thing looked at; `ok` is None for what is not here and need not be."""

    what: str
    ok: bool | None
    found: str
    cure: str = ""


def examine(data_dir: Path | None, results: Path) -> list[Check]:
    """Look at Python, the libraries, the GPU, disks, data sets, plug-ins and the hub token."""
    return [
        Check("Python", True, f"{platform.python_version()} on {platform.machine()}"),
        *(_library(name) for name in ("torch", "timm", "open_clip_torch", "huggingface_hub")),
        _gpu(),
        _cache(),
        _disk("results", results),
        _store(results),
        *_data_sets(data_dir),
        *_plugins(),
        _token(),
    ]


def _library(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "not installed", f"pip install {name}")


def _gpu() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("GPU", False, f"torch does not import: {error}", "reinstall torch")
    if not torch.cuda.is_available():
        threads = several(torch.get_num_threads(), "CPU thread")
        return Check("GPU", None, f"none: runs take {threads}")
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Check("GPU", True, f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")


def _cache() -> Check:
    try:
        return _disk("cache", cache_root())
    except BenchError as error:
        found, _, cure = str(error).partition(": ")
        return Check("disk for cache", False, found, cure)


def _disk(what: str, folder: Path) -> Check:
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free, writable = shutil.disk_usage(place).free, place.is_dir() and os.access(place, os.W_OK)
    ok = writable and free >= SCARCE_BYTES
    found = f"{folder}: {free / 2**30:.0f} GiB free" + ("" if writable else ", not writable")
    cure = "" if ok else "choose another folder: BENCH_CACHE for the cache, --results for results"
    return Check(f"disk for {what}", ok, found, cure)


def _store(results: Path) -> Check:
    """Count what is damaged or was left in the store; `bench verify` looks at more than records."""
    found = list(Store(results).records())
    damaged = sum(isinstance(each, BenchError) for each in found)
    aside = len(list((results / "quarantine").glob("*")))
    left = [each for folder in results.glob("work/**/") for each in orphans(folder)]
    sound = several(len(found) - damaged, "sound record")
    told = f"{sound}, {damaged} damaged, {aside} put aside in quarantine/"
    cures = ["`bench verify` names them: delete each folder, and run it again"] if damaged else []
    if aside:
        cures.append(f"{results / 'quarantine'} may be deleted: its runs can be made again")
    if left:
        cures.append(f"{len(left)} files of killed processes: {', '.join(map(str, left[:3]))}")
    return Check("results", not damaged, told, "; ".join(cures))


def _data_sets(data_dir: Path | None) -> Iterator[Check]:
    for name, home in installed(data_dir).items():
        record = registry.get("datasets", name)
        if record.generate:
            yield Check(f"data set {name}", True, "built in")
        else:
            cure = "" if home else " or ".join([f"--data DIR that holds {name}/", *sources(record)])
            ok = True if home else None
            yield Check(f"data set {name}", ok, str(home or "not here"), cure)


def _plugins() -> Iterator[Check]:
    broken, doubles = registry.broken(), registry.doubles()
    for each in broken:
        cure = f"mend or uninstall {each.origin}"
        yield Check(f"plug-in {each.name}", False, each.reason, cure)
    for kind, name, places in doubles:
        cure = "neither can be used: uninstall or rename one of them"
        yield Check(f"two {kind} named {name}", False, " and ".join(places), cure)
    if not broken and not doubles:
        yield Check("plug-ins", True, "all load")


def _token() -> Check:
    """Tell whether there is a token for the Hugging Face hub; never its value."""
    from huggingface_hub import get_token

    if get_token():
        return Check("hub token", True, "present")
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return Check("hub token", None, f"none{offline}", "`hf auth login` for gated models")
