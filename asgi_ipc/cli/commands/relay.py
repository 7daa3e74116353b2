"""``relay``: a machine's relay as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import stat
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ...exceptions import StoreCorrupt, StoreUnavailable
from ..arguments import engine_option, on_store
from ..choice import StoreChoice
from ..finding import NoSuchStore
from ..joining import hint_if_slow, join
from ..output import note

if TYPE_CHECKING:
    from ...engines.base import Engine
    from ...relay.failures import Failures
    from ...relay.options import RelayOptions

_log = logging.getLogger("asgi_ipc")

#: JSON of ``relay_options``.
_VARIABLE = "ASGI_IPC_RELAY_OPTIONS"
#: Most characters of a file of options, and the rights that only its owner may have on it; a group
#: may read it.
_LARGEST, _OTHERS = 64 * 1024, 0o027
#: Seconds between two looks for the store, and for the role while another process leaves it.
_STORE, _ROLE = 1.0, 0.1


class _Another(StoreUnavailable):
    """Another dedicated relay is there."""


def _options(
    context: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> dict[str, Any]:
    try:
        return dict(engine_option(text) for text in texts)
    except ValueError:
        # Without the text, which may be a password.
        raise click.BadParameter("an option is not KEY=VALUE, such as timeout=5.0") from None


def _file(context: click.Context, param: click.Parameter, path: str | None) -> dict[str, Any]:
    """Read a file of options that other users can't."""
    if path is None:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            about = os.stat(file.fileno())
            text = file.read(_LARGEST)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise click.BadParameter(f"{path!r} can't be read: {reason}") from None
    if about.st_mode & _OTHERS:
        mode = stat.S_IMODE(about.st_mode)
        raise click.BadParameter(
            f"{path!r} has mode {mode:04o}, so other users may read or change the secrets in it:"
            f" chmod 0600 {path}"
        )
    if about.st_uid not in (0, os.geteuid()):
        raise click.BadParameter(
            f"{path!r} belongs to another user, who can change it: give it to root or to the user"
            " of the site"
        )
    return _json(text, repr(path))


def _environment() -> dict[str, Any]:
    text = os.environ.get(_VARIABLE)
    return _json(text, _VARIABLE) if text else {}


def _json(text: str, where: str) -> dict[str, Any]:
    """Return an object in JSON. No error shows what it says, which may be a password."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    raise click.UsageError(
        f"{where} is not the JSON of relay_options: write an object such as"
        """ '{"keys": ["..."], "password": "..."}'"""
    )


@click.command("relay")
@on_store
@click.option(
    "--relay",
    "url",
    metavar="URL",
    envvar="ASGI_IPC_RELAY",
    help="the server. Other users see the command line: put a URL with a password into the"
    " environment variable ASGI_IPC_RELAY",
)
@click.option(
    "--relay-option",
    "relay_options",
    multiple=True,
    callback=_options,
    metavar="KEY=VALUE",
    help="an option of relay_options; VALUE is a Python literal, or else a string. Other users see"
    " it: put keys and passwords into a file",
)
@click.option(
    "--relay-options-file",
    "from_file",
    metavar="FILE",
    callback=_file,
    help="relay_options as a JSON object, in a file that other users can't read; the environment"
    " variable ASGI_IPC_RELAY_OPTIONS may have the same JSON",
)
@click.option(
    "--relay-channel",
    "relay_channels",
    multiple=True,
    metavar="PATTERN",
    help="a pattern of the site's relay_channels",
)
def command(
    store: StoreChoice,
    url: str | None,
    relay_options: dict[str, Any],
    from_file: dict[str, Any],
    relay_channels: tuple[str, ...],
) -> int:
    """Relay between the store of PREFIX and those of other machines, until a signal ends it.

    Takes precedence over the site's processes, one of which relays otherwise, and goes on again
    when this command ends. Waits for a store that is not there yet.

    Server, relay_options and relay_channels must be those of the site: 'manage.py asgi_ipc relay'
    takes them from the settings. A relay that differs refuses, and says how.
    """
    from ...relay.loop import run
    from ...relay.options import checked

    layer_options = dict(store.layer_options)
    url = url or layer_options.pop("relay", None)
    own = {**_environment(), **from_file, **relay_options}
    relay_options = own or layer_options.pop("relay_options", None) or {}
    shared = list(relay_channels) or layer_options.pop("relay_channels", None)
    for name in ("relay", "relay_options", "relay_channels"):
        layer_options.pop(name, None)
    if url is None:
        raise click.UsageError("name the server: --relay URL, or ASGI_IPC_RELAY=URL")

    def options(channel_memory: int = 0) -> RelayOptions:
        return checked(url, store.prefix, relay_options, channel_memory, shared)

    options()
    with _log_to_stderr():
        ended_by = run(partial(_relay, store, options, layer_options))
    if ended_by == signal.SIGINT:
        raise KeyboardInterrupt
    return 0


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show when the relay connects, and what it warns of, unless the site configured logging."""
    if _log.hasHandlers():
        yield
        return
    handler, level = logging.StreamHandler(), _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)


async def _relay(
    store: StoreChoice, options: Callable[[int], RelayOptions], layer_options: dict[str, Any]
) -> int:
    """Relay for the store, and for one that replaces it, until a signal; return its number.

    Raises `Differs` if the site has other options.
    """
    from ...relay.failures import Failures

    stop, failures = asyncio.Event(), Failures()
    came: list[int] = []

    def end(number: int) -> None:
        came.append(number)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Such as by nohup.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, end, number)
    is_told = False
    while not stop.is_set():
        try:
            with hint_if_slow():
                engine = join(store)
        except NoSuchStore as error:
            if not is_told:
                note(f"{error}; waiting until the site has made it")
            is_told = True
            await _pause(stop, _STORE)
            continue
        try:
            with hint_if_slow():
                memory = engine.statistics().get("channel_bytes_total", 0)
            is_told = False
            await _relay_for(engine, store, options(memory), layer_options, stop, failures)
        except _Another:
            raise
        except StoreUnavailable as error:
            note(f"{error}; waiting for the store")
        finally:
            if engine is not store.engine:
                engine.close()
        if not stop.is_set():
            await _pause(stop, max(_STORE, failures.pause))
    return came[0]


async def _relay_for(
    engine: Engine,
    store: StoreChoice,
    options: RelayOptions,
    layer_options: dict[str, Any],
    stop: asyncio.Event,
    failures: Failures,
) -> None:
    """Relay for one store until it is gone. Raises `StoreUnavailable`.

    Returns after an unexpected error too, so that a process of the site relays meanwhile.
    """
    from ...layers.dedicated_machine import dedicated_machine
    from ...relay.agreement import refuse_if_differs
    from ...relay.options import check_engine
    from ...relay.relay import Relay
    from ...relay.way_out import DEDICATED, RELAY, vacate

    check_engine(engine, store.engine)
    refuse_if_differs(engine, options.used)
    if not engine.hold(DEDICATED):
        raise _Another(
            f"another process is the dedicated relay of prefix {store.prefix!r}; 'asgi-ipc relays"
            f" {store.prefix}' shows it"
        )
    # The thread of a site's process steps back within a second.
    while not engine.hold(RELAY):
        await _pause(stop, _ROLE)
        if stop.is_set():
            return
    with dedicated_machine(engine, store.prefix, layer_options) as machine:
        note(f"relaying prefix {store.prefix!r} over {options.shown}; Ctrl-C ends it")
        failures.begun()
        try:
            await Relay(machine, options, dedicated=True).run(stop)
        except (StoreUnavailable, StoreCorrupt):
            raise
        except Exception as error:
            failures.failed(error, options.shown)
    _log.info("relay %s: this process relays no more", options.shown)
    engine.release(RELAY)
    if stop.is_set() or failures.pause:
        # A process of the site goes on at once.
        engine.release(DEDICATED)
        vacate(engine)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


__all__ = ["command"]
