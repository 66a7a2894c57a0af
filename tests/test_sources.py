"""The hash of the code that a run used: what counts, and what does not."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench import registry, sources

PACKAGE = Path(__file__).parent.parent


def _plan(*_: object) -> list: ...


def test_a_new_file_beside_a_plug_in_changes_nothing(tmp_path, monkeypatch):
    rgb = registry.get("backbones", "rgb")
    before = sources.sha256([rgb.build], [rgb.build()])
    shutil.copytree(PACKAGE / "backbones", tmp_path / "backbones")
    copied = tmp_path / "backbones" / "controls.py"
    monkeypatch.setattr(sources.inspect, "getfile", lambda _: str(copied))
    assert sources.sha256([rgb.build], [rgb.build()]) == before
    (tmp_path / "backbones" / "_net.py").write_text("")
    assert sources.sha256([rgb.build], [rgb.build()]) == before
    (tmp_path / "backbones" / "_rgb.py").write_text("# another network\n")
    assert sources.sha256([rgb.build], [rgb.build()]) != before


def test_the_code_of_a_backbone_inside_a_backbone_counts():
    cmd = registry.get("backbones", "cmd-tiny")
    alone = cmd.build()
    conditioned = cmd.build(condition="random-vit-s")
    names = [{path.name for path in sources._classes(each)} for each in (alone, conditioned)]
    assert "network.py" in names[0]
    assert names[1] - names[0] == {"_timm.py", "condition.py"}
    assert sources.sha256([cmd.build], [alone]) != sources.sha256([cmd.build], [conditioned])


def test_relative_imports_are_followed_into_functions_and_further():
    files = {path.name for path in sources._with_relatives(PACKAGE / "heads" / "builtin.py")}
    assert {"builtin.py", "_light.py", "_linear.py", "_decoder_cup.py", "_decoder.py"} <= files


def test_the_file_of_a_heads_class_is_part_of_the_hash(tmp_path, monkeypatch):
    build = registry.get("heads", "linear").build
    shutil.copytree(PACKAGE / "heads", tmp_path / "heads")
    monkeypatch.setattr(sources.inspect, "getfile", lambda _: str(tmp_path / "heads/builtin.py"))
    before = sources.sha256([build], [])
    (tmp_path / "heads" / "_linear.py").write_text("# another head\n")
    assert sources.sha256([build], []) != before


def test_a_partial_stands_for_its_function():
    from functools import partial

    assert sources.sha256([partial(_plan, 1)], []) == sources.sha256([_plan], [])
