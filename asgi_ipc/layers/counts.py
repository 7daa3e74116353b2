"""The layers' names for what engines count (`asgi_ipc.engines.base.Engine.statistics`)."""

from __future__ import annotations

from collections.abc import Mapping

#: Of a channel, and of the whole store.
OF_BOTH: Mapping[str, str] = {
    "messages_count": "pushed",
    "received_count": "popped",
    "expired_count": "expired",
    "channel_full_count": "refused",
    "store_full_count": "store_full",
    "orphaned_count": "orphaned",
    "messages_pending": "pending",
    "messages_high_water": "high_water",
}
#: Of the whole store alone.
OF_STORE: Mapping[str, str] = {
    "channels_count": "queues",
    "memberships_count": "members",
    "processes_count": "processes",
    "bytes_used": "bytes_used",
    "bytes_total": "bytes_total",
    "channel_bytes_used": "channel_bytes_used",
    "channel_bytes_reserved": "channel_bytes_reserved",
    "channel_bytes_total": "channel_bytes_total",
    "group_bytes_used": "group_bytes_used",
    "group_bytes_reserved": "group_bytes_reserved",
    "group_bytes_total": "group_bytes_total",
    "passed_directly_count": "passed_directly",
    "buffer_overflow_count": "overflowed",
    "buffer_expired_count": "buffer_expired",
    "held_count": "held",
    "held_bytes": "held_bytes",
    "recoveries": "recoveries",
}

__all__ = ["OF_BOTH", "OF_STORE"]
