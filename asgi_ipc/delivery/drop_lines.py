"""What the log says of messages that were dropped here, by cause; `drop_log` sums them up."""

from __future__ import annotations

from collections.abc import Mapping

from ..encoding.names import WAY_OUT, is_internal
from .drop_log import NAMED, DropLog, counted


def overflowed(drops: DropLog, name: str, queue: str, limit: int) -> None:
    """Log a message that the buffer of a channel, which holds ``limit``, had no room for."""

    def describe(count: int) -> str:
        return (
            f"channel {name} is read too slowly, or no more (a consumer that failed stays in"
            f" its groups): its buffer holds its capacity of {limit} messages, so the oldest"
            f" was dropped; {count} dropped on channels {queue} since the last warning"
        )

    drops.dropped(f"overflow {queue}", 1, describe)


def expired(drops: DropLog, name: str, queue: str, count: int) -> None:
    """Log messages that expired in the buffer of a channel before they were received."""

    def describe(total: int) -> str:
        return (
            f"channel {name} was not received on for as long as messages last (expiry): its"
            f" consumer is too slow, or has ended; {counted(total, 'message')} for"
            f" channels {queue} expired unread since the last warning"
        )

    drops.dropped(f"expired {queue}", count, describe)


def expired_in_store(drops: DropLog, queue: bytes, count: int) -> None:
    """Log records that the engine dropped past their deadline.

    Of what processes leave for a relay only messages matter to people; notices go out of date.
    """
    if is_internal(queue) and queue != WAY_OUT:
        return
    name = queue.decode("ascii", "replace")

    def describe(total: int) -> str:
        messages = f"{counted(total, 'message')} expired unread since the last warning"
        if not name:
            return f"{messages} on more channels than are counted apart"
        if queue == WAY_OUT:
            return (
                "messages to other machines waited for longer than they last (expiry): no process"
                " of this machine relays, or the server is away ('asgi-ipc relays' tells);"
                f" {messages}"
            )
        if "!" in name:
            return (
                f"no consumer of queue {name} received for as long as messages last (expiry):"
                " its consumers have ended or take too long, or its process is stopped or"
                f" overloaded; {messages}"
            )
        return (
            f"channel {name} was not received on for as long as messages last (expiry): it has"
            f" no receiver, or receivers that are too slow; {messages}"
        )

    drops.dropped(f"expired in store {name}", count, describe)


def dropped_for_memory(drops: DropLog, dropped: Mapping[str, int], bound: int) -> None:
    """Log how many messages were dropped of which channels as all held too many bytes."""
    channels = sorted(dropped, key=lambda channel: -dropped[channel])
    total = len(channels)
    shown = ", ".join(channels[:NAMED]) + (", ..." if total > NAMED else "")

    def describe(count: int) -> str:
        return (
            f"this process holds all that process_memory ({bound:,} bytes) allows of unread"
            f" messages, so the oldest were dropped for those of its channels that hold most:"
            f" {counted(total, 'channel')} ({shown}); {count} dropped since the last warning"
        )

    drops.dropped("memory of the process", sum(dropped.values()), describe)


def dropped_for_strangers(drops: DropLog, queue: str, count: int, most: int) -> None:
    """Log messages that were dropped for channels on which this process has not received."""

    def describe(total: int) -> str:
        return (
            f"dropped {counted(total, 'message')} for channels of {queue} on which this process"
            f" has not received: it keeps those of {most} such channels"
        )

    drops.dropped(f"strangers {queue}", count, describe)


__all__ = [
    "dropped_for_memory",
    "dropped_for_strangers",
    "expired",
    "expired_in_store",
    "overflowed",
]
