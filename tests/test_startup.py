"""What every command waits for: how much is imported before anything is done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import request, run, squares

SCRIPT = """
import sys
from bench.cli.main import main
sys.argv = ["bench", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
sys.stderr.write(" ".join(sys.modules))
"""


def loaded(*words: str) -> set[str]:
    """Give the names of the modules that a command has imported when it ends."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("words", [("--help",), ("run", "--help")])
def test_help_loads_no_library_of_numbers_but_numpy(words: tuple[str, ...]) -> None:
    assert not loaded(*words) & {"torch", "timm", "pandas", "scipy", "matplotlib", "PIL"}


@pytest.mark.parametrize("words", [("cache", "list", "--json"), ("list", "backbones")])
def test_lists_load_no_torch(words: tuple[str, ...]) -> None:
    assert not loaded(*words) & {"torch", "timm", "pandas", "matplotlib"}


def test_a_board_loads_no_torch_and_nothing_that_draws_or_labels(tmp_path: Path) -> None:
    run(request(squares(tmp_path / "s")), tmp_path)
    found = loaded("leaderboard", "--results", str(tmp_path / "results"))
    heavy = {"torch", "timm", "pandas", "matplotlib", "scipy.ndimage", "scipy.optimize"}
    assert not found & heavy
