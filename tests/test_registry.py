"""The registry of plug-ins: built-in, third-party and broken ones, and `bench init`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from bench import registry
from bench.cli.doctor import examine
from bench.cli.init import start_backbone
from bench.errors import BenchError

PLUGIN = Path(__file__).parent / "plugin"
HEAD = 'from bench.api import HeadPlugin\nhead = HeadPlugin(name="{name}", build=None)\n'
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs a distribution with one module and one entry point."""

    def install(module: str, source: str, kind: str = "heads", target: str = "head") -> None:
        (tmp_path / f"{module}.py").write_text(dedent(source))
        about = tmp_path / f"dist_{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: dist-{module}\nVersion: 1.0\n"
        )
        points = f"[bench.{kind}]\n{module} = {module}:{target}\n"
        (about / "entry_points.txt").write_text(points)
        registry.catalogue.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").is_file():
            del sys.modules[name]
    registry.catalogue.cache_clear()


def reason(name: str) -> str:
    (entry,) = [plugin for plugin in registry.broken() if plugin.name == name]
    return entry.reason


# ---- third-party plug-ins --------------------------------------------------------------------


def test_a_third_party_package_adds_a_backbone(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"]
    offline = ["--no-build-isolation", "--no-index", "--target", str(site), str(source)]
    done = subprocess.run([*pip, *offline], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    script = """
        import json
        from bench import registry
        from bench.testing import check_backbone
        built = registry.get("backbones", "my-fm").build()
        result = {
            "named": "my-fm" in registry.names("backbones"),
            "origin": registry.origin("backbones", "my-fm"),
            "params": sum(p.numel() for p in built.parameters()),
            "problems": check_backbone("my-fm"),
        }
        print(json.dumps(result))
    """
    assert json.loads(run(script, site)) == {
        "named": True,
        "origin": "my-fm",
        "params": 8 * 27 + 8 + 16 * 72 + 16,
        "problems": [],
    }


def run(script: str, site: Path) -> str:
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plugin_is_listed_with_its_distribution(install: Install) -> None:
    install("guest", HEAD.format(name="guest-head"))
    assert registry.get("heads", "guest-head").name == "guest-head"
    assert registry.origin("heads", "guest-head") == "dist-guest"
    assert registry.origin("heads", "linear") == "bench.heads.builtin"
    assert {"guest-head", "linear", "light", "decoder"} <= set(registry.names("heads"))


def test_a_family_builds_backbones_from_the_text_after_its_prefix(install: Install) -> None:
    source = """
        from bench.api import Backbone, BackboneFamily
        head = BackboneFamily("zoo:", lambda rest: Backbone("zoo:" + rest, build=None))
    """
    install("zoo", source, kind="backbones")
    assert registry.get("backbones", "zoo:a/b:c").name == "zoo:a/b:c"
    assert registry.origin("backbones", "zoo:a") == "dist-zoo"


# ---- broken plug-ins -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise RuntimeError('no licence server')", "RuntimeError: no licence server"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def f(:", "SyntaxError"),
        ("import no_such_library.part", "`pip install no_such_library`"),
        ("head = 'a string'", "broken_one:head is a str, not a HeadPlugin"),
        ("from bench.api import Metric\nhead = Metric('m', None, {})", "is a Metric, not a Head"),
        ("tail = 1", "AttributeError"),
    ],
)
@pytest.mark.fault(25)
def test_a_broken_plugin_is_reported_and_the_others_work(
    install: Install, source: str, problem: str
) -> None:
    install("broken_one", source)
    install("sound", HEAD.format(name="sound"))
    assert problem in reason("broken_one")
    assert {"sound", "linear"} <= set(registry.names("heads"))
    with pytest.raises(BenchError, match="of dist-broken_one could not be loaded") as caught:
        registry.get("heads", "broken_one")
    assert problem in str(caught.value)


@pytest.mark.fault(25)
def test_output_of_a_plugin_at_import_goes_to_stderr(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("loud", "print('hello from loud')\n" + HEAD.format(name="loud"))
    assert "loud" in registry.names("heads")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "hello from loud" in printed.err


@pytest.mark.fault(25)
def test_duplicate_names_are_an_error_for_that_name_alone(install: Install, tmp_path: Path) -> None:
    install("first", HEAD.format(name="twin"))
    install("second", HEAD.format(name="twin"))
    places = [f"dist-{name} ({tmp_path / name}.py)" for name in ("first", "second")]
    with pytest.raises(BenchError, match=re.escape(f"named 'twin': {' and '.join(places)}")):
        registry.get("heads", "twin")
    (check,) = [check for check in examine(None, tmp_path) if "named twin" in check.name]
    assert not check.ok
    assert check.result == " and ".join(places)
    assert registry.get("heads", "linear").name == "linear"
    assert not [plugin for plugin in registry.broken() if plugin.kind == "heads"]


@pytest.mark.fault(25)
def test_a_built_in_file_without_a_record_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install
) -> None:
    import bench.heads

    (tmp_path / "forgotten.py").write_text("x = 1\n")
    (tmp_path / "_private.py").write_text("raise RuntimeError\n")
    monkeypatch.setattr(bench.heads, "__path__", [*bench.heads.__path__, str(tmp_path)])
    registry.catalogue.cache_clear()
    assert reason("forgotten").startswith("TypeError: bench.heads.forgotten contains no HeadPlugin")
    assert "_private" not in {plugin.name for plugin in registry.broken()}


# ---- unknown names ---------------------------------------------------------------------------


def test_an_unknown_name_gets_suggestions(install: Install) -> None:
    for name, suggestion in (("linaer", "linear"), ("LINEAR", "linear"), ("decode", "decoder")):
        with pytest.raises(BenchError, match=f"unknown head '{name}'. Did you mean {suggestion}"):
            registry.get("heads", name)
    source = """
        from bench.api import BackboneFamily
        head = BackboneFamily("zoology:", lambda rest: None)
    """
    install("zoo", source, kind="backbones")
    with pytest.raises(BenchError, match="Did you mean zoology:"):
        registry.get("backbones", "zoolgy:a_very_long_model_name/with_its_weights")
    install("broken_one", "raise RuntimeError")
    with pytest.raises(BenchError, match="1 could not be loaded: see `bench doctor`"):
        registry.get("heads", "head-of-broken-one")


# ---- `bench init` ----------------------------------------------------------------------------

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new backbone that counts as installed."""
    folder = tmp_path_factory.mktemp("started")
    start_backbone("my_first_fm", folder)
    about = folder / "my_first_fm-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-first-fm\nVersion: 0.1.0\n")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    ((name, target),) = project["entry-points"]["bench.backbones"].items()
    (about / "entry_points.txt").write_text(f"[bench.backbones]\n{name} = {target}\n")
    return folder


def test_a_new_backbone_runs_on_the_synthetic_images(started: Path) -> None:
    script = f"""
        import sys
        from bench.cli.main import main
        sys.argv = ["bench", "run", "--backbone", "my-first-fm", "--limit", "2", "--epochs", "2"]
        sys.argv += ["--results", {str(started / "results")!r}, "--no-cache", "--json"]
        main()
    """
    (document,) = json.loads(run(script, started))["runs"]
    assert document["backbone"] == "my-first-fm"


def test_the_tests_of_a_new_backbone_pass(started: Path) -> None:
    path = os.pathsep.join([str(started), str(CHECKOUT)])
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(started)]
    done = subprocess.run(
        pytest_, capture_output=True, text=True, cwd=started, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_invalid_and_existing_names_are_refused(tmp_path: Path) -> None:
    for name in ("my-fm", "2nd", "class", "", "../up", "MyFM", "_mine", "größe"):
        with pytest.raises(BenchError, match="such as my_fm"):
            start_backbone(name, tmp_path / "new")
    for name, problem in (
        ("cmd_tiny", r"'cmd-tiny' of bench\.backbones\.cmd.* exists already"),
        ("json", "'json' is installed already"),
    ):
        with pytest.raises(BenchError, match=problem):
            start_backbone(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_prints_the_next_steps_and_overwrites_nothing(
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
    output = json.loads(out)
    assert output["backbone"] == "other-fm"
    assert all(Path(path).is_file() for path in output["files"])
    for name in ("new_fm.py", "test_new_fm.py", "pyproject.toml"):
        mine = tmp_path / name / name
        mine.parent.mkdir()
        mine.write_text("mine")
        code, _, err = command("init", "backbone", "new_fm", "--out", name)
        assert code == 2
        assert f"{name} exist already" in err
        assert list(mine.parent.iterdir()) == [mine]
        assert mine.read_text() == "mine"
