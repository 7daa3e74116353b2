"""Tell what this machine offers asgi_ipc, and which engines work on it.

Everything is tried for real, each in a process of its own with a time limit, on private
files that are removed afterwards. The store of a site is looked at, but not changed.
The exit status is 1 if the chosen engine does not work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from asgi_ipc import __version__
from asgi_ipc.engines import names

from ..arguments import add_engine_arguments
from .engines import look_at_store, try_engine
from .machine import limits, look_at, packages, system
from .memory import try_full, try_memory
from .primitives import try_everywhere, try_in
from .stores import directories, factory_of
from .text import as_text

#: The layers' own.
DEFAULT_SIZES = {"channel_memory": 100 * 1024 * 1024, "group_memory": 20 * 1024 * 1024}
HELP = "tell what this machine offers, and which engines work on it"
#: Of the JSON report. Grows when a key changes its meaning or goes.
FORMAT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``doctor``."""
    add_engine_arguments(parser, "the engine that must work")
    for option, default in DEFAULT_SIZES.items():
        parser.add_argument(
            f"--{option.replace('_', '-')}",
            type=int,
            default=default,
            metavar="BYTES",
            help=f"as the layer has it (default: {default})",
        )
    parser.add_argument(
        "--prefix",
        default="asgi",
        help="the store to look at, if it is there (default: asgi)",
    )
    parser.add_argument(
        "--json", action="store_true", help="for bug reports: one JSON object with stable keys"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 0 if the chosen engine works, else 1. Takes a few seconds."""
    with _terminated_properly():
        report = examine(
            arguments.engine,
            dict(arguments.engine_option),
            arguments.prefix,
            {option: getattr(arguments, option) for option in DEFAULT_SIZES},
        )
    if arguments.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.write(as_text(report))
    return 0 if report["works"] else 1


def examine(
    engine: str, options: dict[str, Any], prefix: str, sizes: dict[str, int]
) -> dict[str, Any]:
    """The report, as it goes out with ``--json``."""
    engines: dict[str, dict[str, Any]] = {name: {} for name in names()} | {engine: options}
    folders = directories(engines)
    store = look_at_store(engine, prefix, options)
    tried = [try_engine(name, engines[name], sizes) for name in sorted(engines)]
    chosen = next(result for result in tried if result["name"] == engine)
    primitives = [*try_everywhere(), try_full()]
    for name, given in sorted(engines.items()):
        factory = factory_of(name)
        if factory is not None:
            primitives += try_memory(name, factory, given, sizes, name == engine)
    for folder, users in folders.items():
        named = all("directory" in engines[name] for name in users)
        primitives += try_in(folder, private=not named, needed=engine in users)
    return {
        "format": FORMAT,
        "asgi_ipc": __version__,
        "engine": engine,
        # Other engines' options may hold passwords, and this goes into bug reports.
        "engine_options": sorted(options),
        "prefix": prefix,
        **sizes,
        "works": chosen["works"] and store["works"] is not False,
        "system": system(),
        "packages": packages(),
        "limits": limits(),
        "directories": [look_at(folder) | {"engines": folders[folder]} for folder in folders],
        "primitives": primitives,
        "engines": tried,
        "store": store,
    }


@contextlib.contextmanager
def _terminated_properly() -> Iterator[None]:
    """Have SIGTERM end the program as an exception does, so that what it made is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
