"""Look at the oldest messages of a queue without taking them.

Needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from collections.abc import Iterator

from asgi_ipc.engines.base import LOOK_BYTES, LOOK_RECORDS, Popped

from ..heap import layout
from ..heap.heap import PASS, Heap
from ..heap.layout import BEHIND_SHIFT, ENTRY_DEAD, ENTRY_SIZE, ENTRY_WORDS, FRONT_SHIFT, WORD
from .linked_list import head
from .rings import Rings

#: Messages that one look passes, dead or alive.
_PASSED = 2 * LOOK_RECORDS


def oldest(heap: Heap, rings: Rings, queue: int, limit: int, now: int) -> list[Popped]:
    """Return up to ``limit`` of the oldest live messages. Call once the queue has been expired.

    Fewer for many bytes, or if many dead messages lie between. May `Pause`, and then has found
    none.
    """
    while rings.drop_front(queue, now):
        heap.spend(_PASSED // 2 * PASS)
    # All of it, before the first.
    heap.spend(_PASSED * PASS)
    found: list[Popped] = []
    limit, room, passed = min(limit, LOOK_RECORDS), LOOK_BYTES, 0
    for size, deadline, at, is_entry in _messages(heap, rings, queue):
        passed += 1
        if len(found) >= limit or passed > _PASSED or (found and size > room):
            break
        if deadline <= now:
            continue
        room -= size
        if is_entry:
            start = (at + ENTRY_WORDS) * WORD
            payload = heap.bytes[start : start + size].tobytes()
        else:
            payload = heap.payload(at, layout.M_WORDS)
        found.append(Popped(payload, deadline))
    return found


def _messages(heap: Heap, rings: Rings, queue: int) -> Iterator[tuple[int, int, int, bool]]:
    """Size, deadline and address of each message, oldest first; and whether it is in a ring.

    A dead one in a ring has the deadline 0.
    """
    words = heap.words
    yield from _listed(heap, queue, FRONT_SHIFT)
    for at, _ in rings.extents.entries(queue):
        first = words[at]
        deadline = 0 if first & ENTRY_DEAD else words[at + layout.ENTRY_DEADLINE]
        yield first & ENTRY_SIZE, deadline, at, True
    yield from _listed(heap, queue, BEHIND_SHIFT)


def _listed(heap: Heap, queue: int, which: int) -> Iterator[tuple[int, int, int, bool]]:
    words, end = heap.words, heap.end
    message = head(words, queue, which)
    while message:
        at = words[end - message]
        yield words[at + layout.M_SIZE], words[at + layout.M_DEADLINE], at, False
        message = words[at + layout.M_LINK] & layout.LINK_MASK


__all__ = ["oldest"]
