"""What the runner has to know of a channel layer to measure it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..place import Place

#: The same for all: no question is about what happens beyond it.
CAPACITY = 1_000_000
#: Sends, and returns when that is done.
SendNow = Callable[[str, Mapping[str, Any]], None]


class Layer(Protocol):
    """The part of Channels' channel layer specification that is used here."""

    async def send(self, channel: str, message: Mapping[str, Any]) -> None: ...
    async def receive(self, channel: str) -> dict[str, Any]: ...
    async def new_channel(self) -> str: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: Mapping[str, Any]) -> object: ...


@dataclass(frozen=True)
class Resources:
    """What there is on this machine for all cases."""

    #: Socket of the Redis server, or ``""``.
    redis: str
    #: Why there is no Redis server.
    redis_missing: str
    #: See `Place.database`.
    database: str


def nothing(place: Place) -> None:
    """For peers that need no preparing or cleaning."""


def send_with_asgiref(layer: Layer) -> SendNow:
    """How synchronous code sends on a layer that is asynchronous only."""
    from asgiref.sync import async_to_sync

    send: SendNow = async_to_sync(layer.send)
    return send


@dataclass(frozen=True)
class Peer:
    """A channel layer with the settings that suit it best. Its functions are a module's own."""

    name: str
    #: ``open(place, **options)`` opens a layer; options are its constructor's.
    open: Callable[..., Layer]
    close: Callable[[Any], Any]
    #: None, or why it can't be measured here.
    unavailable: Callable[[Resources], str | None]
    #: What a program imports to use it.
    imports: str
    #: Called before and after each case, outside its processes.
    prepare: Callable[[Place], None] = nothing
    clean: Callable[[Place], None] = nothing
    send_now: Callable[[Any], SendNow] = send_with_asgiref
    #: Bytes that messages and memberships take now; None if that can't be asked.
    used: Callable[[Place, Any], int] | None = None
    #: Takes ``channel_memory`` and ``group_memory``.
    has_sizes: bool = False
    crosses_processes: bool = True
    #: A message on an ordinary channel goes to one of its receivers.
    shares_work: bool = True
    #: It can hold messages that nobody waits for yet.
    queues: bool = True
    #: Beyond so many messages, channels or memberships it takes too long to be asked.
    most_prefilled: int = 1_000_000
    #: The same for members of a broadcast.
    most_members: int = 1_000_000
    #: The same for receivers that wait at once in one process.
    most_waiting: int = 1_000_000
