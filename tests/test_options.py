"""The fields of a config dataclass are the options of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench.api.options import check_choices, convert, option, options
from bench.cli.options import given_options, options_of
from bench.errors import BenchError


@dataclass(frozen=True)
class Config:
    images: Path = option(MISSING, "A folder.", panel="Data")
    lr: float | None = option(None, "The learning rate.", many=True)
    folders: tuple[str, ...] = option((), "May be repeated.")
    names: tuple[str, ...] = option(("a", "b"), "A list.", many=True)
    view: str = option("whole", "How images are seen.", choices=("whole", "tiles"))
    force: bool = option(False, "Run again.")
    cache: bool = option(True, "Use the cache.")
    option: Mapping[str, str] = option(dict, "Others.")


@pytest.fixture
def seen() -> list[object]:
    return []


@pytest.fixture
def app(seen: list[object]) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @options_of(Config)
    def command(context: typer.Context, config: Config) -> None:
        seen.extend([config, given_options(context, Config)])

    return app


def test_a_command_receives_the_defaults(app: typer.Typer, seen: list[object]) -> None:
    assert CliRunner().invoke(app, ["--images", "x"]).exit_code == 0
    assert seen == [Config(images=Path("x")), {"images"}]


def test_a_command_receives_the_options_of_its_command_line(
    app: typer.Typer, seen: list[object]
) -> None:
    words = "--images x --lr 1e-3,1e-4 --folders a --folders b --names c --view tiles --force"
    CliRunner().invoke(app, [*words.split(), "--no-cache", "--option", "depth=2"])
    assert seen[0] == Config(
        images=Path("x"),
        lr=(1e-3, 1e-4),  # type: ignore[arg-type]
        folders=("a", "b"),
        names=("c",),
        view="tiles",
        force=True,
        cache=False,
        option={"depth": "2"},
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "1,x"], "is not a list of numbers"),
        (["--names", "a,"], "has an empty word"),
        (["--option", "depth"], "write KEY=VALUE"),
    ],
)
def test_malformed_words_are_refused(app: typer.Typer, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["--images", "x", *words])
    assert isinstance(result.exception, BenchError)
    assert message in str(result.exception)


def test_help_lists_panels_and_no_negative_form_of_a_flag(app: typer.Typer) -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert "Data" in text
    assert "--no-cache" in text
    assert "--no-force" not in text


def test_values_of_files_are_converted_or_refused() -> None:
    known = options(Config)
    assert convert(known["lr"], [1, 0.5]) == (1.0, 0.5)
    assert convert(known["names"], "c") == ("c",)
    assert convert(known["option"], {"deep": True, "depth": 2}) == {"deep": "true", "depth": "2"}
    for name, value in (("force", 1), ("view", ["whole"]), ("lr", "x"), ("names", [])):
        with pytest.raises(BenchError, match=name):
            convert(known[name], value)


def test_words_that_are_no_choice_are_refused() -> None:
    with pytest.raises(BenchError, match="--view 'x' is not one of whole, tiles"):
        check_choices(Config(images=Path("x"), view="x"))
