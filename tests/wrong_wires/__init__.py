"""Wires with one fault each, to see that the conformance suite can fail.

Each says in ``breaks`` which clause of `asgi_ipc.relay.wire` it breaks; the suite must catch it by
a test that names that clause. They are `MemoryWire` but for a few lines, and those with faults that
only a network shows are `NatsWire`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

from asgi_ipc.relay.memory import MemoryWire
from asgi_ipc.relay.nats import NatsWire
from asgi_ipc.relay.wire import Frame


class Right(MemoryWire):
    """Breaks nothing, although it is made like those that do."""

    async def publish(self, frames: Sequence[Frame]) -> None:
        await super().publish(list(frames))


class Wrong(MemoryWire):
    """Breaks what it says."""

    breaks: ClassVar[str]


class WrongOnANetwork(NatsWire):
    """Breaks what it says, where there is a network."""

    breaks: ClassVar[str]


def all_below(kind: type[Any]) -> Mapping[str, type[Any]]:
    """The wires of a kind, from all modules here, by what ``--wire`` takes for them."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    return {f"{each.__module__}:{each.__name__}": each for each in kind.__subclasses__()}
