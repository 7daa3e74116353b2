"""``doctor``: what this machine offers, and which engines work on it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from ...layers.options import CHANNEL_MEMORY, GROUP_MEMORY
from ..arguments import Given, as_json, may_name_store, settings
from ..choice import StoreChoice
from ..finding import NoSuchStore, find_store
from ..output import write_json

#: The prefix, and the engine, of a layer without options.
_PREFIX, _ENGINE = "asgi", "posix"
_size = click.IntRange(min=1)


@click.command("doctor")
@may_name_store
@click.option("--prefix", "named_prefix", help="the same as PREFIX", metavar="PREFIX", default=None)
@click.option(
    "--channel-memory",
    type=_size,
    default=CHANNEL_MEMORY,
    show_default=True,
    metavar="BYTES",
    help="the layer's value",
)
@click.option(
    "--group-memory",
    type=_size,
    default=GROUP_MEMORY,
    show_default=True,
    metavar="BYTES",
    help="the layer's value",
)
@as_json
def command(
    given: Given,
    named_prefix: str | None,
    channel_memory: int,
    group_memory: int,
    as_json: bool,
) -> int:
    """Show which engines work on this machine.

    Shows what the machine offers, and tries each engine. Also inspects the store of PREFIX
    (default: asgi), if it exists, and does not change it. Each check runs for real, in a process of
    its own with a time limit, on private files that are removed afterwards. Takes a few seconds.
    Add the output of --json to a bug report.

    Exit status: 0 if the engine and the store work, else 1. The engine is that of --engine, or else
    that of the store, or else posix.
    """
    prefix = given.prefix
    if prefix is not None and named_prefix is not None and prefix != named_prefix:
        raise click.UsageError(f"two prefixes given: {prefix!r} and {named_prefix!r}; pass one")
    named = given._replace(prefix=prefix or named_prefix or _PREFIX).chosen()
    choice = named or StoreChoice(_PREFIX)
    # Imported late: of the commands it has most to import.
    from ..doctor import examine
    from ..doctor.text import as_text

    sizes = {"channel_memory": channel_memory, "group_memory": group_memory}
    if settings() is not None:
        sizes |= {
            each: choice.layer_options[each] for each in sizes if each in choice.layer_options
        }
    which = _engine(choice)
    with _terminated_properly():
        report = examine(which, dict(choice.engine_options), choice.prefix, sizes)
    if as_json:
        write_json(report)
    else:
        sys.stdout.write(as_text(report))
    return 0 if report["works"] else 1


def _engine(choice: StoreChoice) -> Any:
    """Return the engine that must work: the one named, or that of the store, or the default."""
    engine = choice.engine
    if isinstance(engine, str):
        return engine
    if engine is not None:  # A class, or an engine that the settings of a site made.
        kind = engine if isinstance(engine, type) else type(engine)
        return f"{kind.__module__}:{kind.__qualname__}"
    with contextlib.suppress(Exception):  # What is wrong with it the doctor will find.
        try:
            return find_store(choice).factory.argument()
        except NoSuchStore:
            pass
    return _ENGINE


@contextlib.contextmanager
def _terminated_properly() -> Iterator[None]:
    """Have SIGTERM end the program as an exception does, so that what it made is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


__all__ = ["command"]
