"""A mixin that spares consumers a thread hop for every message.

Channels runs Django's `close_old_connections` before each handler of an asynchronous consumer.
It does so in a thread, and going there and back costs more than all else that a message to a
client costs. Most of the time no connection is open that could be closed, and the hop does
nothing. `DirectDispatchMixin` looks first, and lets Channels hop only if the hop can matter.

Connections belong to threads. A consumer's first message therefore hops once, to fetch the
connection objects of the thread that its later hops would run in; Django makes one for each
database and thread, and opens and closes it as needed. From then on the event loop reads in them
what `close_old_connections` would decide by. The mixin keeps nothing outside the consumer, so
other threads' connections do not count, and a forked child begins with consumers of its own.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from asgiref.sync import sync_to_async
from channels.consumer import AsyncConsumer, SyncConsumer, get_handler_name
from django import db
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["DirectDispatchMixin"]


class DirectDispatchMixin:
    """Call handlers without a thread hop while no database connection needs closing or checking.

    Name it before the consumer class::

        class Chat(DirectDispatchMixin, AsyncWebsocketConsumer): ...

    Connections are closed, and marked for a health check, before the same messages as without
    the mixin. A class between the mixin and `AsyncConsumer` must not override ``dispatch``,
    which would be passed over; the class that uses the mixin, and classes before it, may.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if issubclass(cls, SyncConsumer):
            raise TypeError(
                f"{cls.__name__} is a SyncConsumer, whose handlers need the thread that"
                " DirectDispatchMixin avoids; remove the mixin, or derive from an asynchronous"
                " consumer such as AsyncWebsocketConsumer"
            )
        place = cls.__mro__.index(DirectDispatchMixin)
        before, after = cls.__mro__[:place], cls.__mro__[place + 1 :]
        if AsyncConsumer in before:
            raise TypeError(
                f"{cls.__name__} names DirectDispatchMixin behind its consumer class, where it"
                " has no effect; name the mixin first"
            )
        overriding = next((each for each in after if "dispatch" in vars(each)), AsyncConsumer)
        if overriding is not AsyncConsumer:
            raise TypeError(
                f"{overriding.__name__} overrides dispatch(), which DirectDispatchMixin would"
                f" pass over in {cls.__name__}; name {overriding.__name__} before the mixin:"
                f" class {cls.__name__}({overriding.__name__}, DirectDispatchMixin, ...)"
            )

    #: The connection objects of the thread that hops run in; None before the first message.
    _thread_connections: list[BaseDatabaseWrapper] | None = None

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Call the message's handler, by way of Channels if connections need attention."""
        if self._thread_connections is None:
            # Not those already used alone: others may be opened later.
            self._thread_connections = await sync_to_async(db.connections.all)()
        handler = None
        if not any(map(_closing_can_matter, self._thread_connections)):
            handler = getattr(self, get_handler_name(message), None)
        if handler:
            await handler(message)
        else:
            await super().dispatch(message)  # type: ignore[misc]


def _closing_can_matter(connection: BaseDatabaseWrapper) -> bool:
    """Return whether `close_old_connections` would change this connection."""
    if not _closes_as_django(connection.__class__):
        return True
    return connection.connection is not None and (
        connection.errors_occurred
        or connection.autocommit != connection.settings_dict["AUTOCOMMIT"]
        or (connection.close_at is not None and time.monotonic() >= connection.close_at)
        # A connection that is new or was checked must be marked to be checked again.
        or (connection.health_check_enabled and connection.health_check_done)
    )


@cache
def _closes_as_django(backend: type) -> bool:
    """Return whether a backend closes old connections as Django's do; else it must be asked."""
    return all(
        getattr(backend, name) is getattr(BaseDatabaseWrapper, name)
        for name in ("close_if_unusable_or_obsolete", "get_autocommit")
    )
