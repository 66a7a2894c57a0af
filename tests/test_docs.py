"""Code blocks and links of the documentation.

Python runs. A `console` block runs with the built-in data, and its output is compared. Commands of
other blocks are parsed by the command line, and the plug-ins that they name must exist.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest
import typer
from PIL import Image
from tiny import bench

from bench import registry
from bench.cli.main import app
from bench.data.manifest import COLUMNS
from bench.errors import BenchError
from bench.stats.decisions import most_models

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page: page.read_text("utf-8") for page in PAGES}
README = ROOT / "README.md"
STATISTICS = ROOT / "docs" / "statistics.md"
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
FENCE = re.compile(r"^```(\w*)$")
FILE = re.compile(r"^### `(.*)`$")
FRAGMENT = "<!-- fragment -->"  # on the line before a Python block that is part of something
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
JOINTS = {"&&", "||", ";", "|", "&", "do", "then", "(", ")", "!"}
TOLERANCE = 0.006  # of a printed score: libraries and machines differ in the last digit or two


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the data, features and results of this file."""
    for name in ("data", "cache", "results"):
        monkeypatch.setenv(f"BENCH_{name.upper()}", str(folder / name))
    return folder


@pytest.mark.usefixtures("home")
@BY_PAGE
def test_python_runs_or_is_a_fragment_that_compiles(
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


def test_blocks_are_of_known_languages_and_their_commands_exist() -> None:
    problems = []
    for page in PAGES:
        for block in blocks_of(page, TEXT[page]):
            assert block.language in LANGUAGES, f"{block.place}: {block.language}"
            if block.language == "toml":
                tomllib.loads(block.text)
            elif block.language in SHELL:
                problems += _problems(block)
    script = ROOT / "docs" / "slurm-pretrain.sh"
    block = Block(script, 1, "sh", script.read_text("utf-8"))
    assert [words[0] for words in commands(block)] == ["pretrain"]
    assert problems + _problems(block) == []
    wrong = Block(ROOT / "page.md", 1, "sh", "bench run --backbone dinov9 --nonsense && bench walk")
    assert len(_problems(wrong)) == 2


def test_links_are_not_broken() -> None:
    assert [link for page in PAGES for link in broken_links(page, TEXT[page])] == []


@pytest.mark.usefixtures("home")
@BY_PAGE
def test_console_output_is_up_to_date(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for block in _blocks(page, "console"):
        for command, printed in sessions(block.text):
            (words,) = commands(Block(page, block.line, "sh", command))
            assert _missing_lines(printed, _output(words)) == [], f"{block.place}: {command}"


def _output(words: list[str]) -> str:
    result = bench(*words)
    assert not result.code, result.err
    return result.out


@pytest.mark.slow
def test_the_readme_creates_a_data_set_and_runs_on_it(
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
    (block,) = (b for b in _blocks(ROOT / "README.md", "sh") if "make slides" in b.text)
    make, run, board = commands(block)
    assert "24 images of 12 patients (8 test, 16 train)" in _output(make)
    assert "24 images of 12 patients" in _output([*run, "--backbone", "rgb", "--epochs", "1"])
    assert "slides" in _output(board)


def test_tables_agree_with_the_code() -> None:
    _, _, section = TEXT[ROOT / "docs" / "data.md"].partition("## The columns")
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)`", " ".join(first)) == [*COLUMNS]
    rows = [line.strip("| ").split(" | ") for line in TEXT[STATISTICS].splitlines()]
    (models,) = [row[1:] for row in rows if row[0].startswith("runs in a group")]
    assert [int(number) for number in models] == [most_models(n) for n in range(5, 17)]


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_scripts_of_the_benchmarks_are_importable(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(script.parent))
    importlib.import_module(script.stem)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_the_outputs_of_the_notebook_are_up_to_date(
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
        assert _missing_lines(shown.splitlines(), _without_ids(repr(value))) == []
        assert ("image/png" in output["data"]) == hasattr(value, "_repr_png_")


# ---- how pages are read ----------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: of its first fence, from 1.
        fragment: whether it is marked as an incomplete program.
        file: the file that the heading above it names.
    """

    page: Path
    line: int
    language: str
    text: str
    fragment: bool = False
    file: str = ""

    @property
    def place(self) -> str:
        """Page and line, for error messages."""
        return f"{self.page.name}:{self.line}"

    @property
    def is_session(self) -> bool:
        """Whether it shows commands after a prompt and their output."""
        return self.text.startswith("$ ")


def blocks_of(page: Path, text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    lines, blocks, opened = text.splitlines(), [], None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened = number, fence[1]
        elif opened is not None and line == "```":
            start, language = opened
            content = "\n".join(lines[start + 1 : number]) + "\n"
            fragment = start > 0 and lines[start - 1] == FRAGMENT
            heading = FILE.match(lines[start - 2]) if start > 1 else None
            file = heading[1] if heading else ""
            blocks.append(Block(page, start + 1, language, content, fragment, file))
            opened = None
    assert opened is None, f"{page.name}:{opened}: the block is never closed"
    return blocks


def sessions(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands after a prompt, with the lines of their output."""
    command, printed = "", []
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, printed
            command, printed = line[2:], []
        elif command.endswith("\\"):
            command = f"{command[:-1]} {line.strip()}"
        else:
            printed.append(line)
    if command:
        yield command, printed


def commands(block: Block) -> list[list[str]]:
    """Return the arguments of every call of `bench` in a block of shell."""
    if block.is_session:
        scripts = [command for command, _ in sessions(block.text)]
    else:
        scripts = block.text.replace("\\\n", " ").splitlines()
    return [call for script in scripts for call in _calls(script)]


def _calls(script: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(script, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for is_joint, group in groupby(lexer, key=lambda word: word in JOINTS):
        words = [] if is_joint else list(group)
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        if words and words[0] == "bench":
            yield words[1:]
        elif "-m" in words and words[words.index("-m") + 1 :][:1] == ["bench"]:
            yield words[words.index("-m") + 2 :]


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, in GitHub's form."""
    titles = re.findall(r"^#+ +(.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    """Return the links to missing files or headings."""
    broken = []
    for target in LINK.findall(prose(text)):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if file != page and not file.exists():
            broken.append(f"{page.name}: no file {target}")
        elif anchor and anchor not in anchors(text if file == page else file.read_text("utf-8")):
            broken.append(f"{page.name}: no heading {target}")
    return broken


# ---- how the checks work ---------------------------------------------------------------------


def _blocks(page: Path, *languages: str) -> list[Block]:
    return [block for block in blocks_of(page, TEXT[page]) if block.language in languages]


def _problems(block: Block) -> list[str]:
    """Return the errors of the commands of a block of shell: their options and names."""
    problems = []
    for words in commands(block):
        problems += [
            f"{block.place}: bench {' '.join(words)}: {problem}"
            for problem in _of_call(words, block)
        ]
    return problems


def _of_call(words: list[str], block: Block) -> list[str]:
    """Parse a call as the command line does, and look up the plug-ins that it names."""
    elided = [word for word in words if word not in ("...", "$@")]
    command = typer.main.get_command(app)
    try:
        while hasattr(command, "commands"):
            name = elided.pop(0) if elided else ""
            if name not in command.commands:  # pyright: ignore[reportAttributeAccessIssue]
                return [f"there is no command {name!r}"]
            command = command.commands[name]  # pyright: ignore[reportAttributeAccessIssue]
        with command.make_context(command.name, list(elided)) as context:
            params = context.params
    except USAGE as error:
        is_missing = type(error).__name__ == "MissingParameter"
        message = getattr(error, "format_message", error.__str__)()
        return [] if "..." in words and is_missing else [message]
    except typer.Exit:
        return []
    return _unknown_names(str(command.name), params, elided, block)


def _unknown_names(
    command: str, params: dict[str, object], words: list[str], block: Block
) -> list[str]:
    """Look up the plug-ins that a command names, unless the page itself defines them."""
    defined = set(re.findall(r'\bname="([^"]+)"', TEXT.get(block.page, "")))
    names = [
        (kind, name.partition("@")[0])
        for option, kind in NAMED.items()
        for name in _values(params.get(option[2:]) if option in words else None)
    ]
    if command in ("describe", "check"):
        values = _values(params.get("backbones") or params.get("backbone"))
        names += [("backbones", name) for name in values]
    problems = []
    for kind, name in names:
        if name in defined or (kind == "datasets" and "/" in name):
            continue
        try:
            registry.get(kind, name)
        except BenchError as error:
            problems.append(str(error))
    return problems


def _values(value: object) -> list[str]:
    """Split lists; leave out placeholders and shell variables."""
    texts = value if isinstance(value, list | tuple) else [value]
    words = [word for text in texts if isinstance(text, str) for word in text.split(",")]
    return [word for word in words if "$" not in word and not re.search(r"^[A-Z]+\b|:[A-Z]", word)]


def _missing_lines(expected: list[str], output: str) -> list[str]:
    """Return the lines of a page that are missing in the output of a command, in this order."""
    lines = [words for line in output.splitlines() if (words := line.split())]
    missing = []
    for line in expected:
        words = line.split()
        if not words or words == ["..."] or set("".join(words)) == {"─"}:
            continue
        index = next((n for n, other in enumerate(lines) if _alike(words, other)), None)
        if index is None:
            missing.append(line)
        else:
            lines = lines[index + 1 :]
    return missing


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
