"""The limits that documents and contracts state, from wherever the package keeps them."""

from __future__ import annotations

from asgi_ipc.delivery.mailboxes import RECORD, REFERENCE, SHARED
from asgi_ipc.encoding.codec import DEPTH_LIMIT, MESSAGE_LIMIT
from asgi_ipc.encoding.names import NAME_LIMIT
from asgi_ipc.engines.shm.heap.layout import NODES, SLOTS
from asgi_ipc.layers.options import LARGEST_MEMORY, PREFIX_LIMIT, SMALLEST_MEMORY, SMALLEST_UNREAD
from asgi_ipc.layers.options import NAMES as OPTIONS
from asgi_ipc.policy.capacity import DEFAULT_CAPACITY

__all__ = [
    "DEFAULT_CAPACITY",
    "DEPTH_LIMIT",
    "LARGEST_MEMORY",
    "MESSAGE_LIMIT",
    "NAME_LIMIT",
    "NODES",
    "OPTIONS",
    "PREFIX_LIMIT",
    "RECORD",
    "REFERENCE",
    "SHARED",
    "SLOTS",
    "SMALLEST_MEMORY",
    "SMALLEST_UNREAD",
]
