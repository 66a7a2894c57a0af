"""Dataclass fields that are options: of a command, of a TOML file and of a Python function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from bench.errors import BenchError

Value = TypeVar("Value")

NOUNS = {str: "text", int: "an integer", float: "a number", bool: "true or false", Path: "a path"}


@dataclass(frozen=True)
class Option:
    """One option of a config dataclass.

    Attributes:
        type: of a value: str, int, float, bool, Path, or dict for KEY=VALUE pairs.
        default: `dataclasses.MISSING` if the option is required.
        help: full sentences for `--help`.
        panel: heading under which `--help` lists the option.
        choices: the valid words, or the kind of plug-in whose names are valid.
        many: whether the option takes a list, which is A,B,... on the command line.
        is_tuple: whether the field holds a tuple; a list for any other field asks for a grid.
        flag: name on the command line.
    """

    name: str
    type: type
    default: Any
    help: str
    panel: str
    choices: tuple[str, ...] | str
    many: bool
    is_tuple: bool
    flag: str


def option(
    default: Any,
    help: str,
    *,
    panel: str = "",
    choices: tuple[str, ...] | str = (),
    many: bool = False,
    flag: str = "",
) -> Any:
    """Return a dataclass field that is an option.

    Args:
        default: `dataclasses.MISSING` makes the option required, `dict` gives it an empty mapping.
        help, panel, choices, many, flag: see `Option`; the flag follows from the field's name if
            it is empty.
    """
    details = {"help": help, "panel": panel, "choices": choices, "many": many, "flag": flag}
    if default is dict:
        return field(default_factory=dict, metadata=details)
    return field(default=default, metadata=details)


def options(kind: type) -> dict[str, Option]:
    """Return the options of a config dataclass by name; other fields are left out."""
    hints = get_type_hints(kind)
    return {
        each.name: _option(each.name, hints[each.name], each.default, each.metadata)
        for each in fields(kind)
        if "help" in each.metadata
    }


def _option(name: str, hint: Any, default: Any, details: Mapping[str, Any]) -> Option:
    if get_origin(hint) is Mapping:
        value_type, is_tuple, default = dict, False, None
    elif get_origin(hint) is tuple:
        value_type, is_tuple = get_args(hint)[0], True
    else:
        value_type, is_tuple = next(t for t in (*get_args(hint), hint) if t is not NoneType), False
    return Option(
        name=name,
        type=value_type,
        default=default,
        help=details["help"],
        panel=details["panel"],
        choices=details["choices"],
        many=details["many"],
        is_tuple=is_tuple,
        flag=details["flag"] or f"--{name.replace('_', '-')}",
    )


def parse_list(flag: str, text: str, kind: Callable[[str], Value]) -> tuple[Value, ...]:
    """Return the values of a list A,B,..., without duplicates.

    Raises:
        BenchError: a word is empty or has another type.
    """
    words = [word.strip() for word in text.split(",")]
    try:
        values = tuple(dict.fromkeys(kind(word) for word in words))
    except ValueError as error:
        raise BenchError(f"{flag} {text!r} is not a list of numbers, such as 1,5,10.") from error
    if "" in words:
        raise BenchError(f"{flag} {text!r} has an empty word between or beside commas.")
    return values


def parse_pairs(flag: str, words: Sequence[str]) -> dict[str, str]:
    """Return the values of KEY=VALUE words by key; raise a BenchError if a word has no "="."""
    for word in words:
        if "=" not in word:
            raise BenchError(f"{flag} {word!r}: write KEY=VALUE.")
    parts = [word.partition("=") for word in words]
    return {key: value for key, _, value in parts}


def convert(option: Option, value: object) -> Any:
    """Return a value of a TOML file or of a keyword argument with the type of its option.

    A list becomes a tuple; integers are accepted as numbers, text as a path, and the values of a
    mapping become text.

    Raises:
        BenchError: the value has another type, or the option takes no list.
    """
    if isinstance(value, list | tuple) and (option.many or option.is_tuple) and value:
        return tuple(dict.fromkeys(_convert_one(option, each) for each in value))
    if value is None and option.default is None:
        return None
    converted = _convert_one(option, value)
    return (converted,) if option.is_tuple else converted


def _convert_one(option: Option, value: object) -> Any:
    if option.type is dict and isinstance(value, Mapping):
        return {str(key): _text(each) for key, each in value.items()}
    if option.type is Path and isinstance(value, str | Path):
        return Path(value)
    if option.type is float and type(value) is int:
        return float(value)
    if type(value) is option.type:
        return value
    noun = NOUNS.get(option.type, "a table of values")
    raise BenchError(
        f"{option.name} = {value!r} is not {noun}{' or a list of these' if option.many else ''}."
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_choices(config: object) -> None:
    """Raise a BenchError if an option of a config is not among its choices."""
    for option in options(type(config)).values():
        value, choices = getattr(config, option.name), option.choices
        if choices and not isinstance(choices, str) and value not in (*choices, None):
            raise BenchError(f"{option.flag} {value!r} is not one of {', '.join(choices)}.")
