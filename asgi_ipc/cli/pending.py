"""What is unread: in a store, and in the buffers of its processes."""

from __future__ import annotations

from typing import NamedTuple

from ..encoding.names import RELAY_REPORT, WAY_OUT
from ..engines.base import Engine


class Unread(NamedTuple):
    """How many messages no consumer has got yet."""

    #: Not yet fetched by a process.
    in_store: int
    #: Fetched by a process, and not yet given to a consumer, as far as processes tell. A group
    #: message counts for each channel that has not got it yet.
    held: int
    #: Of those in the store, those that wait for the server that joins machines.
    on_the_way_out: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.in_store + self.held

    def __str__(self) -> str:
        """For people."""
        messages = "message" if self.in_store == 1 else "messages"
        return f"{self.in_store:,} {messages} pending" + (
            f", {self.held:,} held by processes" if self.held else ""
        )

    @property
    def where(self) -> str:
        """Which commands show where they are."""
        out = self.on_the_way_out
        if not out:
            return "'channels' shows where"
        told = f"{out:,} of them wait for the server, and 'relays' shows why"
        return told if out >= self.in_store else f"{told}; 'channels' shows where the others are"


def unread_in(engine: Engine) -> Unread:
    """Count what is unread. Waits for the store's lock."""
    counts = engine.statistics()
    out = report = 0
    if engine.capabilities.roles:
        out, report = (engine.statistics(name)["pending"] for name in (WAY_OUT, RELAY_REPORT))
    # The report of a relay lies there too, in a store whose other memory is full.
    return Unread(max(0, counts["pending"] - report), counts.get("held", 0), out)


__all__ = ["Unread", "unread_in"]
