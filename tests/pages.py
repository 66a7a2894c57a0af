"""Markdown pages as tests read them: code blocks, the commands in them, links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

FENCE = re.compile(r"^```(\w*)$")
FILE = re.compile(r"^### `(.*)`$")
FRAGMENT = "<!-- fragment -->"  # on the line before a Python block that is part of something
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
JOINTS = {"&&", "||", ";", "|", "&", "do", "then", "(", ")", "!"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: of its first fence, from 1.
        fragment: whether it is marked as no whole program.
        file: the file that it is, where a heading above it names one.
    """

    page: Path
    line: int
    language: str
    text: str
    fragment: bool = False
    file: str = ""

    @property
    def place(self) -> str:
        """Where it stands, for a complaint."""
        return f"{self.page.name}:{self.line}"

    @property
    def is_session(self) -> bool:
        """Whether it shows commands after a prompt, and what they print."""
        return self.text.startswith("$ ")


def blocks_of(page: Path, text: str) -> list[Block]:
    """Find the fenced blocks of a page.

    Raises:
        ValueError: a fence is never closed.
    """
    lines, found, opened = text.splitlines(), [], None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened = number, fence[1]
        elif opened is not None and line == "```":
            start, language = opened
            own = "\n".join(lines[start + 1 : number]) + "\n"
            fragment = start > 0 and lines[start - 1] == FRAGMENT
            heading = FILE.match(lines[start - 2]) if start > 1 else None
            file = heading[1] if heading else ""
            found.append(Block(page, start + 1, language, own, fragment, file))
            opened = None
    if opened is not None:
        raise ValueError(f"{page.name}:{opened[0] + 1}: the block is never closed")
    return found


def sessions(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command after a prompt, and the lines that it prints."""
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
    """Give the words after `bench` of every call of it in a block of shell."""
    if block.is_session:
        scripts = [command for command, _ in sessions(block.text)]
    else:
        scripts = block.text.replace("\\\n", " ").splitlines()
    return [call for script in scripts for call in _calls(script)]


def _calls(script: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(script, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for is_joint, own in groupby(lexer, key=lambda word: word in JOINTS):
        words = [] if is_joint else list(own)
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        if words and words[0] == "bench":
            yield words[1:]
        elif "-m" in words and words[words.index("-m") + 1 :][:1] == ["bench"]:
            yield words[words.index("-m") + 2 :]


def prose(text: str) -> str:
    """Give a page without its fenced blocks."""
    return re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Give the anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    """Tell of the links to files or headings that are not there."""
    told = []
    for target in LINK.findall(prose(text)):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if file != page and not file.exists():
            told.append(f"{page.name}: no file {target}")
        elif anchor and anchor not in anchors(text if file == page else file.read_text("utf-8")):
            told.append(f"{page.name}: no heading {target}")
    return told
