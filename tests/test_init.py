"""`bench init`: what it writes works as it is, and nothing that is there is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from test_registry import run

from bench import registry
from bench.cli.init import start_backbone
from bench.errors import BenchError

CONFIG = Path(__file__).parent.parent / "pyproject.toml"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new backbone, which Python takes for installed."""
    folder = tmp_path_factory.mktemp("started")
    start_backbone("my_first_fm", folder)
    about = folder / "my_first_fm-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-first-fm\nVersion: 0.1.0\n")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    ((name, target),) = project["entry-points"]["bench.backbones"].items()
    (about / "entry_points.txt").write_text(f"[bench.backbones]\n{name} = {target}\n")
    return folder


def test_a_new_backbone_is_found_and_keeps_its_promises(started: Path) -> None:
    script = """
        import json
        from bench import registry
        from bench.testing import check_backbone
        origin = registry.origin("backbones", "my-first-fm")
        print(json.dumps([origin, check_backbone("my-first-fm")]))
    """
    assert json.loads(run(script, started)) == ["my-first-fm", []]


def test_a_new_backbone_runs_on_the_synthetic_images(started: Path) -> None:
    script = f"""
        import sys
        from bench.cli.main import main
        sys.argv = ["bench", "run", "--backbone", "my-first-fm", "--limit", "2", "--epochs", "2"]
        sys.argv += ["--results", {str(started / "results")!r}, "--no-cache", "--json"]
        main()
    """
    assert json.loads(run(script, started))["spec"]["backbone"]["name"] == "my-first-fm"


def test_the_test_of_a_new_backbone_passes(started: Path) -> None:
    path = os.pathsep.join([str(started), str(CONFIG.parent)])
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(started)]
    done = subprocess.run(
        pytest_, capture_output=True, text=True, cwd=started, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_a_new_backbone_is_in_house_style(started: Path) -> None:
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", str(CONFIG)]
        done = subprocess.run([*ruff, str(started)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("lost", ["new_fm.py", "test_new_fm.py", "pyproject.toml"])
def test_a_file_that_is_there_stays_and_no_other_is_written(tmp_path: Path, lost: str) -> None:
    (tmp_path / lost).write_text("mine")
    with pytest.raises(BenchError, match=f"{lost} exist already"):
        start_backbone("new_fm", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [lost]
    assert (tmp_path / lost).read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["my-fm", "2nd", "class", "", "../up", "MyFM", "_mine", "fm_", "größe", "a b"]
)
def test_what_is_no_name_for_a_module_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BenchError, match="such as my_fm"):
        start_backbone(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    assert "cmd-tiny" in registry.names("backbones")
    with pytest.raises(BenchError, match=r"'cmd-tiny' of bench\.backbones\.cmd.* exists already"):
        start_backbone("cmd_tiny", tmp_path)
    with pytest.raises(BenchError, match="'json' is installed already"):
        start_backbone("json", tmp_path)


def test_the_command_tells_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("init", "backbone", "new_fm")
    assert code == 0
    folder = "bench-new-fm"  # beside a folder `new_fm` that would be what Python imports
    following = (
        f"pip install -e '{folder}[test]'",
        "bench check new-fm",
        f"python -m pytest {folder}",
    )
    assert all(line in out for line in (*following, "bench run --backbone new-fm"))
    code, out, _ = command("init", "backbone", "other_fm", "--out", "there", "--json")
    told = json.loads(out)
    assert told["backbone"] == "other-fm"
    assert all(Path(each).is_file() for each in told["files"])
    code, _, err = command("init", "backbone", "new_fm")
    assert code == 2
    assert "not overwritten" in err
