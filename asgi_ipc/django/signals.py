"""Signals of the application ``asgi_ipc.django``.

``store_lost`` is sent when a store that this process uses was flushed, destroyed or replaced, so
that its messages and memberships are gone. Receivers get ``prefix``; the sender is None. It is for
what a process does once, such as an alarm. Consumers rejoin their groups by the layer's
`on_store_lost`, which runs in their own event loop.
"""

from __future__ import annotations

import asyncio
import logging

from asgiref.sync import sync_to_async
from django.dispatch import Signal

from ..delivery.store_lost import observers

__all__ = ["store_lost"]

_log = logging.getLogger("asgi_ipc")

store_lost = Signal()
#: Strong references, as asyncio keeps weak ones.
_tasks: set[asyncio.Task[None]] = set()


def watch() -> None:
    """Send the signal from now on. May be called twice."""
    if _observe not in observers:
        observers.append(_observe)


def _observe(prefix: str) -> None:
    """Send the signal: here, or if an event loop runs here, in the thread for synchronous code."""
    if not store_lost.receivers:
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        _send(prefix)
        return
    task = loop.create_task(sync_to_async(_send)(prefix))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _send(prefix: str) -> None:
    for receiver, response in store_lost.send_robust(None, prefix=prefix):
        if isinstance(response, Exception):
            _log.error("receiver %r of the signal store_lost failed", receiver, exc_info=response)
