"""The frame of the command line: the list of commands, how one is called, and how it ends.

A command is a module with a `click.Command` named ``command``, and a line in `COMMANDS`. It is
imported when it is called. Its function returns the exit status, or None for 0.

======  ==============================================================================
status  meaning
======  ==============================================================================
0       done; the answer is yes
1       the answer is no: a probe failed, a check found damage, a time limit passed, the user
        said no, a channel was full
2       it could not be done: wrong arguments, no such store, no rights, a store in use
130     ended by Ctrl-C
141     the reader of the output went away
======  ==============================================================================
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from .. import __version__
from ..layers import options as layer_options
from .arguments import without_store
from .choice import StoreChoice
from .failures import FAILURES
from .output import printable

#: Each command, and the module that has it.
COMMANDS: Mapping[str, str] = {
    name: f"{__package__}.commands.{module}"
    for name, module in {
        "list": "list",
        "stats": "stats",
        "channels": "channels",
        "groups": "groups",
        "processes": "processes",
        "peek": "peek",
        "send": "send",
        "group-send": "group_send",
        "tail": "tail",
        "top": "top",
        "metrics": "metrics",
        "ping": "ping",
        "flush": "flush",
        "remove": "remove",
        "drain": "drain",
        "relay": "relay",
        "relays": "relays",
        "check": "check",
        "doctor": "doctor",
        "completion": "completion",
    }.items()
}
#: How a program that SIGPIPE ended, or SIGINT, appears in a shell.
_PIPE, _INTERRUPTED = 141, 130


class _Closed(Exception):
    """The reader of the output went away."""


class _Interrupted(Exception):
    """The user pressed Ctrl-C. Not every click tells it from other ends."""


class Commands(click.Group):
    """The commands of `COMMANDS`, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; without PREFIX if settings name the store."""
        path = COMMANDS.get(cmd_name)
        if path is None:
            return None
        command: click.Command = import_module(path).command
        return without_store(command) if ctx.find_object(StoreChoice) else command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; the error of an unknown one names those that are similar."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(COMMANDS)}."
            ctx.fail(f"no such command {printable(args[0])!r}; {hint}")
        return super().resolve_command(ctx, args)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse the arguments, and print the help; ends as `invoke` does."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError:
            raise _Closed from None

    def invoke(self, ctx: click.Context) -> Any:
        """Call a command. It ends at once if the reader of its output goes away."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _Closed from None
        except KeyboardInterrupt:
            raise _Interrupted from None


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 the answer is no, 2 it could not be done, 130 Ctrl-C.",
)
@click.version_option(__version__, message="asgi_ipc %(version)s")
def commands() -> None:
    """Look into the stores of asgi_ipc, a channel layer in shared memory, and act on them.

    A command that takes PREFIX finds the store of that prefix in the default directories. None
    creates a store.
    """


def run(
    arguments: Sequence[str], defaults: StoreChoice | None = None, program: str = "asgi-ipc"
) -> int:
    """Run the command that the arguments name; return its exit status (see this module).

    With ``defaults``, the store that the settings of a site name, commands take no PREFIX and no
    ``--engine``. Prints, and may block as long as the command does; raises nothing but what is a
    defect.
    """
    _have_streams()
    may_relay, layer_options.may_relay = layer_options.may_relay, False
    try:
        try:
            status = commands.main(
                list(arguments), prog_name=program, standalone_mode=False, obj=defaults
            )
            sys.stdout.flush()
        except FAILURES as error:
            if isinstance(error, BrokenPipeError):
                raise _Closed from None
            _complain(program, str(error))
            return 2
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        _complain(program, error.format_message())
        return error.exit_code
    except (_Interrupted, KeyboardInterrupt):
        with contextlib.suppress(OSError):
            click.echo(err=True)  # Behind the terminal's ^C.
        return _INTERRUPTED
    except click.Abort as error:
        return _INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else 1
    except _Closed:
        _drop_output()
        return _PIPE
    except SystemExit as end:  # Of a completion, or of a signal that ended the doctor.
        return end.code if isinstance(end.code, int) else 0
    finally:
        layer_options.may_relay = may_relay


def _complain(program: str, text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"{program}: {printable(text, keep=chr(10))}", err=True)


def _have_streams() -> None:
    """Write to nowhere what was closed, and escape characters that a terminal's encoding lacks."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _drop_output() -> None:
    """Have what is still buffered go nowhere when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def main(arguments: Sequence[str] | None = None, program: str = "asgi-ipc") -> int:
    """Run the command line; return the exit status. The console script ``asgi-ipc``."""
    return run(sys.argv[1:] if arguments is None else arguments, program=program)


__all__ = ["COMMANDS", "StoreChoice", "main", "run"]
