"""``completion``: what makes a shell complete commands, options and prefixes."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ..output import note


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print a script for completion in SHELL.

    For bash, add this line to ~/.bashrc (zsh: ~/.zshrc):

        eval "$(asgi-ipc completion bash)"
    """
    context = click.get_current_context()
    complete = get_completion_class(shell)
    if complete is None:  # pragma: no cover (the choice above has those that click has)
        note(f"click does not complete in {shell}")
        return 2
    root = context.find_root().command
    click.echo(complete(root, {}, "asgi-ipc", "_ASGI_IPC_COMPLETE").source())
    return 0


__all__ = ["command"]
