"""What commands share: the arguments that name a store, ``--json``, ``--sort``, ``--yes``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .choice import StoreChoice

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_Function = TypeVar("_Function", bound=Callable[..., Any])


def engine_option(text: str) -> tuple[str, Any]:
    """Parse ``KEY=VALUE``, where VALUE is a Python literal, or else a string.

    Raises `ValueError` for text of another form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ValueError(f"{text!r} is not KEY=VALUE, such as mode=0o660")
    # Imported late, as most commands are called without engine options.
    import ast

    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _parsed(
    context: click.Context, param: click.Parameter, texts: Sequence[str]
) -> list[tuple[str, Any]]:
    try:
        return [engine_option(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


class _PrefixArgument(click.Argument):
    """PREFIX, which is left out where settings choose the store."""


class _StoreOption(click.Option):
    """An option that names a store, which is left out where settings choose the store."""


def _prefixes(context: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    """Complete a prefix: those of the stores that this user may see."""
    from click.shell_completion import CompletionItem

    from .finding import prefixes

    return [CompletionItem(each) for each in prefixes() if each.startswith(start)]


def _engines(context: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from ..engines import names

    return [CompletionItem(each) for each in names() if each.startswith(start)]


def prefix_argument(required: bool = True) -> Callable[[_Function], _Function]:
    """Decorate with the argument PREFIX."""
    return click.argument(
        "prefix", cls=_PrefixArgument, required=required, shell_complete=_prefixes
    )


def engine_options(function: _Function) -> _Function:
    """Decorate with the options that say where a store lies."""
    for decorate in (
        click.option(
            "--directory",
            cls=_StoreOption,
            metavar="PATH",
            help="short for --engine-option directory=PATH",
        ),
        click.option(
            "--engine-option",
            "engine_option",
            cls=_StoreOption,
            multiple=True,
            callback=_parsed,
            metavar="KEY=VALUE",
            help="an engine option; VALUE is a Python literal, or else a string",
        ),
        click.option(
            "--engine",
            cls=_StoreOption,
            metavar="NAME",
            shell_complete=_engines,
            help="a name or 'package.module:Class' (default: the engine that made the store)",
        ),
    ):
        function = decorate(function)
    return function


def chosen(
    prefix: str | None,
    engine: str | None,
    engine_option: Sequence[tuple[str, Any]],
    directory: str | None,
) -> StoreChoice | None:
    """Return the store that arguments name, or the settings; None if neither does.

    Raises `OptionError` for a bad prefix.
    """
    defaults = settings()
    if defaults is not None:
        return defaults
    if prefix is None:
        return None
    options = dict(engine_option)
    if directory is not None:
        options["directory"] = directory
    return StoreChoice(prefix, engine, options).checked()


def settings() -> StoreChoice | None:
    """Return the store that the settings of a site choose, if the command was called so."""
    context = click.get_current_context(silent=True)
    return context.find_object(StoreChoice) if context else None


def on_store(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command's function: it gets the chosen store as its first argument."""

    @functools.wraps(function)
    def call(
        prefix: str | None = None,
        engine: str | None = None,
        engine_option: Sequence[tuple[str, Any]] = (),
        directory: str | None = None,
        **others: Any,
    ) -> Any:
        return function(chosen(prefix, engine, engine_option, directory), **others)

    return prefix_argument()(engine_options(call))


def without_store(command: click.Command) -> click.Command:
    """Return a command without the arguments that name a store, for a store that settings name."""
    import copy

    command = copy.copy(command)
    command.params = [
        each for each in command.params if not isinstance(each, (_PrefixArgument, _StoreOption))
    ]
    return command


as_json = click.option(
    "--json", "as_json", is_flag=True, help="print JSON with stable keys, for scripts"
)
yes = click.option("--yes", "-y", is_flag=True, help="do it without asking")
force = click.option("--force", is_flag=True, help="do it even if processes use the store")


def sort_and_limit(keys: Sequence[str], default: str) -> Callable[[_Function], _Function]:
    """Decorate with ``--sort`` by one of these keys, and ``--limit``."""

    def decorate(function: _Function) -> _Function:
        limited = click.option(
            "--limit",
            type=click.IntRange(min=1),
            metavar="N",
            help="show at most N, the first in that order",
        )(function)
        return click.option(
            "--sort",
            type=click.Choice(list(keys)),
            default=default,
            metavar="KEY",
            help=f"order by {', '.join(keys)} (default: {default}); largest first, text "
            "alphabetically",
        )(limited)

    return decorate


__all__ = [
    "as_json",
    "chosen",
    "engine_option",
    "engine_options",
    "force",
    "on_store",
    "prefix_argument",
    "settings",
    "sort_and_limit",
    "without_store",
    "yes",
]
