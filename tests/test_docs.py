"""Every code block and every link of the pages: Python runs, commands parse, cheap ones are run.

A `console` block is run with the built-in data, and what it prints is compared; commands of other
blocks are parsed by the command line itself, and every plug-in that they name has to be there.
"""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import typer
from pages import Block, anchors, blocks_of, broken_links, commands, sessions
from PIL import Image

from bench import registry
from bench.board import scores
from bench.cli.main import app, main
from bench.data.manifest import COLUMNS
from bench.data.shifts import SHIFTS
from bench.errors import BenchError
from bench.protocols.scaling import AXES

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page: page.read_text("utf-8") for page in PAGES}
README = ROOT / "README.md"
BY_PAGE = pytest.mark.parametrize(  # the README's blocks are in the fast tests
    "page",
    [pytest.param(page, marks=[] if page == README else pytest.mark.slow) for page in PAGES],
    ids=[str(page.relative_to(ROOT)) for page in PAGES],
)
LANGUAGES = {"python", "sh", "console", "toml", ""}
SHELL = {"sh", "console", ""}
NAMED = {  # options whose values are names, by kind
    "--backbone": "backbones",
    "--condition": "backbones",
    "--dataset": "datasets",
    "--target-dataset": "datasets",
    "--probe": "datasets",
    "--protocol": "protocols",
    "--head": "heads",
}
USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, wherever it lies
TOLERANCE = 0.006  # of a printed score: libraries and machines differ in the last digit or two


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    for block in _all_blocks():
        assert block.language in LANGUAGES, f"{block.place}: {block.language}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep data, features and results in a folder of this file's own."""
    own = {"BENCH_DATA": "data", "BENCH_CACHE": "cache", "BENCH_RESULTS": "results"}
    for name, inner in own.items():
        monkeypatch.setenv(name, str(folder / inner))
    return folder


@pytest.mark.usefixtures("home")
@BY_PAGE
def test_python_runs_or_is_a_marked_fragment_that_compiles(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # examples write pictures
    names: dict[str, object] = {"__name__": "page"}
    for block in _blocks(page, "python"):
        code = compile(block.text, block.place, "exec", dont_inherit=True)
        if block.file:
            exec(code, {"__name__": "page", "__package__": f"bench.{Path(block.file).parent.name}"})
        elif not block.fragment:
            exec(code, names)


def test_shell_blocks_parse_and_their_commands_exist() -> None:
    blocks = [block for page in PAGES for block in _blocks(page, *SHELL)]
    assert [problem for block in blocks for problem in _problems(block)] == []


def test_toml_can_be_read() -> None:
    for page in PAGES:
        for block in _blocks(page, "toml"):
            tomllib.loads(block.text)


def test_links_lead_somewhere() -> None:
    assert [link for page in PAGES for link in broken_links(page, TEXT[page])] == []


def test_the_script_for_slurm_is_shell_that_calls_a_command_that_can_be_typed() -> None:
    script = ROOT / "docs" / "slurm-pretrain.sh"
    block = Block(script, 1, "sh", script.read_text("utf-8"))
    assert [each[0] for each in commands(block)] == ["pretrain"]
    assert _problems(block) == []


@pytest.mark.usefixtures("home")
@BY_PAGE
def test_a_console_prints_what_the_page_shows(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for block in _blocks(page, "console"):
        for command, printed in sessions(block.text):
            (words,) = commands(Block(page, block.line, "sh", command))
            assert _unlike(printed, _said(words, monkeypatch)) == [], f"{block.place}: {command}"


def _said(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    return out.getvalue()


@pytest.mark.slow
def test_the_readme_makes_a_data_set_and_runs_on_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = registry.get("datasets", "synthetic").generate()
    for kind in ("images", "labels"):
        (tmp_path / "slides" / kind).mkdir(parents=True)
    for sample in samples:
        image, instances = sample.read()
        Image.fromarray(image).save(tmp_path / "slides" / "images" / f"{sample.id}.png")
        label = Image.fromarray(instances.astype("uint16"))
        label.save(tmp_path / "slides" / "labels" / f"{sample.id}.png")
    lines = ["id,patient", *(f"{sample.id},{sample.patient}" for sample in samples)]
    (tmp_path / "patients.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    (block,) = (each for each in _blocks(ROOT / "README.md", "sh") if "make slides" in each.text)
    make, run, board = commands(block)
    assert "24 images of 12 patients (8 test, 16 train)" in _said(make, monkeypatch)
    assert "8 images of 4 patients" in _said([*run, "--epochs", "1"], monkeypatch)
    assert "slides" in _said(board, monkeypatch)


def test_the_columns_of_a_manifest_are_all_told() -> None:
    _, _, told = TEXT[ROOT / "docs" / "data.md"].partition("## The columns")
    first = [line.split("|")[1] for line in told.splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)`", " ".join(first)) == [*COLUMNS]


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_the_notebook_still_runs_and_shows_what_its_code_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path))  # its board is of its own runs
    names: dict[str, object] = {}
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        *before, last = ast.parse("".join(cell["source"])).body
        exec(compile(ast.Module(before, []), "notebook", "exec"), names)
        assert isinstance(last, ast.Expr)
        value = eval(compile(ast.Expression(last.value), "notebook", "eval"), names)
        (output,) = cell["outputs"]
        shown = _without_ids("".join(output["data"]["text/plain"]))
        assert _unlike(shown.splitlines(), _without_ids(repr(value))) == []
        assert ("image/png" in output["data"]) == hasattr(value, "_repr_png_")


# ---- the checks find what is wrong -----------------------------------------------------------


def test_wrong_commands_are_found_and_right_ones_pass() -> None:
    wrong = {
        "bench run --nonsense": "--nonsense",
        "bench run && bench walk": "walk",
        "A=1 srun python -m bench walk": "walk",
        "bench run --lr fast": "fast",
        "bench export": "--out",
        "bench run --backbone rgb,dinov9@FILE": "dinov9",
        "bench run --protocol full,halves": "halves",
        "bench run --scale-over time": "time",
        "bench run --shifts fog": "fog",
        "bench leaderboard --metric dise": "dise",
        "bench describe dinov9": "dinov9",
        "bench run \\\n  --nonsense": "--nonsense",
        "for b in rgb; do\n": "syntax",
        "$ bench walk\nit walks": "walk",
    }
    for text, complaint in wrong.items():
        assert complaint in " ".join(_problems(Block(Path("page.md"), 1, "sh", text))), text
    right = [
        "bench run --backbone NAME --dataset tnbc --data DIR   # a comment",
        "bench pretrain ... --shard",
        "torchrun --nproc-per-node 8 -m bench pretrain --images DIR --out RUN",
        "for b in rgb; do bench run --backbone $b; done",
        "bench run --backbone rgb@random,cmd-tiny@FILE --head linear && bench export --out x.zip",
    ]
    for text in right:
        block = Block(Path("page.md"), 1, "sh", text)
        assert commands(block), text
        assert _problems(block) == [], text


def test_other_numbers_and_missing_lines_are_found() -> None:
    real = " dice   0.498   [0.344, 0.627] ? \n ─────── \n iou   0.341   [0.215, 0.461] ? \n"
    assert (
        _unlike([" dice 0.498 [0.344, 0.627] ?", "...", "iou 0.341 [0.215, 0.461] ?"], real) == []
    )
    assert _unlike(["dice 0.501 [0.344, 0.627] ?"], real) == []
    assert _unlike(["dice 0.598 [0.344, 0.627] ?"], real)
    assert _unlike(["iou 0.341 [0.215, 0.461] ?", "dice 0.498 [0.344, 0.627] ?"], real)
    assert _unlike(["dices 0.498 [0.344, 0.627] ?"], real)


def test_broken_links_and_open_fences_are_found(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# A title, with `code`\n")
    good = "[a](other.md) [b](other.md#a-title-with-code) [c](https://example.org/x) [d](#d)\n# D"
    assert broken_links(page, good) == []
    bad = "[a](nowhere.md) [b](other.md#elsewhere) [c](#there)\n```\n[no link](in-a-block)\n```\n"
    assert len(broken_links(page, bad)) == 3
    assert anchors("## Two words\n```\n# none\n```\n") == {"two-words"}
    with pytest.raises(ValueError, match="never closed"):
        blocks_of(page, "```python\nx = 1\n")


# ---- how the checks work ---------------------------------------------------------------------


def _all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page, TEXT[page])]


def _blocks(page: Path, *languages: str) -> list[Block]:
    return [block for block in blocks_of(page, TEXT[page]) if block.language in languages]


def _problems(block: Block) -> list[str]:
    """Say what is wrong with a block of shell: its syntax, an option, a name."""
    is_script = not block.is_session and (block.language or commands(block))
    told = _syntax(block) if is_script else []
    for words in commands(block):
        told += [
            f"{block.place}: bench {' '.join(words)}: {each}" for each in _of_call(words, block)
        ]
    return told


def _syntax(block: Block) -> list[str]:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    return [f"{block.place}: {done.stderr.strip()}"] if done.returncode else []


def _of_call(words: list[str], block: Block) -> list[str]:
    """Parse a call as the command line does, and look for the plug-ins that it names."""
    elided = [each for each in words if each not in ("...", "$@")]
    command = typer.main.get_command(app)
    try:
        while hasattr(command, "commands"):
            name = elided.pop(0) if elided else ""
            if name not in command.commands:  # pyright: ignore[reportAttributeAccessIssue]
                return [f"there is no command {name!r}"]
            command = command.commands[name]  # pyright: ignore[reportAttributeAccessIssue]
        with command.make_context(command.name, list(elided)) as context:
            given = context.params
    except USAGE as error:
        is_missing = type(error).__name__ == "MissingParameter"
        told = getattr(error, "format_message", error.__str__)()
        return [] if "..." in words and is_missing else [told]
    except typer.Exit:
        return []
    return _unknown_names(str(command.name), given, elided, block)


def _unknown_names(
    command: str, given: dict[str, object], words: list[str], block: Block
) -> list[str]:
    own = set(re.findall(r'\bname="([^"]+)"', TEXT.get(block.page, "")))  # plug-ins of the page
    told = []
    for option, kind in NAMED.items():
        for name in _values(given.get(option[2:]) if option in words else None):
            name = name.partition("@")[0]
            is_place = kind == "datasets" and "/" in name
            if not is_place and name not in own:
                told += _refusal(lambda kind=kind, name=name: registry.get(kind, name))
    if command in ("describe", "check"):
        for name in _values(given.get("backbones") or given.get("backbone")):
            told += (
                [] if name in own else _refusal(lambda name=name: registry.get("backbones", name))
            )
    kinds = {name.partition("-")[0] for name in SHIFTS}
    for option, known in (("axis", {*AXES}), ("shifts", {*SHIFTS, *kinds})):
        told += [
            f"no {option} {each!r}" for each in _values(given.get(option)) if each not in known
        ]
    if "--metric" in words:
        for name in _values(given["metric"]):
            told += _refusal(lambda name=name: scores.metric_of(name))
    return told


def _values(given: object) -> list[str]:
    """Split lists; leave out placeholders and variables of the shell."""
    texts = given if isinstance(given, list | tuple) else [given]
    words = [word for text in texts if isinstance(text, str) for word in text.split(",")]
    return [word for word in words if "$" not in word and not re.search(r"^[A-Z]+\b|:[A-Z]", word)]


def _refusal(ask: Callable[[], object]) -> list[str]:
    try:
        ask()
    except BenchError as error:
        return [str(error)]
    return []


def _unlike(shown: list[str], real: str) -> list[str]:
    """Give the lines that a page shows and a command does not print, in this order."""
    left = [words for line in real.splitlines() if (words := line.split())]
    told = []
    for line in shown:
        words = line.split()
        if not words or words == ["..."] or set("".join(words)) == {"─"}:
            continue
        at = next((n for n, own in enumerate(left) if _alike(words, own)), None)
        if at is None:
            told.append(line)
        else:
            left = left[at + 1 :]
    return told


def _without_ids(text: str) -> str:
    """Hide the ids of runs, which follow the source code."""
    return re.sub(r"\b[0-9a-f]{16}\b", "ID", text)


def _alike(shown: list[str], real: list[str]) -> bool:
    return len(shown) == len(real) and all(map(_same_word, shown, real))


def _same_word(shown: str, real: str) -> bool:
    pattern = r"-?\d+\.\d+"
    if re.sub(pattern, "#", shown) != re.sub(pattern, "#", real):
        return False
    pairs = zip(re.findall(pattern, shown), re.findall(pattern, real), strict=True)
    return all(abs(float(a) - float(b)) <= TOLERANCE for a, b in pairs)
