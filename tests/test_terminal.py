"""Output on a terminal and into a pipe: progress bars, tables, completion, encodings."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from rich.console import Console
from tiny import request, run, squares

from bench import registry
from bench.api.report import Cell, Column, Table, p_cell
from bench.cli import completion, console
from bench.render.terminal import rich_table

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|38;[0-9;]+)m")
TAB = {"_BENCH_COMPLETE": "complete_bash"}
SCRIPT = """
import sys
from bench.cli.main import main
sys.argv = ["bench", *sys.argv[1:]]
try:
    main()
finally:
    sys.stderr.write(" ".join(sys.modules))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and a committed run on it."""
    root = tmp_path_factory.mktemp("home")
    run(request(squares(root / "squares")), root)
    return root


def command_words(home: Path, *words: str) -> list[str]:
    named = ["--backbone", "rgb", "--dataset", str(home / "squares"), "--protocol", "full"]
    named += ["--head", "linear", "--epochs", "3", "--input-px", "32", "--no-cache", "--folds", "0"]
    return ["run", *named, "--results", str(home / "results"), *words]


def on_a_terminal(words: list[str], columns: int, **environment: str) -> str:
    """Run a command on a new terminal, and return what it wrote there."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    done = subprocess.Popen(
        [sys.executable, "-m", "bench", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert done.wait() == 0, seen.decode()
    return seen.decode()


def lines_of(seen: str) -> list[str]:
    return re.split(r"[\r\n]+", ESCAPE.sub("", seen))


@pytest.mark.skipif(sys.platform == "win32", reason="has no pty")
def test_a_terminal_shows_rates_and_remaining_times_and_respects_no_color(home: Path):
    seen = on_a_terminal(command_words(home, "--epochs", "40"), 80, NO_COLOR="1")
    bars = [line for line in lines_of(seen) if "━" in line]
    assert any(re.search(r"training.* [\d.]+ steps/s +\d:\d\d:\d\d", line) for line in bars), bars
    assert any(line.startswith("features") for line in bars)
    assert max(map(len, bars)) <= 80
    assert ESCAPE.search(seen)
    assert not COLOUR.search(seen)


def test_a_pipe_gets_no_bars_and_no_escapes(home: Path):
    words = [sys.executable, "-m", "bench", *command_words(home, "--seed", "1")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "dice" in done.stdout
    assert not ESCAPE.search(done.stdout)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN = {"PYTHONIOENCODING": "latin-1"}


def into(out: object, words: list[str], **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose standard output goes to a file or a pipe."""
    command = [sys.executable, "-m", "bench", *words]
    env = {**os.environ, **environment}
    return subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=env)  # type: ignore


@pytest.mark.fault(27)
def test_tables_are_shown_in_any_encoding_of_the_output(home: Path):
    board = ["leaderboard", "--results", str(home / "results")]
    for words, environment in ((board, ASCII), (["list", "--long"], LATIN), (["--help"], ASCII)):
        done = into(subprocess.PIPE, words, **environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert len(done.stdout.splitlines()) > 5


@pytest.mark.fault(27)
@pytest.mark.parametrize("form", ["--csv", "--markdown"])
def test_machine_readable_output_is_utf_8_in_any_encoding_of_the_output(home: Path, form: str):
    words = ["leaderboard", "--results", str(home / "results"), "--show-published", form]
    usual, ascii_only = (
        into(subprocess.PIPE, words, **environment) for environment in ({"PYTHONUTF8": "1"}, ASCII)
    )
    assert usual.returncode == 0, usual.stderr
    assert usual.stdout.decode("utf-8")
    assert ascii_only.stdout == usual.stdout


@pytest.mark.fault(8)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
@pytest.mark.parametrize(
    ("words", "unbuffered", "code", "message"),
    [
        (["list", "--json"], "", 1, b"error: the output cannot be written: No space"),
        (["list", "--json"], "1", 1, b"error: the output cannot be written: No space"),
        (["describe", "nobody", "--json"], "", 2, b"error: unknown backbone 'nobody'"),
    ],
)
def test_output_that_cannot_be_written_is_one_line_of_error(
    words: list[str], unbuffered: str, code: int, message: bytes
):
    with Path("/dev/full").open("wb") as full:
        done = into(full, words, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.fault(2)
@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes of this kind")
@pytest.mark.parametrize("words", [["describe", "rgb", "--json"], ["list", "heads"], ["--help"]])
def test_a_command_whose_reader_has_closed_the_pipe_exits_quietly_with_success(words: list[str]):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "wb") as gone:
        done = into(gone, words)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.fault(2)
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT for a child")
def test_ctrl_c_while_the_command_is_imported_ends_it_without_a_traceback():
    script = """
        import os, signal, sys
        from bench.__main__ import main

        class Slow:
            def find_spec(self, name, *_):
                if name == "bench.cli.main":
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Slow())
        main()
    """
    command = [sys.executable, "-c", dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Return a function that replaces standard error by a terminal of a width in columns."""

    def make(columns: int) -> io.StringIO:
        written = io.StringIO()
        wide = Console(file=written, force_terminal=True, width=columns, color_system=None)
        monkeypatch.setattr(console, "err", wide)
        return written

    console.set_verbosity(quiet=False, verbose=False)
    return make


@pytest.mark.parametrize("columns", [40, 80])
def test_each_stage_has_its_unit_and_fits(terminal, columns: int):
    written = terminal(columns)
    with console.progress(quiet=False) as report:
        for stage in ("features: about 0.21 GiB", "training: loss 0.1", "bootstrap"):
            for done in range(5):
                report(stage, done, 4)
    lines = lines_of(written.getvalue())
    assert max(map(len, lines)) <= columns
    for stage, unit in {"features": "images", "training": "steps", "bootstrap": "scores"}.items():
        rate = rf"{stage[:5]}.* 4/4 [\d.]+{' ' + unit if columns == 80 else ''}/s +0:00:00"
        assert any(re.match(rate, line) for line in lines), (stage, lines)


def test_a_stage_that_begins_again_restarts_its_time(terminal):
    written = terminal(80)
    with console.progress(quiet=False) as report:
        for done in (0, 1, 2, 0, 1):
            report("training", done, 2)
    last = [line for line in lines_of(written.getvalue()) if line.startswith("training")][-1]
    assert "1/2" in last


@pytest.mark.parametrize("quiet", ["quiet", "-q", "json"])
def test_quiet_shows_no_bar(terminal, quiet: str):
    written = terminal(80)
    console.set_verbosity(quiet=quiet == "-q", verbose=False)
    with console.progress(quiet=quiet != "-q") as report:
        report("training", 1, 2)
    assert written.getvalue() == ""


def test_verbose_reports_each_step_and_quiet_only_the_result(command, home: Path):
    _, plain, usual = command(*command_words(home, "--seed", "2"))
    code, again, detail = command("-v", *command_words(home, "--seed", "3"))
    assert code == 0
    assert "trial 1 of 1" in detail
    assert "of 14 images are cached" in detail
    code, _, silent = command("--quiet", *command_words(home, "--seed", "4"))
    assert (code, silent, usual) == (0, "", "")
    assert len(again.splitlines()) == len(plain.splitlines())


def test_an_unexpected_error_is_one_line_that_names_the_place_and_verbose_has_a_traceback(
    command, home: Path, monkeypatch: pytest.MonkeyPatch
):
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr("bench.board.scores.scores", breaks)
    code, _, err = command(*command_words(home))
    assert code == 1
    assert re.search(r"ZeroDivisionError: nobody .*in breaks, .*test_terminal\.py:\d+", err)
    assert "Traceback" not in err
    code, out, err = command("-v", *command_words(home, "--json"))
    assert code == 1
    assert "Traceback" in err
    assert "nobody thought" in json.loads(out)["error"]


def test_the_bare_command_shows_the_first_steps(command):
    code, out, _ = command()
    first = re.findall(r"^  bench (\S+)", out, re.MULTILINE)
    assert (code, len(first)) == (0, 3)
    assert [command(name, "--help")[0] for name in first] == [0, 0, 0]
    assert command("-q", "-v", "doctor")[0] == 2


BOARD = Table(
    "squares",
    ["backbone", Column("head", keep=False), "dice", Column("bf1", keep=False), "p"],
    [["rgb", "linear", Cell(0.558, 0.483, 0.639, mark="?"), Cell(0.5), p_cell(1e-5)]],
    notes=["a note"],
    below=[["chance", "", Cell(0.25), Cell(None), ""]],
    stacked=True,
)


@pytest.mark.parametrize("width", [76, 99, 100, None])
def test_a_narrow_terminal_shows_only_the_columns_to_keep(width: int | None):
    page = Console(width=width or 200, file=io.StringIO(), force_terminal=False)
    with page.capture() as captured:
        page.print(rich_table(BOARD, width))
    lines = captured.get().splitlines()
    shown = " ".join(" ".join(lines).split())
    is_narrow = width in (76, 99)
    assert ("linear" in shown) != is_narrow
    assert ("not shown below 100 columns: head, bf1" in shown) == is_narrow
    assert all(text in shown for text in ("0.558", "[0.483, 0.639] ?", "<0.001", "0.250", "a note"))
    assert max(map(len, lines)) <= page.width


def test_a_group_is_a_heading_above_its_rows():
    table = Table("", ["group", "name"], [["a", "x"], ["a", "y"], ["b", "z"]], grouped=True)
    page = Console(width=80, file=io.StringIO(), force_terminal=False)
    with page.capture() as captured:
        page.print(rich_table(table))
    assert re.sub("─+", "", captured.get()).split() == ["name", "a", "x", "y", "b", "z"]


def tab(words: str, at: int) -> tuple[list[str], set[str]]:
    """Return the completions of words, and the modules that were imported for them."""
    environment = {**os.environ, **TAB, "COMP_WORDS": words, "COMP_CWORD": str(at)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment
    )
    return done.stdout.split(), set(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "at", "offered"),
    [
        ("bench run --backbone rgb,cmd-t", 3, "rgb,cmd-tiny"),
        ("bench describe cmd-tiny rg", 3, "rgb"),
    ],
)
def test_tab_completes_the_names_of_plugins_without_torch(words: str, at: int, offered: str):
    completions, imported = tab(words, at)
    assert completions == [offered]
    assert not imported & {"torch", "timm", "pandas", "matplotlib"}


def test_every_name_is_completed_once_in_a_list():
    for kind in ("backbones", "datasets", "heads", "leaderboards", "protocols"):
        complete = getattr(completion, kind)
        names = registry.names(kind)
        assert [name for name, _ in complete("")] == names
        first, *others = names
        assert [name for name, _ in complete(f"{first},")] == [f"{first},{n}" for n in others]


def test_the_list_of_backbones_is_a_row_each_on_a_usual_terminal(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = command("list", "backbones")
    lines = out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 80
    for name in registry.names("backbones"):
        (row,) = [line for line in lines if line.split()[:1] == [name]]
        assert name.endswith(":") or re.search(r" (open|gated) ", row), row
    assert "trained on" in " ".join(command("list", "backbones", "--long")[1].split())
