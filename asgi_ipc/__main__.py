"""The command line: ``python -m asgi_ipc COMMAND``.

A command is a module with ``HELP``, ``add_arguments(parser)`` and ``run(arguments)``, which
returns the exit status, and a line in `COMMANDS`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from . import __version__

COMMANDS: Mapping[str, str] = {
    "check": "asgi_ipc.cli.check",
    "doctor": "asgi_ipc.cli.doctor",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; its exit status. 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m asgi_ipc",
        description="A channel layer in shared memory.",
    )
    parser.add_argument("--version", action="version", version=f"asgi_ipc {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, path in COMMANDS.items():
        module = import_module(path)
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    status: int = parsed.run(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
