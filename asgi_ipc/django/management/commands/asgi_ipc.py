"""``manage.py asgi_ipc COMMAND``: the commands of ``asgi-ipc`` on the store of a layer.

Prefix, engine and options are those of ``CHANNEL_LAYERS``: ``--layer NAME`` in front of COMMAND
chooses another layer than "default".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from asgi_ipc.cli.choice import StoreChoice
from asgi_ipc.cli.main import run
from asgi_ipc.django.settings import Layer, layers

__all__ = ["Command"]

#: Options of a layer that say which store it is on.
_OF_THE_STORE = ("prefix", "engine", "engine_options")


class Command(BaseCommand):
    """Look into the store of a channel layer of the settings, and act on it."""

    help = "Look into the store of a channel layer in CHANNEL_LAYERS, and act on it."
    #: They are for the site; a command must work when the site does not.
    requires_system_checks: Sequence[str] = ()

    def add_arguments(self, parser: Any) -> None:
        """Add ``--layer``; what follows is the command's own."""
        parser.add_argument(
            "--layer",
            default="default",
            metavar="NAME",
            help='the layer in CHANNEL_LAYERS (default: "default")',
        )
        parser.add_argument(
            "command",
            nargs="...",
            metavar="COMMAND ...",
            help="a command of asgi-ipc without PREFIX; --help lists them: asgi_ipc -- --help",
        )

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Run the command, and exit with its status."""
        layer = _layer(options["layer"])
        given = list(options["command"])
        if given[:1] == ["--"]:
            del given[0]
        program = f"{os.path.basename(sys.argv[0])} asgi_ipc"
        status = run(given or ["--help"], _choice(layer), program)
        if status:
            sys.exit(status)


def _layer(alias: str) -> Layer:
    """Return a layer of the settings. Raises `CommandError` for what is none of ours."""
    found = {each.alias: each for each in layers()}
    if alias in found:
        return found[alias]
    there = ", ".join(map(repr, found)) or "none"
    raise CommandError(
        f"CHANNEL_LAYERS has no layer {alias!r} with the BACKEND asgi_ipc.IPCChannelLayer; those"
        f" that have it: {there}; name one with --layer",
        returncode=2,
    )


def _choice(layer: Layer) -> StoreChoice:
    options = layer.options
    return StoreChoice(
        options["prefix"],
        options["engine"],
        options["engine_options"] or {},
        {name: value for name, value in options.items() if name not in _OF_THE_STORE},
    ).checked()
