"""``channels``: every channel, with what waits on it."""

from __future__ import annotations

import click

from ...layers.inspection import ChannelInfo, channels
from ..arguments import as_json, on_store, sort_and_limit
from ..choice import StoreChoice
from ..inspecting import Known, inspected, known
from ..output import Column, age, count, ordered, size, table, write, write_json

_KEYS = (
    "name", "pending", "bytes", "oldest_age", "high_water", "pushed", "popped", "expired",
    "refused",
)  # fmt: skip
_COLUMNS = [
    Column("CHANNEL"),
    Column("PENDING", True),
    Column("OLDEST", True),
    Column("MEMORY", True, True),
    Column("HIGH WATER", True, True),
    Column("SENT", True, True),
    Column("RECEIVED", True, True),
    Column("EXPIRED", True, True),
    Column("REFUSED", True, True),
    Column("READER"),
]


@click.command("channels")
@on_store
@sort_and_limit(_KEYS, "pending")
@as_json
def command(store: StoreChoice, sort: str, limit: int | None, as_json: bool) -> int:
    """List the channels in the store of PREFIX.

    The process-specific channels of one process are one line, named up to the '!'. A channel that
    is empty and has no reader is listed for some time after its last use. A reader that is gone has
    ended or left the store: nothing reads what is pending, and the site's processes drop it.
    """
    with inspected(store) as engine:
        found = ordered(channels(engine), sort, limit)
        about = known(engine)
    if as_json:
        write_json(
            [each._asdict() | {"process_alive": about.lives(each.process)} for each in found]
        )
    elif found:
        table(_COLUMNS, [_row(each, about) for each in found])
    else:
        write("no channels")
    return 0


def _row(each: ChannelInfo, about: Known) -> list[str]:
    return [
        each.name,
        count(each.pending),
        age(each.oldest_age) if each.pending else "",
        size(each.bytes),
        count(each.high_water),
        count(each.pushed),
        count(each.popped),
        count(each.expired),
        count(each.refused),
        _reader(each, about),
    ]


def _reader(each: ChannelInfo, about: Known) -> str:
    who = f"process {about.named(each.process)}" if each.process else ""
    return " ".join(filter(None, (who, "waits" if each.waiting else "")))


__all__ = ["command"]
