"""The bells armed on a queue: a list of wait nodes, first armed first rung.

The nodes lie in a fixed table of the channels segment, apart from the heap: arming and
ringing happen with almost every message between two processes and must cost little.
Everything needs the segment's lock, and an address stays good only while it is held.
"""

from __future__ import annotations

from collections.abc import Callable

from .heap import Heap
from .journal import Change
from .layout import (
    FREE_NODE,
    JOURNAL_PAIRS,
    NODE_BELL,
    NODE_NEXT,
    NODE_WORDS,
    NODES,
    NODES_USED,
    Q_WAIT_FIRST,
    Q_WAIT_LAST,
)

#: Nodes of the dead that one change passes over; the rest is left to the next.
_AT_ONCE = JOURNAL_PAIRS // 4


class Waiters:
    """The wait nodes of a store. ``alive(word)`` tells whether a bell's process is."""

    def __init__(self, heap: Heap, alive: Callable[[int], bool]) -> None:
        self._heap = heap
        self._words = heap.words
        self._nodes = heap.geometry.nodes
        self._alive = alive

    def _at(self, node: int) -> int:
        return self._nodes + (node - 1) * NODE_WORDS

    def arm(self, change: Change, queue: int, bell: int) -> None:
        """Append a bell to the list of the queue at an address with a change, once."""
        words = self._words
        node = words[queue + Q_WAIT_FIRST]
        for _ in range(NODES):
            if not node:
                break
            at = self._at(node)
            if words[at + NODE_BELL] == bell:
                return
            node = words[at + NODE_NEXT]
        node = words[FREE_NODE]
        if node:
            change[FREE_NODE] = words[self._at(node) + NODE_NEXT]
        elif words[NODES_USED] < NODES:
            node = words[NODES_USED] + 1
            change[NODES_USED] = node
        else:
            # More waits than nodes: this one is served by its waiter's regular look.
            return
        at = self._at(node)
        change[at + NODE_NEXT] = 0
        change[at + NODE_BELL] = bell
        if words[queue + Q_WAIT_FIRST]:
            change[self._at(words[queue + Q_WAIT_LAST]) + NODE_NEXT] = node
        else:
            change[queue + Q_WAIT_FIRST] = node
        change[queue + Q_WAIT_LAST] = node

    def take(self, change: Change, queue: int) -> int:
        """Take the first bell that is alive off a list with a change; 0 if there is none."""
        words = self._words
        node = words[queue + Q_WAIT_FIRST]
        bell = 0
        for _ in range(_AT_ONCE):
            if not node or bell:
                break
            at = self._at(node)
            bell = words[at + NODE_BELL] if self._alive(words[at + NODE_BELL]) else 0
            following = words[at + NODE_NEXT]
            change[at + NODE_NEXT] = change.get(FREE_NODE, words[FREE_NODE])
            change[FREE_NODE] = node
            node = following
        change[queue + Q_WAIT_FIRST] = node
        return bell

    def remove(self, change: Change, queue: int, bell: int) -> bool:
        """Take a certain bell off a list with a change; False if it is not on it."""
        words = self._words
        before, node = 0, words[queue + Q_WAIT_FIRST]
        for _ in range(NODES):
            if not node:
                return False
            at = self._at(node)
            following = words[at + NODE_NEXT]
            if words[at + NODE_BELL] == bell:
                break
            before, node = node, following
        change[at + NODE_NEXT] = words[FREE_NODE]
        change[FREE_NODE] = node
        if before:
            change[self._at(before) + NODE_NEXT] = following
        else:
            change[queue + Q_WAIT_FIRST] = following
        if not following:
            change[queue + Q_WAIT_LAST] = before
        return True

    def drop_dead(self, queue: int, everybody: bool = False) -> bool:
        """Forget the dead at the front of a list, or everybody; True if somebody is left."""
        words = self._words
        for _ in range(NODES):
            node = words[queue + Q_WAIT_FIRST]
            if not node:
                return False
            at = self._at(node)
            if not everybody and self._alive(words[at + NODE_BELL]):
                return True
            self._heap.commit(
                {
                    queue + Q_WAIT_FIRST: words[at + NODE_NEXT],
                    at + NODE_NEXT: words[FREE_NODE],
                    FREE_NODE: node,
                }
            )
        return False
