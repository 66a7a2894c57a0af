"""The hash of plug-in code: which files are part of a run's identity."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from bench import registry
from bench.runs import code_hash

CHECKOUT = Path(__file__).parent.parent


def _plan(*_: object) -> list: ...


def test_a_new_file_beside_a_plug_in_changes_nothing_and_an_imported_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = registry.get("backbones", "rgb")
    shutil.copytree(CHECKOUT / "backbones", tmp_path / "backbones")
    copied = tmp_path / "backbones" / "controls.py"
    monkeypatch.setattr(code_hash.inspect, "getfile", lambda _: str(copied))
    before = code_hash.sha256([rgb.build], [])
    (tmp_path / "backbones" / "_net.py").write_text("")
    assert code_hash.sha256([rgb.build], []) == before
    (tmp_path / "backbones" / "_controls.py").write_text("# another network\n")
    assert code_hash.sha256([rgb.build], []) != before


def test_the_code_of_a_backbone_inside_a_backbone_counts() -> None:
    cmd = registry.get("backbones", "cmd-tiny")
    networks = [cmd.build(), cmd.build(condition="random-vit-s")]
    alone, conditioned = [{p.name for p in code_hash.class_files(n)} for n in networks]
    assert "network.py" in alone
    assert conditioned - alone == {"_timm.py"}
    hashes = {code_hash.sha256([cmd.build], [network]) for network in networks}
    assert len(hashes) == 2


def test_relative_imports_inside_functions_are_followed() -> None:
    files = {path.name for path in code_hash.with_imports([CHECKOUT / "heads" / "builtin.py"])}
    assert {"builtin.py", "_light.py", "_linear.py", "_decoder_cup.py", "_decoder.py"} <= files


@pytest.mark.parametrize("folder", ["protocols", "metrics"])
def test_absolute_imports_are_followed_inside_the_package_of_a_plug_in(folder: str) -> None:
    files = code_hash.with_imports((CHECKOUT / "bench" / folder).glob("[a-z]*.py"))
    assert {path.parent.name for path in files} == {folder}
    assert any(path.name.startswith("_") for path in files)


def test_the_splits_of_a_protocol_are_part_of_its_hash() -> None:
    files = code_hash.with_imports([CHECKOUT / "bench" / "protocols" / "fewshot.py"])
    assert CHECKOUT / "bench" / "protocols" / "_splits.py" in files


@pytest.mark.parametrize(
    "statement", ["from my_fm.net import scale", "from my_fm import net", "import my_fm.net"]
)
def test_absolute_imports_of_a_third_party_package_are_followed(
    tmp_path: Path, statement: str
) -> None:
    package = tmp_path / "my_fm"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text("scale = 1\n")
    (package / "other.py").write_text("")
    plugin = package / "plugin.py"
    plugin.write_text(f"def build():\n    {statement}\n    import torch\n")
    files = code_hash.with_imports([plugin])
    assert package / "net.py" in files
    assert package / "other.py" not in files
    assert all(path.is_relative_to(package) for path in files)


def test_a_single_file_plug_in_follows_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("")
    (tmp_path / "plugin.py").write_text("from net import x\n\ndef build(): ...\n")
    assert code_hash.with_imports([tmp_path / "plugin.py"]) == {
        tmp_path / "net.py",
        tmp_path / "plugin.py",
    }


def test_a_partial_stands_for_its_function() -> None:
    assert code_hash.sha256([partial(_plan, 1)], []) == code_hash.sha256([_plan], [])
