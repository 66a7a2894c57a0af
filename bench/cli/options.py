"""Turn a config dataclass into the options of a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

from bench.api.options import Option, options, parse_list, parse_pairs
from bench.cli import completion

ENVIRONMENT = {"data": "BENCH_DATA", "results": "BENCH_RESULTS"}

Command = Callable[..., Any]


def options_of(
    kind: type, parameter: str = "config", build: Callable[[dict[str, Any]], Any] | None = None
) -> Callable[[Command], Command]:
    """Replace a parameter of a command by one option for each field of a dataclass.

    Args:
        kind: a dataclass whose fields are made by `bench.api.options.option`.
        parameter: name of the parameter that receives the config.
        build: makes the config of the values by name, in place of `kind(**values)`. A list option
            of a field that is no tuple has a tuple of values, or None if it is not on the command
            line.
    """
    known = options(kind)

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[Parameter] = []
        for each in signature(command).parameters.values():
            if each.name == parameter:
                parameters += [_parameter(option) for option in known.values()]
            else:
                replaced = each.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[each.name])
                parameters.append(replaced)

        @wraps(command)
        def wrapper(**values: Any) -> Any:
            parsed = {name: _parsed(each, values.pop(name)) for name, each in known.items()}
            config = build(parsed) if build else kind(**parsed)
            return command(**values, **{parameter: config})

        vars(wrapper)["__signature__"] = Signature(parameters)
        wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
        return wrapper

    return decorate


def given_options(context: typer.Context, kind: type) -> set[str]:
    """Return the names of the options of a dataclass that the command line sets."""
    sources = {name: context.get_parameter_source(name) for name in options(kind)}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _parameter(option: Option) -> Parameter:
    """Return the parameter from which Typer makes the option of a field."""
    flag, default, annotation = option.flag, option.default, option.type
    shown: bool | str = default is not False and default not in (None, "", (), MISSING)
    metavar = "|".join(option.choices) if isinstance(option.choices, tuple) else ""
    if option.type is bool and default is True:
        flag = f"{flag}/--no-{flag[2:]}"
    elif option.type is dict:
        annotation, metavar, shown = list[str], "KEY=VALUE", False
    elif option.many:
        if shown:
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        annotation, metavar = str, "A,B,..."
    elif option.is_tuple:
        annotation, shown = list[option.type], False
    if default is not MISSING and (option.many or option.is_tuple):
        default = None  # to distinguish an omitted option from one with the default value
    info = typer.Option(
        flag,
        help=option.help,
        metavar=metavar or None,
        rich_help_panel=option.panel or None,
        show_default=bool(shown) and default is not MISSING and shown,
        envvar=ENVIRONMENT.get(option.name),
        autocompletion=completion.names_of(option.choices)
        if isinstance(option.choices, str)
        else None,
    )
    optional: Any = annotation | None if default is None else annotation
    return Parameter(
        option.name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if default is MISSING else default,
        annotation=Annotated[optional, info],
    )


def _parsed(option: Option, value: Any) -> Any:
    """Return what Typer parsed as a value of the field."""
    if option.type is dict:
        return parse_pairs(option.flag, value or [])
    if option.many and value is not None:
        return parse_list(option.flag, value, option.type)
    if option.is_tuple:
        return option.default if value is None else tuple(value)
    return value
