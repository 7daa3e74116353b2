"""What is unread: in a store, and in the buffers of its processes."""

from __future__ import annotations

from typing import NamedTuple

from ..engines.base import Engine


class Unread(NamedTuple):
    """How many messages no consumer has got yet."""

    #: Not yet fetched by a process.
    in_store: int
    #: Fetched by a process, and not yet given to a consumer, as far as processes tell. A group
    #: message counts for each channel that has not got it yet.
    held: int

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


def unread_in(engine: Engine) -> Unread:
    """Count what is unread. Waits for the store's lock."""
    counts = engine.statistics()
    return Unread(counts["pending"], counts.get("held", 0))


__all__ = ["Unread", "unread_in"]
