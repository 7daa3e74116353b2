"""What a relay needs of its machine; `asgi_ipc.layers.local_machine` provides it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ..engines.base import Engine


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


__all__ = ["Machine"]
