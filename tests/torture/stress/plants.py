"""Faults, planted in the processes of a round one at a time, that the judge must see.

Each is put between the layers and the engine, or before the layers: what it makes of them is
what a fault anywhere inside would, on any engine and whatever the inside looks like.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from asgi_ipc import IPCChannelLayer, StoreUnavailable, SyncIPCChannelLayer
from asgi_ipc.layers.core import LayerCore

#: What a plant is given: the class of the round's engine.
EngineClass = Any


class Plant(NamedTuple):
    """A fault, and how it shows."""

    plant: Callable[[EngineClass], None]
    #: What the judge says of it.
    shows: str
    engine: str = "memory"
    #: What goes on in its rounds.
    features: tuple[str, ...] = ()
    #: What is changed in the plan of its rounds.
    changes: Mapping[str, Any] = {}


def _now_and_then(seldom: int) -> bool:
    """True once in so many calls. Forked children would share what `random` gives."""
    return secrets.randbelow(seldom) == 0


def loses(engine: EngineClass) -> None:
    """One in 10,000 records that are popped does not arrive."""
    pop = engine.pop

    def popped(self: Any, *arguments: Any) -> Any:
        return [each for each in pop(self, *arguments) if not _now_and_then(10_000)]

    engine.pop = popped


def doubles(engine: EngineClass) -> None:
    """One in 10,000 is put back as well."""
    pop = engine.pop

    def popped(self: Any, queue: bytes, *arguments: Any) -> Any:
        taken = pop(self, queue, *arguments)
        if taken and _now_and_then(10_000):
            self.restore(queue, taken[0])
        return taken

    engine.pop = popped


def reorders(engine: EngineClass) -> None:
    """One in 1,000 is overtaken by the next."""
    pop = engine.pop

    def popped(self: Any, queue: bytes, *arguments: Any) -> Any:
        taken = pop(self, queue, *arguments)
        if len(taken) > 1:
            if _now_and_then(1_000):
                taken[0], taken[1] = taken[1], taken[0]
        elif taken and _now_and_then(1_000):
            for second in pop(self, queue, 1):
                self.restore(queue, taken[0])
                return [second]
        return taken

    engine.pop = popped


def does_not_count(engine: EngineClass) -> None:
    """What a buffer has no room for is dropped without being counted."""
    statistics = SyncIPCChannelLayer.channel_statistics

    def without(self: SyncIPCChannelLayer, channel: str) -> dict[str, float]:
        return {**statistics(self, channel), "overflow_count": 0, "channel_full_count": 0}

    SyncIPCChannelLayer.channel_statistics = without  # type: ignore[method-assign]


def deadlocks(engine: EngineClass) -> None:
    """A lock is not given back, after one in 5,000 pushes."""
    push, lock = engine.push, threading.Lock()

    def pushed(self: Any, records: Any) -> Any:
        with lock:
            if _now_and_then(5_000):
                lock.acquire()
        return push(self, records)

    engine.push = pushed


def iterates(engine: EngineClass) -> None:
    """Something that another thread changes is iterated after a record was taken."""
    pop = engine.pop

    def popped(self: Any, *arguments: Any) -> Any:
        taken = pop(self, *arguments)
        if taken and _now_and_then(5_000):
            raise RuntimeError("Set changed size during iteration")
        return taken

    engine.pop = popped


def does_not_arm(engine: EngineClass) -> None:
    """One in four receivers that are to be woken is forgotten; most are woken for another."""
    pop = engine.pop

    def popped(self: Any, queue: bytes, limit: int = 1, bell: Any = None) -> Any:
        return pop(self, queue, limit, None if _now_and_then(4) else bell)

    engine.pop = popped


def takes_along(engine: EngineClass) -> None:
    """A receive that is cancelled has taken a message, one time in 100."""
    receive = IPCChannelLayer.receive

    async def received(self: IPCChannelLayer, channel: str) -> Any:
        try:
            return await receive(self, channel)
        except asyncio.CancelledError:
            if _now_and_then(100):
                self.sync.receive([channel.partition("!")[0] + "!" * ("!" in channel)])
            raise

    IPCChannelLayer.receive = received  # type: ignore[method-assign]


def misroutes(engine: EngineClass) -> None:
    """One in 2,000 messages goes to another channel."""
    send = LayerCore.send

    def sent(self: LayerCore, channel: str, message: Any) -> None:
        send(self, "channel0" if _now_and_then(2_000) else channel, message)

    LayerCore.send = sent  # type: ignore[method-assign]


def is_gone(engine: EngineClass) -> None:
    """The store seems to be closed, one time in 5,000."""
    push = engine.push

    def pushed(self: Any, records: Any) -> Any:
        if _now_and_then(5_000):
            raise StoreUnavailable("the store is closed")
        return push(self, records)

    engine.push = pushed


def remembers(engine: EngineClass) -> None:
    """A forked child has what its parent received last, and receives it again."""
    pop, parent = engine.pop, os.getpid()
    last: dict[bytes, Any] = {}

    def popped(self: Any, queue: bytes, *arguments: Any) -> Any:
        if os.getpid() != parent and queue in last:
            return [last.pop(queue)]
        taken = pop(self, queue, *arguments)
        if os.getpid() == parent and taken and queue.startswith(b"channel"):
            last[queue] = taken[-1]
        return taken

    engine.pop = popped


PLANTS = {
    "loses": Plant(loses, "messages lost"),
    "doubles": Plant(doubles, "arrived twice"),
    "reorders": Plant(reorders, "out of order"),
    "does not count": Plant(does_not_count, "with 0 drops", changes={"own_capacity": 5}),
    "deadlocks": Plant(deadlocks, "hang"),
    "iterates": Plant(iterates, "changed size during iteration"),
    "does not arm": Plant(does_not_arm, "a wake-up was lost"),
    "takes along": Plant(takes_along, "messages lost"),
    "misroutes": Plant(misroutes, "came a message for"),
    "is gone": Plant(is_gone, "not documented"),
    "remembers": Plant(remembers, "arrived twice", "posix", ("fork",)),
}


def plant(name: str, engine: EngineClass) -> None:
    """Have the fault of that name from now on."""
    PLANTS[name].plant(engine)


__all__ = ["PLANTS", "Plant", "plant"]
