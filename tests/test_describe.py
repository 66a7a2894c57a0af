"""Parameter counts against published ones, lists of plug-ins, and their tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from bench import registry
from bench.api import Backbone, FeatureExtractor, Weights
from bench.api.report import Table
from bench.cli import listing
from bench.cli.main import app
from bench.errors import BenchError
from bench.paper import model_sizes, published
from bench.paper.published import Size, rounds_to, sizes
from bench.render import terminal

H0_MINI = 85_739_520  # parameters of the ViT-B/14 with registers and SwiGLU that H0-mini is


class Block(FeatureExtractor):
    """An extractor with a chosen number of parameters and one map."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, parameters: int, channels: int = 768, stride: int = 14) -> None:
        super().__init__()
        self.channels, self.strides = (channels,), (stride,)
        self.weight = torch.nn.Parameter(torch.empty(parameters))

    def forward(self, images: Tensor) -> list[Tensor]:
        n, _, height, width = images.shape
        size = (n, self.channels[0], height // self.strides[0], width // self.strides[0])
        return [images.new_zeros(size)]


Register = Callable[..., Backbone]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Return a function that registers a backbone."""
    added: dict[str, Backbone] = {}
    original_get = registry.get

    def get(kind: str, name: str) -> Any:
        return added[name] if kind == "backbones" and name in added else original_get(kind, name)

    def put(name: str, build: Callable[..., FeatureExtractor]) -> Backbone:
        added[name] = Backbone(name, build, Weights(repo=f"lab/{name}", file="model.safetensors"))
        return added[name]

    monkeypatch.setattr(registry, "get", get)
    return put


def bench(*words: str) -> Any:
    """Run the command with 200 columns."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, words)


# ---- printed numbers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "printed", "agrees"),
    [
        (303_499_999, "303", True),
        (302_499_999, "303", False),
        (303_350_784, "303.0", False),
        (1_149_999_999, "1100", True),  # two digits: the zeros stand for what was not printed
        (1_150_000_001, "1100", False),
        (90_393_000, "90.4", True),
        (90_450_001, "90.4", False),
        (0, "0", True),
    ],
)
def test_a_count_agrees_with_a_published_number_that_it_rounds_to(
    count: int, printed: str, agrees: bool
) -> None:
    assert rounds_to(count, printed) == agrees


# ---- comparison with the paper ---------------------------------------------------------------


def _row(method: str) -> dict[str, object]:
    (size,) = [size for size in sizes("cmd_paper_params")[4] if size.method == method]
    return model_sizes.beside(size)


def test_cmd_l_is_counted_with_the_backbone_of_its_condition(register: Register) -> None:
    register("h0-mini", lambda: Block(H0_MINI))
    for method, head_parameters, head_agrees in (
        ("CMD-L linear probe", 8_194, None),
        ("CMD-L + SegHead: Fig. B2(A)", 7_147_266, True),
        ("CMD-L + SegHead: Fig. B2(B)", 21_211_490, True),
    ):
        row = _row(method)
        assert row["parameters"] == 515_789_315 + H0_MINI == 601_528_835
        assert row["agrees"] is True
        assert (row["head_parameters"], row["head_agrees"]) == (head_parameters, head_agrees)


def test_backbones_and_heads_are_compared_with_the_published_sizes(register: Register) -> None:
    register("uni", lambda: Block(303_350_784, channels=1024, stride=16))
    row = _row("UNI")
    assert (row["parameters"], row["paper_millions"], row["agrees"]) == (303_350_784, "303", True)
    assert (row["head_parameters"], row["head_agrees"]) == (7_055_714, True)
    register("uni", lambda: Block(86_000_000, channels=768, stride=16))
    row = _row("UNI")
    assert (row["agrees"], row["head_agrees"]) == (False, False)
    head = 5_876_066  # the decoder on 768 channels, which is the default
    register("transunet", lambda: Block(105_280_000 - head))
    row = _row("TransUNet")  # published as a whole: backbone and head
    assert (row["parameters"], row["agrees"]) == (105_280_000, True)
    assert (row["head_parameters"], row["head_agrees"]) == (None, None)

    def fail() -> FeatureExtractor:
        raise BenchError("it needs a library: `pip install nnunetv2`.")

    register("nnunet-12m", fail)
    row = _row("nnUNet")
    assert "`pip install nnunetv2`" in str(row["note"])
    assert (row["parameters"], row["agrees"]) == (None, None)


@pytest.mark.slow
def test_every_count_of_table_4_agrees_or_has_a_note() -> None:
    done: list[int] = []
    rows = model_sizes.beside_paper(4, lambda _, number, total: done.append(number))
    assert [row["paper"] for row in rows] == [row.method for row in sizes("cmd_paper_params")[4]]
    assert done == list(range(23))
    for row in rows:
        assert row["head_agrees"] is not False, row
        assert row["agrees"] is not False or row["note"], row


def test_table_4_is_shown_when_models_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = Size("VISTA [40]", "gone", {}, "", "168", "Zero-shot", whole=True, note="as printed")
    here = Size("Toy", "cmd-tiny", {}, "light", "8.2", "7.06", whole=False, note="as printed")
    monkeypatch.setattr(published, "sizes", lambda _: {4: [missing, here]})
    result = bench("describe", "--table", "4")
    assert result.exit_code == 0
    for part in ("VISTA [40]: unknown backbone 'gone'", "Toy: as printed.", "8,218,307"):
        assert part in result.output
    gone, toy = json.loads(bench("describe", "--table", "4", "--json").output)
    assert (gone["parameters"], gone["agrees"]) == (None, None)
    assert (toy["agrees"], toy["head_agrees"]) == (True, False)


def test_backbones_or_a_table_are_described() -> None:
    output = bench("describe", "rgb", "cmd-b", "--json").output
    assert [row["backbone"] for row in json.loads(output)] == ["rgb", "cmd-b"]
    table = bench("describe", "rgb", "cmd-b").output
    assert "127,539,971" in table
    assert table.index("rgb") < table.index("cmd-b")
    assert json.loads(bench("describe", "rgb", "--json").output)["backbone"] == "rgb"
    for words, problem in (
        (["--table", "5"], "--table takes 4"),
        ([], "but not both"),
        (["rgb", "--table", "4"], "but not both"),
    ):
        result = bench("describe", *words)
        assert isinstance(result.exception, BenchError)
        assert problem in str(result.exception)


def test_a_published_size_can_name_options(register: Register) -> None:
    built: list[int] = []

    def build(depth: int = 1) -> FeatureExtractor:
        built.append(depth)
        return Block(depth)

    register("toy", build)
    size = Size("Toy", "toy", {"depth": "7"}, "linear", "303", "7.06", whole=False, note="")
    row = model_sizes.beside(size)
    assert (built, row["backbone"], row["parameters"]) == ([7], "toy depth=7", 7)


# ---- lists -----------------------------------------------------------------------------------


def test_the_list_of_backbones_has_its_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "cmd-b.safetensors").touch()
    listed = json.loads(bench("list", "backbones", "--json").output)["backbones"]
    rows = {row["name"]: row for row in listed}
    assert list(rows["cmd-tiny"]) == [
        "name", "title", "parameters", "patch", "mpp", "license", "gated", "cached", "trained_on",
        "origin",
    ]  # fmt: skip
    cached = {name: rows[name]["cached"] for name in ("cmd-tiny", "cmd-b", "cmd-l", "rgb")}
    assert cached == {"cmd-tiny": "package", "cmd-b": "cache", "cmd-l": "no", "rgb": "none needed"}
    shown = bench("list", "backbones", "--long").output
    for head in ("parameters", "patch", "mpp", "license", "gated", "cached", "trained on"):
        assert head in shown
    wide = " ".join(drawn(listing.table("backbones", listing.rows("backbones", None)), 400).split())
    for name, row in rows.items():
        assert name in wide
        if row.get("parameters"):
            assert f"{row['parameters']:,}" in wide


def drawn(table: Table, width: int) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(terminal.rich_table(table, width))
    return captured.get()


def test_a_table_shows_square_brackets_unchanged() -> None:
    table = terminal.fields_table("[title]", [{"a": "[bold]x[/bold]", "b": "\\[y]"}])
    shown = drawn(table, 80)
    assert all(text in shown for text in ("[title]", "[bold]x[/bold]", "\\[y]"))


def test_a_note_of_several_rows_is_shown_once_below_them() -> None:
    rows = [
        {"name": name, "size": 1, "note": note} for name, note in zip("abc", "xyx", strict=True)
    ]
    table = terminal.description(rows)
    assert table.notes == ["a, c: x.", "b: y."]
    assert "note" not in table.names
