"""``tail``: what is sent to a group, as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from ..arguments import on_store
from ..choice import StoreChoice
from ..joining import hint_if_slow, joined
from ..limits import GRACE, STOPPED, end_at_once, limit
from ..messages import jsonable, shown
from ..output import note, write, write_json_line
from ..reach import note_only_here

if TYPE_CHECKING:
    from ...layers.aio import IPCChannelLayer

    #: Groups and their messages.
    _Came = asyncio.Queue[tuple[str, dict[str, Any]]]

#: Messages that are received ahead of what is printed; the layer bounds those behind them.
_AHEAD = 100


@click.command("tail")
@on_store
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="end after N messages")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="end after that time",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a line, for scripts")
def command(
    store: StoreChoice,
    groups: tuple[str, ...],
    count: int | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Print each message that is sent to GROUP, until Ctrl-C.

    Joins the group as a channel of its own, and leaves it at the end, also if it is killed.

    Exit status: 1 if --timeout passed before --count messages came, or, a second later, if the
    store does not answer, as a stopped process holds its lock.
    """
    deadline = None if timeout is None else time.monotonic() + timeout

    def late() -> None:
        note(f"no answer from the store for {timeout:g} seconds; {STOPPED}")
        end_at_once(1)

    try:
        with contextlib.ExitStack() as stack:
            if timeout is not None:
                # Whatever runs in the event loop meanwhile may wait for the lock.
                stack.enter_context(limit(timeout + GRACE, late))
            engine = stack.enter_context(joined(store, stays=True))
            note_only_here(engine, store, "tail hears what is sent", "tail")
            complete = asyncio.run(_tail(store, engine, groups, count, deadline, as_json))
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    return 0 if complete or count is None else 1


async def _tail(
    store: StoreChoice,
    engine: Any,
    groups: tuple[str, ...],
    count: int | None,
    deadline: float | None,
    as_json: bool,
) -> bool:
    """Print messages; return whether ``count`` have come."""
    from ...layers.aio import IPCChannelLayer

    layer = IPCChannelLayer(store.prefix, engine=engine, **store.layer_options)
    came: _Came = asyncio.Queue(_AHEAD)
    joins: list[tuple[str, str]] = []
    readers: list[asyncio.Future[None]] = []
    try:
        for group in groups:
            channel = await layer.new_channel("tail")
            joins.append((group, channel))
            with hint_if_slow():
                await layer.group_add(group, channel)
            readers.append(asyncio.ensure_future(_read(layer, group, channel, came)))
        if not as_json:
            note(f"waiting for messages to {', '.join(groups)}; Ctrl-C ends it")
        printing = asyncio.ensure_future(_print(came, count, as_json))
        done, _ = await asyncio.wait(
            [printing, *readers],
            timeout=None if deadline is None else max(0.0, deadline - time.monotonic()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        for each in done:
            each.result()
        printing.cancel()
        return bool(done)
    finally:
        for reader in readers:
            reader.cancel()
        with hint_if_slow():
            for group, channel in joins:
                await layer.group_discard(group, channel)
            await layer.close()


async def _read(layer: IPCChannelLayer, group: str, channel: str, came: _Came) -> None:
    while True:
        await came.put((group, await layer.receive(channel)))


async def _print(came: _Came, count: int | None, as_json: bool) -> None:
    printed = 0
    while count is None or printed < count:
        group, message = await came.get()
        now, content = time.time(), jsonable(message)
        if as_json:
            write_json_line({"time": now, "group": group, "message": content})
        else:
            write(f"{time.strftime('%H:%M:%S', time.localtime(now))} {group} {shown(content)}")
            sys.stdout.flush()
        printed += 1


__all__ = ["command"]
