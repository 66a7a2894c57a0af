"""Mutation tests: apply one fault at a time to a copy of the checkout and run its tests.

Each fault in `mutants.toml` changes a number or weakens a guarantee, so a test must fail. Run this
before a release; it takes about an hour on two cores:

    python tests/mutants/run.py                   # all mutants
    python tests/mutants/run.py --only NAME ...   # some of them
    python tests/mutants/run.py --json            # the result as JSON

The exit code is 0 if every mutant is killed. A mutant whose file or text has moved is reported as
"does not apply": update `mutants.toml`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 900  # a mutant that hangs is killed
KILLED, SURVIVED, DOES_NOT_APPLY = "killed", "survived", "does not apply"


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        file: path from the root of the checkout.
        old: text that occurs exactly once in the file.
        new: the text that replaces it.
        tests: arguments for pytest, normally the test files of the area.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """The outcome of one mutant; `detail` is the first failing test, or why it does not apply."""

    name: str
    status: str
    seconds: float
    detail: str = ""


def load_mutants(only: Sequence[str] = ()) -> list[Mutant]:
    """Read `mutants.toml`.

    Raises:
        SystemExit: a name of `only` is unknown, or two mutants have the same name.
    """
    tables = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text())["mutant"]
    mutants = [Mutant(**{**table, "tests": tuple(table["tests"])}) for table in tables]
    names = [mutant.name for mutant in mutants]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise SystemExit(f"mutants.toml has duplicate names: {', '.join(duplicates)}")
    if unknown := sorted(set(only) - set(names)):
        raise SystemExit(f"mutants.toml has no mutant {', '.join(unknown)}")
    return [mutant for mutant in mutants if not only or mutant.name in only]


def copy_checkout(target: Path) -> None:
    """Copy every file of the checkout that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    for name in filter(None, listing.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target / name)


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run pytest in the copy.

    Returns:
        The exit code of pytest, and its first line about a failed test.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0"]
    command += ["-m", "not slow and not gpu and not network", *tests]
    with tempfile.TemporaryDirectory() as cache:  # no result of a mutant may outlive it
        environment = os.environ | {"PYTHONPATH": str(copy), "BENCH_CACHE": cache}
        try:
            done = subprocess.run(
                command,
                cwd=copy,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return 1, f"no result after {TIMEOUT_S} s"
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (failed or lines[-1:] or [done.stderr[-200:]])[0]


def mutated(source: str, mutant: Mutant) -> str:
    """Return the source with the fault.

    Raises:
        ValueError: the old text does not occur exactly once, or the result is no Python.
    """
    if (count := source.count(mutant.old)) != 1:
        raise ValueError(f"the old text occurs {count} times in {mutant.file}")
    changed = source.replace(mutant.old, mutant.new)
    try:
        compile(changed, mutant.file, "exec")
    except SyntaxError as error:
        raise ValueError(f"the new text is a syntax error: {error}") from error
    return changed


def write_source(path: Path, source: str) -> None:
    """Write a module and drop its bytecode, which a change within one second would leave in use."""
    path.write_text(source)
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)


def check_mutant(copy: Path, mutant: Mutant) -> Result:
    """Run the tests of a mutant in the copy, and leave the copy unchanged."""
    began = time.monotonic()
    path = copy / mutant.file
    try:
        original = path.read_text()
        changed = mutated(original, mutant)
    except (OSError, ValueError) as error:
        return Result(mutant.name, DOES_NOT_APPLY, 0.0, str(error))
    write_source(path, changed)
    try:
        code, line = run_tests(copy, mutant.tests)
    finally:
        write_source(path, original)
    seconds = round(time.monotonic() - began, 1)
    if code == 0:
        return Result(mutant.name, SURVIVED, seconds)
    if code in (1, 2):  # a test failed, or a test file could not be imported
        return Result(mutant.name, KILLED, seconds, line)
    return Result(mutant.name, DOES_NOT_APPLY, seconds, f"pytest exited with {code}: {line}")


def main() -> int:
    """Test the mutants and print the outcome of each; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="test these mutants")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    mutants = load_mutants(options.only)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        copy_checkout(copy)
        files = sorted({test for mutant in mutants for test in mutant.tests})
        code, line = run_tests(copy, files)
        if code != 0:
            raise SystemExit(f"the tests fail without any mutant: {line}")
        for mutant in mutants:
            result = check_mutant(copy, mutant)
            results.append(result)
            if not options.json:
                print(f"{result.status:15} {result.seconds:6.1f} s  {result.name}  {result.detail}")
                sys.stdout.flush()
    counts = {
        status: sum(result.status == status for result in results)
        for status in (KILLED, SURVIVED, DOES_NOT_APPLY)
    }
    if options.json:
        print(json.dumps({"counts": counts, "mutants": [asdict(each) for each in results]}))
    else:
        print(f"{len(results)} mutants: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    return 0 if counts[KILLED] == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
