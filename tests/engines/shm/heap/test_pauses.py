"""Any operation may have to leave the rest to its next hold of the lock, at any of its steps.

The tests of other modules once more, with pauses by chance wherever there may be one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from asgi_ipc.engines.shm import session
from asgi_ipc.engines.shm.heap.heap import Heap, Pause
from tests.engines.shm.queues.test_backlog import (
    engine,
    test_any_order_of_events_gives_what_a_list_gives,
)
from tests.engines.shm.queues.test_rings import (
    clock,
)
from tests.engines.shm.queues.test_rings import (
    engine as whole,
)
from tests.engines.shm.test_model import (
    test_any_sequence_of_operations_gives_what_a_model_gives,
)

__all__ = [
    "clock",
    "engine",
    "test_any_order_of_events_gives_what_a_list_gives",
    "test_any_sequence_of_operations_gives_what_a_model_gives",
    "whole",
]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many there were."""
    dice, count = random.Random(1), [0]

    def spend(self: Heap, cost: int) -> None:
        if dice.random() < 0.25:
            count[0] += 1
            raise Pause(self)

    monkeypatch.setattr(Heap, "spend", spend)
    monkeypatch.setattr(session, "_PAUSE", 0)
    yield count
    assert count[0] > 20
