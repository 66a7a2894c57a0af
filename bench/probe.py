"""Import a stranger's plug-in in a process of its own before this one does.

An exception of a plug-in can be caught; `os._exit`, a crash and an import that never ends can not.
What ends well is remembered, until the plug-in's file or version changes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import EntryPoint
from pathlib import Path

from bench.errors import BenchError

TIMEOUT_S = 60
SCRIPT = """
import importlib, os, sys
sys.path[:] = sys.argv[3:]
try:
    importlib.import_module(sys.argv[1])
except BaseException:
    pass  # who imports it next is told
os._exit(int(sys.argv[2]))
"""


def probe(point: EntryPoint) -> None:
    """Import the module of an entry point in a child, unless that went well before.

    Raises:
        RuntimeError: the import ended its process, or did not end; the message tells which.
    """
    from bench.cache_place import cache_root_if_any

    name, root = _name(point), cache_root_if_any()
    stamp = root and name and root / "plug-ins" / name
    if not name or (stamp and stamp.is_file()):
        return
    if reason := _reason(point.module):
        raise RuntimeError(reason)
    if not stamp:
        return
    from bench.store import write_bytes

    with suppress(BenchError):  # a cache that cannot be written costs a second each time
        write_bytes(stamp, point.value.encode() + b"\n")


def _reason(module: str) -> str:
    """Say how the import of a module went wrong; "" where control came back from it."""
    returned = 64 + secrets.randbelow(60)  # not to be met by chance
    command = [sys.executable, "-c", SCRIPT, module, str(returned), *sys.path]
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"its import did not end within {TIMEOUT_S} s"
    if done.returncode == returned:
        return ""
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return f"its import ended the process, with {how}"


def _name(point: EntryPoint) -> str:
    """Name the file that remembers a plug-in; "" where there is nothing to import."""
    try:
        found = importlib.util.find_spec(point.module.partition(".")[0])
    except (ImportError, ValueError):
        return ""
    if found is None:
        return ""
    file = Path(found.origin or "")
    state = file.stat() if file.is_file() else None
    version = point.dist.version if point.dist else ""
    facts = [point.value, version, sys.executable, sys.version, str(file)]
    facts += [str(state.st_mtime_ns), str(state.st_size)] if state else []
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
