"""Plug-ins are found by name, ours and anyone's; one that is broken never hides the others."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from bench import registry
from bench.cli.doctor import examine
from bench.errors import BenchError

PLUGIN = Path(__file__).parent / "plugin"
HEAD = 'from bench.api import HeadPlugin\nhead = HeadPlugin(name="{name}", build=None)\n'
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that installs a distribution with one module and one entry point."""

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
    (entry,) = [each for each in registry.broken() if each.name == name]
    return entry.reason


# ---- a plug-in of someone else ---------------------------------------------------------------


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
        found = {
            "named": "my-fm" in registry.names("backbones"),
            "origin": registry.origin("backbones", "my-fm"),
            "params": sum(each.numel() for each in built.parameters()),
            "problems": check_backbone("my-fm"),
        }
        print(json.dumps(found))
    """
    assert json.loads(run(script, site)) == {
        "named": True,
        "origin": "my-fm",
        "params": 8 * 27 + 8 + 16 * 72 + 16,
        "problems": [],
    }


@pytest.mark.slow
def test_a_third_party_backbone_runs_from_the_command_line(tmp_path: Path) -> None:
    for path in PLUGIN.iterdir():
        if path.suffix == ".py":
            shutil.copy(path, tmp_path)
    info = tmp_path / "my_fm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-fm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bench.backbones]\nmy-fm = my_fm:my_fm\n")
    script = f"""
        import sys
        from bench.cli.main import main
        sys.argv = ["bench", "run", "--backbone", "my-fm", "--limit", "2", "--epochs", "2"]
        sys.argv += ["--results", {str(tmp_path / "results")!r}, "--no-cache", "--json"]
        main()
    """
    told = json.loads(run(script, tmp_path))
    assert told["spec"]["backbone"]["name"] == "my-fm"
    assert 0 <= told["scores"]["dice"]["mean"] <= 1


def run(script: str, site: Path) -> str:
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plugin_is_found_by_its_record_and_told_with_its_distribution(install: Install) -> None:
    install("guest", HEAD.format(name="guest-head"))
    assert registry.get("heads", "guest-head").name == "guest-head"
    assert registry.origin("heads", "guest-head") == "dist-guest"
    assert registry.origin("heads", "linear") == "bench.heads.builtin"
    assert {"guest-head", "linear", "light", "decoder"} <= set(registry.names("heads"))


def test_a_family_makes_backbones_from_what_follows_its_prefix(install: Install) -> None:
    source = """
        from bench.api import Backbone, BackboneFamily
        head = BackboneFamily("zoo:", lambda rest: Backbone("zoo:" + rest, build=None))
    """
    install("zoo", source, kind="backbones")
    assert registry.get("backbones", "zoo:a/b:c").name == "zoo:a/b:c"
    assert registry.origin("backbones", "zoo:a") == "dist-zoo"


# ---- broken ones -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "told"),
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
def test_a_broken_plugin_is_told_with_its_reason_and_the_others_work(
    install: Install, source: str, told: str
) -> None:
    install("broken_one", source)
    install("sound", HEAD.format(name="sound"))
    assert told in reason("broken_one")
    assert {"sound", "linear"} <= set(registry.names("heads"))
    with pytest.raises(BenchError, match="of dist-broken_one could not be loaded") as caught:
        registry.get("heads", "broken_one")
    assert told in str(caught.value)


def test_a_keyboard_interrupt_is_not_taken_for_a_broken_plugin(install: Install) -> None:
    install("slow_one", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.names("heads")


@pytest.mark.fault(25)
def test_what_a_plugin_prints_at_import_stays_out_of_the_output(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("loud", "print('hello from loud')\n" + HEAD.format(name="loud"))
    assert "loud" in registry.names("heads")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "hello from loud" in printed.err


@pytest.mark.fault(25)
def test_two_of_one_name_are_an_error_for_that_name_alone(install: Install, tmp_path: Path) -> None:
    install("first", HEAD.format(name="twin"))
    install("second", HEAD.format(name="twin"))
    places = [f"dist-{name} ({tmp_path / name}.py)" for name in ("first", "second")]
    with pytest.raises(BenchError, match=re.escape(f"named 'twin': {' and '.join(places)}")):
        registry.get("heads", "twin")
    (finding,) = [each for each in examine(None, tmp_path) if "named twin" in each.name]
    assert not finding.ok
    assert finding.result == " and ".join(places)
    assert registry.get("heads", "linear").name == "linear"
    assert not [each for each in registry.broken() if each.kind == "heads"]


@pytest.mark.fault(25)
def test_a_file_of_ours_without_a_record_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install
) -> None:
    import bench.heads

    (tmp_path / "forgotten.py").write_text("x = 1\n")
    (tmp_path / "_private.py").write_text("raise RuntimeError\n")
    monkeypatch.setattr(bench.heads, "__path__", [*bench.heads.__path__, str(tmp_path)])
    registry.catalogue.cache_clear()
    assert reason("forgotten").startswith("TypeError: bench.heads.forgotten holds no HeadPlugin")
    assert "_private" not in {each.name for each in registry.broken()}


# ---- unknown names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "meant"), [("linaer", "linear"), ("LINEAR", "linear"), ("decode", "decoder")]
)
def test_an_unknown_name_gets_suggestions(asked: str, meant: str) -> None:
    with pytest.raises(BenchError, match=f"unknown head '{asked}'. Did you mean {meant}"):
        registry.get("heads", asked)


def test_an_unknown_prefix_gets_suggestions(install: Install) -> None:
    source = """
        from bench.api import BackboneFamily
        head = BackboneFamily("zoology:", lambda rest: None)
    """
    install("zoo", source, kind="backbones")
    with pytest.raises(BenchError, match="Did you mean zoology:"):
        registry.get("backbones", "zoolgy:a_very_long_model_name/with_its_weights")


def test_an_unknown_name_says_what_could_not_be_loaded(install: Install) -> None:
    install("broken_one", "raise RuntimeError")
    with pytest.raises(BenchError, match="1 could not be loaded: see `bench doctor`"):
        registry.get("heads", "head-of-broken-one")
    with pytest.raises(BenchError, match=r"unknown head 'xyzzy'\. `bench list heads` shows all"):
        registry.get("heads", "xyzzy")


@pytest.mark.skipif(sys.platform == "win32", reason="keeps a folder that is in use")
def test_plugins_are_found_where_the_working_folder_was_deleted(tmp_path: Path) -> None:
    script = f"""
        import os
        os.chdir({str(tmp_path)!r})
        os.rmdir({str(tmp_path)!r})
        from bench import registry
        print("dice" in registry.names("metrics"), registry.broken())
    """
    assert run(script, tmp_path.parent) == "True []\n"
