"""``metrics``: the statistics of a store for Prometheus, once or as a page."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from concurrent import futures

import click

from ...metrics.exposition import CONTENT_TYPE, text
from ...metrics.readings import of_engine
from ..arguments import on_store
from ..background import Background
from ..choice import StoreChoice
from ..failures import FAILURES, OF_STORE
from ..joining import joined
from ..output import note
from ..serving import Page, serve

PATH = "/metrics"
#: Seconds that a scrape waits for the store, which is less than Prometheus waits by default.
_PATIENCE = 5.0
_NO_ANSWER = (
    f"no answer for {_PATIENCE:g} seconds: the store is large, or a stopped process (state T in "
    "ps) holds its lock; if so, continue that process (kill -CONT) or end it"
)
_LOOPBACK = "127.0.0.1"


def _address(
    context: click.Context, param: click.Parameter, value: str | None
) -> tuple[str, int] | None:
    """Parse ``PORT``, ``:PORT``, ``HOST:PORT`` or ``[HOST]:PORT``."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise click.BadParameter(
            f"{value!r} is not HOST:PORT, such as 127.0.0.1:9464, or a port from 0 to 65535"
        )
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise click.BadParameter(f"{value!r}: write an IPv6 address as [{host}]:{port}")
    return host.strip("[]") or _LOOPBACK, int(port)


@click.command("metrics")
@on_store
@click.option(
    "--listen",
    "address",
    metavar="ADDRESS",
    callback=_address,
    help=f"serve them at http://ADDRESS{PATH} until Ctrl-C or SIGTERM; HOST:PORT, or PORT of "
    "the loopback address; with port 0 the system chooses one",
)
@click.option(
    "--channels",
    "most_channels",
    type=click.IntRange(min=0, max=10_000),
    default=0,
    metavar="N",
    help="also of at most N ordinary channels, those with most messages pending",
)
def command(store: StoreChoice, address: tuple[str, int] | None, most_channels: int) -> int:
    """Print the statistics of the store of PREFIX as metrics for Prometheus.

    With --listen, a scrape is answered with status 503 and the reason while there is no store, or
    a stopped process holds its lock. Between two scrapes the command does not have the store open.
    """

    def look() -> str:
        with joined(store, patience=address is None) as engine:
            return text(of_engine(store.prefix, engine, most_channels))

    if address is None:
        sys.stdout.write(look())
        return 0
    background = Background(look)
    try:
        # What raises other errors, such as a wrong option, does so for ever.
        background.start().result(_PATIENCE)
    except (*OF_STORE, TimeoutError, futures.TimeoutError) as error:
        note(f"no metrics yet: {str(error) or _NO_ANSWER}")
    return _serve(background, *address)


def _serve(background: Background[str], host: str, port: int) -> int:
    async def page() -> Page:
        return await _page(background.start())

    def listening(host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        note(f"serving http://{shown}:{port}{PATH}; Ctrl-C ends it")

    try:
        ended = asyncio.run(serve(host, port, PATH, page, listening))
    except OSError as error:
        raise click.UsageError(
            f"can't listen on {host}:{port}: {error.strerror or error}"
        ) from None
    if background.is_busy:
        # Leaving the store properly would wait for the lock that the thread waits for.
        sys.stderr.flush()
        os._exit(130 if ended.number == signal.SIGINT else 0)
    if ended.number == signal.SIGINT:
        raise KeyboardInterrupt
    return 0


async def _page(look: futures.Future[str]) -> Page:
    """Wait for a look that others may wait for, too."""
    waiting = asyncio.wrap_future(look)
    # Or asyncio would log what it raises when nobody waits for it any more.
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    done, _ = await asyncio.wait([waiting], timeout=_PATIENCE)
    if not done:
        return Page(503, f"{_NO_ANSWER}\n")
    try:
        return Page(200, waiting.result(), CONTENT_TYPE)
    except FAILURES as error:
        return Page(503, f"{error}\n")


__all__ = ["command"]
