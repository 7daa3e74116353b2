"""What one look at a store finds: its statistics, and the first rows of each table.

The rows are sorted and filtered while they are read, and only the first are kept, so a store with
a hundred thousand channels takes no more memory here than a small one.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ...engines.base import NODE_BYTES, Engine
from ...engines.process_hints import parent_command
from ...engines.shm.engine import SharedMemoryEngine
from ...layers.inspection import (
    ChannelInfo,
    GroupInfo,
    ProcessInfo,
    all_groups,
    channels,
    processes,
    statistics,
)
from ...metrics.readings import engine_name, of_relay
from ..choice import StoreChoice
from ..inspecting import known, shown_command
from ..joining import joined

#: Rows of a table that are kept.
MOST = 200


class Order(NamedTuple):
    """By what a table is sorted, and which of its rows are shown."""

    #: Name of a field: numbers are sorted the largest first, text alphabetically.
    key: str
    is_reversed: bool = False
    #: Text that a row's name must hold, whatever the case; "" for all.
    text: str = ""


class ChannelRow(NamedTuple):
    """A channel."""

    name: str
    pending: int
    oldest_age: float
    bytes: int
    pushed: int
    popped: int
    refused: int
    waiting: bool
    #: Process id of its only reader as a hint, or its identity, and whether it is gone; or "".
    reader: str


class GroupRow(NamedTuple):
    """A group."""

    name: str
    members: int
    suspended: int


class ProcessRow(NamedTuple):
    """A process."""

    identity: str
    pid: int
    command: str
    joined_age: float
    fetched: int
    passed_directly: int
    dropped: int
    held: int
    held_bytes: int
    waits_for: tuple[str, ...]
    #: How many channels it waits for.
    waits: int


class Rows(NamedTuple):
    """The first rows of a table."""

    rows: tuple[Any, ...]
    #: How many match, and how many there are.
    matching: int
    total: int


class Look(NamedTuple):
    """A store at one moment."""

    #: By `time.monotonic`, at the end, and the seconds that it took.
    taken: float
    took: float
    engine: str
    #: Differs once the store has been removed and made anew.
    store: bytes
    #: Differs once it has been flushed, too.
    flushes: int
    statistics: dict[str, float]
    #: How the relay to other machines fares; empty if there is none.
    relay: str
    #: None of an engine that does not tell.
    channels: Rows | None
    groups: Rows | None
    processes: Rows | None


#: Of the tables, by their names.
Orders = dict[str, Order]
FIRST: Orders = {
    "channels": Order("pending"),
    "groups": Order("members"),
    "processes": Order("held"),
}


def look(store: StoreChoice, orders: Orders) -> Look:
    """Look at a store. Waits for its lock; raises what joining it raises."""
    begin = time.monotonic()
    with joined(store, patience=False) as engine:
        values = statistics(engine)
        if engine is not store.engine and "processes_count" in values:
            values["processes_count"] -= 1
        found: dict[str, Rows | None] = dict.fromkeys(FIRST)
        if engine.capabilities.inspects:
            running = list(processes(engine))
            readers = _Readers(engine)
            found = {
                "channels": _first(
                    (_channel(each, readers) for each in channels(engine)), orders["channels"]
                ),
                "groups": _first(map(_group, all_groups(engine)), orders["groups"]),
                "processes": _first(map(_process, running), orders["processes"]),
            }
        relay = of_relay(engine)
        now = time.monotonic()
        return Look(
            now,
            now - begin,
            engine_name(engine),
            _store_of(engine),
            engine.flushes,
            values,
            "" if relay is None else str(relay),
            **found,
        )


def _store_of(engine: Engine) -> bytes:
    if isinstance(engine, SharedMemoryEngine):
        return engine.session.joined().store_id
    return engine.identity[:NODE_BYTES]


class _Readers:
    """The processes that read channels. Asks again before it says that one is gone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known = known(engine)
        self._gone: set[str] = set()

    def named(self, identity: str | None) -> str:
        """See `Known.named`."""
        if identity and identity not in self._gone and not self._known.lives(identity):
            self._known = known(self._engine)
            if not self._known.lives(identity):
                self._gone.add(identity)
        return self._known.named(identity)


def _channel(each: ChannelInfo, readers: _Readers) -> ChannelRow:
    return ChannelRow(
        each.name,
        each.pending,
        each.oldest_age,
        each.bytes,
        each.pushed,
        each.popped,
        each.refused,
        each.waiting,
        readers.named(each.process),
    )


def _group(each: GroupInfo) -> GroupRow:
    return GroupRow(*each)


def _process(each: ProcessInfo) -> ProcessRow:
    counts = each.counts
    return ProcessRow(
        each.identity,
        each.pid,
        shown_command(each.command, parent_command(each.pid, each.command)),
        each.joined_age,
        counts.get("fetched", 0),
        counts.get("passed_directly", 0),
        counts.get("overflowed", 0) + counts.get("buffer_expired", 0),
        counts.get("held", 0),
        counts.get("held_bytes", 0),
        each.waits_for,
        len(each.waits_for),
    )


def _first(rows: Iterable[Any], order: Order) -> Rows:
    """Return the first rows in an order."""
    total = matching = 0
    wanted = order.text.lower()

    def counted() -> Iterator[Any]:
        nonlocal total, matching
        for row in rows:
            total += 1
            if not wanted or any(wanted in each.lower() for each in row if isinstance(each, str)):
                matching += 1
                yield row

    def rank(row: Any) -> tuple[float, str, str]:
        value = getattr(row, order.key)
        return (0, value, row[0]) if isinstance(value, str) else (-value, "", row[0])

    pick = heapq.nlargest if order.is_reversed else heapq.nsmallest
    found = pick(MOST, counted(), key=rank)
    return Rows(tuple(found), matching, total)


__all__ = [
    "FIRST",
    "MOST",
    "ChannelRow",
    "GroupRow",
    "Look",
    "Order",
    "Orders",
    "ProcessRow",
    "Rows",
    "look",
]
