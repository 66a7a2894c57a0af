"""Check this machine before a run, and report how to fix problems."""

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
    """The result of a check; `ok` is None for something that is absent but optional."""

    name: str
    ok: bool | None
    result: str
    fix: str = ""


def examine(data_dir: Path | None, results: Path) -> list[Check]:
    """Check Python, libraries, GPU, disks, results, data sets, plug-ins and hub token."""
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
        return Check("GPU", None, f"none: runs use {threads}")
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Check("GPU", True, f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")


def _cache() -> Check:
    try:
        return _disk("cache", cache_root())
    except BenchError as error:
        problem, _, fix = str(error).partition(": ")
        return Check("disk for cache", False, problem, fix)


def _disk(purpose: str, folder: Path) -> Check:
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    ok = writable and free >= SCARCE_BYTES
    result = f"{folder}: {free / 2**30:.0f} GiB free" + ("" if writable else ", not writable")
    fix = "" if ok else "choose another folder: BENCH_CACHE for the cache, --results for results"
    return Check(f"disk for {purpose}", ok, result, fix)


def _store(results: Path) -> Check:
    """Count damaged records and files of killed processes; `bench verify` checks all files."""
    records = list(Store(results).records())
    damaged = sum(isinstance(record, BenchError) for record in records)
    quarantined = len(list((results / "quarantine").glob("*")))
    temporary = [path for folder in results.glob("work/**/") for path in orphans(folder)]
    valid = several(len(records) - damaged, "valid record")
    fixes = []
    if damaged:
        fixes.append("`bench verify` lists the damaged records: delete their folders and rerun")
    if quarantined:
        fixes.append(f"{results / 'quarantine'} may be deleted: its runs can be repeated")
    if temporary:
        names = ", ".join(map(str, temporary[:3]))
        fixes.append(f"{len(temporary)} files of killed processes may be deleted: {names}")
    result = f"{valid}, {damaged} damaged, {quarantined} in quarantine/"
    return Check("results", not damaged, result, "; ".join(fixes))


def _data_sets(data_dir: Path | None) -> Iterator[Check]:
    for name, home in installed(data_dir).items():
        record = registry.get("datasets", name)
        if record.generate:
            yield Check(f"data set {name}", True, "built in")
        else:
            fixes = [] if home else [f"--data DIR that contains {name}/", *sources(record)]
            ok = True if home else None
            yield Check(f"data set {name}", ok, str(home or "not found"), " or ".join(fixes))


def _plugins() -> Iterator[Check]:
    broken, doubles = registry.broken(), registry.doubles()
    for plugin in broken:
        fix = f"fix or uninstall {plugin.origin}"
        yield Check(f"plug-in {plugin.name}", False, plugin.reason, fix)
    for kind, name, origins in doubles:
        fix = "neither can be used: uninstall or rename one of them"
        yield Check(f"two {kind} named {name}", False, " and ".join(origins), fix)
    if not broken and not doubles:
        yield Check("plug-ins", True, "all load")


def _token() -> Check:
    """Check whether there is a token for the Hugging Face hub, without showing it."""
    from huggingface_hub import get_token

    if get_token():
        return Check("hub token", True, "present")
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return Check("hub token", None, f"none{offline}", "`hf auth login` for gated models")
