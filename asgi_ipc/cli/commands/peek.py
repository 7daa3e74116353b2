"""``peek``: messages that wait on a channel, without taking them."""

from __future__ import annotations

import click

from ...engines.base import LOOK_RECORDS
from ...layers.inspection import MessageInfo, waiting_messages
from ..arguments import as_json, on_store
from ..choice import StoreChoice
from ..inspecting import inspected
from ..messages import jsonable, shown
from ..output import age, note, size, write, write_json

#: Channels of a group message that its line names.
_NAMES = 2


@click.command("peek")
@on_store
@click.argument("channel")
@click.option(
    "--limit",
    type=click.IntRange(1, LOOK_RECORDS),
    default=10,
    show_default=True,
    metavar="N",
    help=f"show at most N messages, the oldest; up to {LOOK_RECORDS}",
)
@as_json
def command(store: StoreChoice, channel: str, limit: int, as_json: bool) -> int:
    """Show messages that wait on CHANNEL, the oldest first.

    None is taken. Of a process-specific channel only messages can be seen that its process has not
    fetched yet; a name that ends in '!' stands for all channels that begin with it.

    Exit status: 1 if no message waits.
    """
    with inspected(store) as engine:
        try:
            found = waiting_messages(engine, channel, limit)
        except TypeError as error:
            raise click.UsageError(str(error)) from error
    if as_json:
        write_json(
            [
                each._asdict()
                | {"channels": list(each.channels), "message": jsonable(each.message)}
                for each in found
            ]
        )
    else:
        for each in found:
            write(_line(each, channel))
        if not found:
            note(f"no message waits on channel {channel!r}")
    return 0 if found else 1


def _line(each: MessageInfo, channel: str) -> str:
    content = shown(jsonable(each.message)) if each.problem is None else f"({each.problem})"
    which = "" if each.channels == (channel,) else f" for {_few(each.channels)}"
    return f"{content}  [{size(each.bytes)}, expires in {age(each.expires_in)}{which}]"


def _few(names: tuple[str, ...]) -> str:
    """Return the first names, and how many more there are; --json has them all."""
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


__all__ = ["command"]
