"""What a relay needs to know: its machine, and how it is to work."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..engines.base import Engine
from .agreement import Used
from .frames import NEWEST, OLDEST
from .wire import Wire

if TYPE_CHECKING:
    from .sealing import Sealer


class Machine(Protocol):
    """What a relay needs of its machine. No method waits; any may raise as `Engine.push`."""

    engine: Engine

    def check(self, body: bytes) -> None:
        """Raise `RecordCorrupt` unless it is a message, of this site's serializer or another."""

    def deliver_group(
        self, group: str, body: bytes, deadline: int, exclude: Collection[str]
    ) -> None:
        """Deliver an encoded message to the members of a group on this machine, but for some."""

    def deliver(self, channel: str, body: bytes, deadline: int) -> None:
        """Deliver an encoded message to a process-specific channel of this machine."""

    def join(self, group: str, channel: str, lifetime: int) -> None:
        """Add a channel of this machine to a group, for ``lifetime`` nanoseconds."""

    def leave(self, group: str, channel: str) -> None:
        """Take a channel of this machine out of a group."""

    def deliver_work(self, channel: bytes, body: bytes, deadline: int) -> None:
        """Deliver an encoded message to an ordinary channel on which a receiver waits."""

    def flush(self) -> None:
        """Empty the store."""


class RelayOptions(NamedTuple):
    """How a relay is to work."""

    prefix: str
    #: The server's URL without credentials, for people.
    shown: str
    #: Makes a wire that is not connected.
    wire: Callable[[], Wire]
    #: Bytes that may wait on the way out.
    backlog: int
    #: Whether an ordinary channel is shared with other machines; None: none is.
    shares: Callable[[str], bool] | None = None
    #: Seals and opens frames; None: frames are neither encrypted nor authenticated.
    sealer: Sealer | None = None
    #: The oldest and the newest format that it reads.
    formats: tuple[int, int] = (OLDEST, NEWEST)
    #: What it takes from its options that other processes of the site must have as well.
    used: Used = Used("")


__all__ = ["Machine", "RelayOptions"]
