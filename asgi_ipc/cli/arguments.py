"""What commands share: the arguments that name a store, ``--json``, ``--sort``, ``--yes``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
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


def _arguments_of_store(function: _Function, required: bool) -> _Function:
    """Decorate with PREFIX, and with the options that say where a store lies."""
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
        click.argument("prefix", cls=_PrefixArgument, required=required, shell_complete=_prefixes),
    ):
        function = decorate(function)
    return function


class Given(NamedTuple):
    """The arguments that name a store, as a command got them; none where settings choose it."""

    prefix: str | None = None
    engine: str | None = None
    engine_option: Sequence[tuple[str, Any]] = ()
    directory: str | None = None

    def chosen(self) -> StoreChoice | None:
        """Return the store that these, or the settings, choose; None if neither does.

        Raises `OptionError` for a bad prefix.
        """
        defaults = settings()
        if defaults is not None:
            return defaults
        if self.prefix is None:
            return None
        options = dict(self.engine_option)
        if self.directory is not None:
            options["directory"] = self.directory
        return StoreChoice(self.prefix, self.engine, options).checked()


def settings() -> StoreChoice | None:
    """Return the store that the settings of a site choose, if the command was called so."""
    context = click.get_current_context(silent=True)
    return context.find_object(StoreChoice) if context else None


def may_name_store(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command's function: its first argument is `Given`, in which PREFIX may be None."""
    return _naming_store(function, required=False)


def on_store(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command's function: it gets the chosen store as its first argument."""

    @functools.wraps(function)
    def call(given: Given, **others: Any) -> Any:
        return function(given.chosen(), **others)

    return _naming_store(call, required=True)


def _naming_store(function: Callable[..., Any], required: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(
        prefix: str | None = None,
        engine: str | None = None,
        engine_option: Sequence[tuple[str, Any]] = (),
        directory: str | None = None,
        **others: Any,
    ) -> Any:
        return function(Given(prefix, engine, engine_option, directory), **others)

    return _arguments_of_store(call, required)


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
    "Given",
    "as_json",
    "engine_option",
    "force",
    "may_name_store",
    "on_store",
    "settings",
    "sort_and_limit",
    "without_store",
    "yes",
]
