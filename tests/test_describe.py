"""Parameter counts beside printed ones, lists of plug-ins, and how both are shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
    """As many parameters as are wanted, and one map."""

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
    """Give a function that adds a backbone to those that there are."""
    added: dict[str, Backbone] = {}
    found = registry.get

    def get(kind: str, name: str) -> Any:
        return added[name] if kind == "backbones" and name in added else found(kind, name)

    def put(name: str, build: Callable[..., FeatureExtractor]) -> Backbone:
        added[name] = Backbone(name, build, Weights(repo=f"lab/{name}", file="model.safetensors"))
        return added[name]

    monkeypatch.setattr(registry, "get", get)
    return put


def bench(*words: str) -> Any:
    """Call the command; its tables get 200 columns."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, words)


# ---- printed numbers -------------------------------------------------------------------------


def test_a_count_agrees_with_a_printed_number_that_it_rounds_to() -> None:
    for count, printed in (
        (303_499_999, "303"),
        (1_134_953_984, "1100"),  # two digits: the zeros stand for what was not printed
        (1_149_999_999, "1100"),
        (90_393_000, "90.4"),
        (12_192_044, "12.19"),
        (0, "0"),
    ):
        assert rounds_to(count, printed), printed
    for count, printed in (
        (303_350_784, "304"),
        (303_350_784, "303.0"),
        (302_499_999, "303"),
        (1_150_000_001, "1100"),
        (90_450_001, "90.4"),
        (507_524_611, "602"),
    ):
        assert not rounds_to(count, printed), printed


@given(st.integers(1_000_000, 5_000_000_000), st.integers(0, 3))
def test_every_count_agrees_with_itself_printed_to_any_digit(count: int, digits: int) -> None:
    printed = f"{count / 1_000_000:.{digits}f}"
    assert rounds_to(count, printed)
    assert not rounds_to(count + 3 * 10 ** (6 - digits), printed) or printed.endswith("0")


def test_every_method_of_table_4_is_there_once_with_its_two_printed_sizes() -> None:
    rows = sizes("cmd_paper_params")[4]
    assert len({row.method for row in rows}) == len(rows) == 23
    numbers = [row.head_m for row in rows if row.head == "decoder"]
    assert set(numbers) == {"5.88", "7.06", "8.24", "9.42", "21.21"}
    assert {row.method for row in rows if row.whole} == {
        "nnUNet", "TransUNet", "ViT-Adapter", "VISTA [40]",
    }  # fmt: skip


# ---- beside the paper ------------------------------------------------------------------------


def _row(paper: str) -> dict[str, object]:
    (size,) = [each for each in sizes("cmd_paper_params")[4] if each.method == paper]
    return model_sizes.beside(size)


@pytest.mark.parametrize(
    ("paper", "head_parameters", "head_agrees"),
    [
        ("CMD-L linear probe", 8_194, None),
        ("CMD-L + SegHead: Fig. B2(A)", 7_147_266, True),
        ("CMD-L + SegHead: Fig. B2(B)", 21_211_490, True),
    ],
)
def test_602_million_are_cmd_l_and_the_backbone_of_its_condition(
    register: Register, paper: str, head_parameters: int, head_agrees: bool | None
) -> None:
    register("h0-mini", lambda: Block(H0_MINI))
    row = _row(paper)
    assert row["parameters"] == 515_789_315 + H0_MINI == 601_528_835
    assert row["agrees"] is True
    assert (row["head_parameters"], row["head_agrees"]) == (head_parameters, head_agrees)


def test_a_frozen_backbone_is_held_to_both_printed_sizes(register: Register) -> None:
    register("uni", lambda: Block(303_350_784, channels=1024, stride=16))
    row = _row("UNI")
    assert (row["parameters"], row["paper_millions"], row["agrees"]) == (303_350_784, "303", True)
    assert (row["head_parameters"], row["head_agrees"]) == (7_055_714, True)
    register("uni", lambda: Block(86_000_000, channels=768, stride=16))
    row = _row("UNI")
    assert (row["agrees"], row["head_agrees"]) == (False, False)


@pytest.mark.parametrize(("paper", "millions"), [("TransUNet", "105.28"), ("VISTA [40]", "168")])
def test_a_whole_model_is_counted_with_its_head(
    register: Register, paper: str, millions: str
) -> None:
    size = next(each for each in sizes("cmd_paper_params")[4] if each.method == paper)
    head = 5_876_066  # the decoder on 768 channels, which is the default
    register(size.backbone, lambda: Block(int(float(millions) * 1_000_000) - head))
    row = _row(paper)
    assert row["parameters"] == int(float(millions) * 1_000_000)
    assert (row["paper_millions"], row["agrees"]) == (millions, True)
    assert (row["head_parameters"], row["head_agrees"]) == (None, None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BenchError("it needs a library: `pip install nnunetv2`."), "`pip install nnunetv2`"),
        (ValueError("of a plug-in"), "of a plug-in"),
    ],
)
def test_a_model_that_cannot_be_built_here_is_a_row_that_says_so(
    register: Register, error: Exception, told: str
) -> None:
    def build() -> FeatureExtractor:
        raise error

    register("nnunet-12m", build)
    row = _row("nnUNet")
    assert told in str(row["note"])
    assert (row["parameters"], row["agrees"]) == (None, None)


@pytest.mark.slow
def test_where_a_model_of_table_4_is_here_a_number_that_differs_has_its_reason() -> None:
    done: list[int] = []
    rows = model_sizes.beside_paper(4, lambda _, number, total: done.append(number))
    assert [row["paper"] for row in rows] == [row.method for row in sizes("cmd_paper_params")[4]]
    assert done == list(range(23))
    for row in rows:
        assert row["head_agrees"] is not False, row
        assert row["agrees"] is not False or row["note"], row


def test_the_table_of_the_paper_is_shown_whatever_is_missing_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = Size("VISTA [40]", "gone", {}, "", "168", "Zero-shot", whole=True, note="as printed")
    here = Size("Toy", "cmd-tiny", {}, "light", "8.2", "7.06", whole=False, note="as printed")
    monkeypatch.setattr(published, "sizes", lambda _: {4: [missing, here]})
    told = bench("describe", "--table", "4")
    assert told.exit_code == 0
    for part in ("VISTA [40]: unknown backbone 'gone'", "Toy: as printed.", "8,218,307"):
        assert part in told.output
    gone, toy = json.loads(bench("describe", "--table", "4", "--json").output)
    assert (gone["parameters"], gone["agrees"]) == (None, None)
    assert (toy["agrees"], toy["head_agrees"]) == (True, False)


def test_another_table_is_refused_with_those_that_there_are() -> None:
    told = bench("describe", "--table", "5")
    assert isinstance(told.exception, BenchError)
    assert "--table takes 4" in str(told.exception)


@pytest.mark.parametrize("words", [(), ("rgb", "--table", "4")])
def test_names_or_a_table_are_described_never_both(words: tuple[str, ...]) -> None:
    told = bench("describe", *words)
    assert isinstance(told.exception, BenchError)
    assert "one of both" in str(told.exception)


def test_several_backbones_are_described_in_one_table() -> None:
    told = bench("describe", "rgb", "cmd-b", "--json")
    assert [row["backbone"] for row in json.loads(told.output)] == ["rgb", "cmd-b"]
    shown = bench("describe", "rgb", "cmd-b").output
    assert "127,539,971" in shown
    assert shown.index("rgb") < shown.index("cmd-b")
    assert json.loads(bench("describe", "rgb", "--json").output)["backbone"] == "rgb"


def test_a_size_names_options_of_ours(register: Register) -> None:
    built: list[int] = []

    def build(depth: int = 1) -> FeatureExtractor:
        built.append(depth)
        return Block(depth)

    register("toy", build)
    size = Size("Toy", "toy", {"depth": "7"}, "linear", "303", "7.06", whole=False, note="")
    row = model_sizes.beside(size)
    assert (built, row["backbone"], row["parameters"]) == ([7], "toy depth=7", 7)


# ---- lists -----------------------------------------------------------------------------------


def test_a_list_of_backbones_tells_all_that_a_choice_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "cmd-b.safetensors").touch()
    rows = {row["name"]: row for row in json.loads(bench("list", "backbones", "--json").output)[
        "backbones"
    ]}  # fmt: skip
    assert list(rows["cmd-tiny"]) == [
        "name", "title", "parameters", "patch", "mpp", "license", "gated", "cached", "trained_on",
        "origin",
    ]  # fmt: skip
    held = {name: rows[name]["cached"] for name in ("cmd-tiny", "cmd-b", "cmd-l", "rgb")}
    assert held == {"cmd-tiny": "package", "cmd-b": "cache", "cmd-l": "no", "rgb": "none needed"}
    shown = bench("list", "backbones", "--long").output
    for head in ("parameters", "patch", "mpp", "license", "gated", "cached", "trained on"):
        assert head in shown


def test_backbones_are_listed_without_torch_or_a_network() -> None:
    script = (
        "import socket, sys; socket.socket.connect = None; from bench.cli.main import app; "
        "app(['list', 'backbones'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cmd-tiny" in done.stdout


def drawn(table: Table, width: int) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(terminal.rich_table(table, width))
    return captured.get()


def test_the_list_of_backbones_shows_every_field_on_a_wide_terminal() -> None:
    rows = listing.rows("backbones", None)
    shown = " ".join(drawn(listing.table("backbones", rows), 400).split())
    for row in rows:
        assert str(row["name"]) in shown
        if row.get("parameters"):
            assert f"{row['parameters']:,}" in shown


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
