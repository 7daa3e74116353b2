"""Which options the commands of ``asgi-ipc`` have."""

from __future__ import annotations

from importlib import import_module

import click

from asgi_ipc.cli.main import COMMANDS


def options_of(name: str) -> set[str] | None:
    """The options of a command; None if there is no such command."""
    if name not in COMMANDS:
        return None
    command: click.Command = import_module(COMMANDS[name]).command
    return {each for param in command.params for each in param.opts + param.secondary_opts}
