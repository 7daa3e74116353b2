"""Faults of a store for a soak to find, most of them in the workers alone.

The supervisor reads what the workers left, so it must be sound itself.
"""

from __future__ import annotations

import os
import secrets
import time
from typing import Any

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap.layout import MESSAGE
from asgi_ipc.engines.shm.heap.log import Log
from asgi_ipc.engines.shm.queues.queues import Queues
from asgi_ipc.engines.shm.session import Session
from asgi_ipc.engines.shm.tables import Tables


def now_and_then(seldom: int) -> bool:
    """True once in so many calls. Forked children would share what `random` gives."""
    return secrets.randbelow(seldom) == 0


def give_twice(patch: pytest.MonkeyPatch) -> None:
    """Put back what a reader has popped."""
    pop, supervisor = SharedMemoryEngine.pop, os.getpid()

    def popped_and_put_back(self: SharedMemoryEngine, queue: bytes, *args: Any) -> Any:
        taken = pop(self, queue, *args)
        if os.getpid() != supervisor and taken and queue.startswith(b"channel"):
            self.restore(queue, taken[0])
        return taken

    patch.setattr(SharedMemoryEngine, "pop", popped_and_put_back)


def store_most(patch: pytest.MonkeyPatch) -> None:
    """Acknowledge a message now and then without storing it."""
    push, supervisor = Queues.push, os.getpid()

    def push_most(self: Queues, record: Any, *args: Any) -> int:
        ours = record.queue.startswith(b"channel") and now_and_then(500)
        if ours and os.getpid() != supervisor:
            return 0
        return push(self, record, *args)

    patch.setattr(Queues, "push", push_most)


def give_second_first(patch: pytest.MonkeyPatch) -> None:
    """Give a reader the second message before the first."""
    pop, supervisor = SharedMemoryEngine.pop, os.getpid()

    def second_first(self: SharedMemoryEngine, queue: bytes, *args: Any) -> Any:
        taken = pop(self, queue, *args)
        if os.getpid() != supervisor and taken and queue.startswith(b"channel") and now_and_then(5):
            second = pop(self, queue, 1)
            if second:
                self.restore(queue, taken[0])
                return second
        return taken

    patch.setattr(SharedMemoryEngine, "pop", second_first)


def give_nothing_after_a_while(patch: pytest.MonkeyPatch) -> None:
    """Give readers nothing once a second has passed."""
    pop, supervisor = SharedMemoryEngine.pop, os.getpid()
    began = time.monotonic()

    def nothing_after_a_while(self: SharedMemoryEngine, queue: bytes, *args: Any) -> Any:
        late = time.monotonic() > began + 1
        if os.getpid() != supervisor and late and queue.startswith(b"channel"):
            return []
        return pop(self, queue, *args)

    patch.setattr(SharedMemoryEngine, "pop", nothing_after_a_while)


def signal_mostly(patch: pytest.MonkeyPatch) -> None:
    """Leave out the signal of a bell now and then."""
    signal, supervisor = Session.signal, os.getpid()

    def signal_mostly(self: Session, *args: Any) -> None:
        if os.getpid() == supervisor or not now_and_then(20):
            signal(self, *args)

    patch.setattr(Session, "signal", signal_mostly)


def trust_owners(patch: pytest.MonkeyPatch) -> None:
    """Take every owner of a membership for alive."""
    init = Tables.__init__

    def trusting(self: Tables, *args: Any) -> None:
        init(self, *args)
        self._owner_alive = lambda owner: True

    patch.setattr(Tables, "__init__", trusting)


def free_mostly(patch: pytest.MonkeyPatch) -> None:
    """Keep a message's memory now and then."""
    free, supervisor = Log.free, os.getpid()

    def free_mostly(self: Log, change: dict[int, int], handle: int) -> None:
        message = self.kind(self.words[self.end - handle]) == MESSAGE
        if os.getpid() == supervisor or not message or not now_and_then(10):
            free(self, change, handle)

    patch.setattr(Log, "free", free_mostly)
