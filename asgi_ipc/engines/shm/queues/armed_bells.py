"""The bells armed on a queue, first armed first signalled.

The first stands in the queue itself, as there is seldom more than one: arming and signalling
happen with almost every message between two processes and must cost little. The others are
a list of wait nodes, which lie in a fixed table of the channels segment, apart from the
heap. Everything needs the segment's lock, and an address stays good only while it is held.
"""

from __future__ import annotations

from collections.abc import Callable

from ..heap import layout
from ..heap.heap import MOVE, Heap
from ..heap.journal import Change


class ArmedBells:
    """The bells armed on the queues of a store, and its wait nodes.

    ``alive(word)`` tells whether a bell's process is alive.
    """

    def __init__(self, heap: Heap, alive: Callable[[int], bool]) -> None:
        self._heap = heap
        self._words = heap.words
        self._nodes = heap.geometry.nodes
        self._alive = alive

    def _at(self, node: int) -> int:
        return self._nodes + (node - 1) * layout.NODE_WORDS

    def arm(self, change: Change, queue: int, bell: int) -> None:
        """Append a bell to those of the queue at an address with a change, once.

        One that is armed already is there; with none, it need only be set, which is no change.
        """
        words = self._words
        if words[queue + layout.Q_BELL] == bell:
            return
        node = words[queue + layout.Q_WAIT_FIRST]
        for _ in range(layout.NODES):
            if not node:
                break
            at = self._at(node)
            if words[at + layout.NODE_BELL] == bell:
                return
            node = words[at + layout.NODE_NEXT]
        node = words[layout.FREE_NODE]
        if node:
            change[layout.FREE_NODE] = words[self._at(node) + layout.NODE_NEXT]
        elif words[layout.NODES_USED] < layout.NODES:
            node = words[layout.NODES_USED] + 1
            change[layout.NODES_USED] = node
        else:
            # More waits than nodes: this one is served by its waiter's periodic check.
            return
        at = self._at(node)
        change[at + layout.NODE_NEXT] = 0
        change[at + layout.NODE_BELL] = bell
        if words[queue + layout.Q_WAIT_FIRST]:
            change[self._at(words[queue + layout.Q_WAIT_LAST]) + layout.NODE_NEXT] = node
        else:
            change[queue + layout.Q_WAIT_FIRST] = node
        change[queue + layout.Q_WAIT_LAST] = node

    def take(self, change: Change, queue: int) -> int:
        """Take the first bell off a queue with a change, and return it; 0 if there is none.

        Its process may be gone: the process that signals it finds out, and asks for the next.
        """
        words = self._words
        bell = words[queue + layout.Q_BELL]
        node = words[queue + layout.Q_WAIT_FIRST]
        if node:
            at = self._at(node)
            change[queue + layout.Q_BELL] = words[at + layout.NODE_BELL]
            change[queue + layout.Q_WAIT_FIRST] = words[at + layout.NODE_NEXT]
            change[at + layout.NODE_NEXT] = words[layout.FREE_NODE]
            change[layout.FREE_NODE] = node
        elif bell:
            change[queue + layout.Q_BELL] = 0
        return bell

    def remove(self, change: Change, queue: int, bell: int) -> bool:
        """Take a certain bell off a queue with a change; False if it is not on it."""
        words = self._words
        if words[queue + layout.Q_BELL] == bell:
            self.take(change, queue)
            return True
        before, node = 0, words[queue + layout.Q_WAIT_FIRST]
        for _ in range(layout.NODES):
            if not node:
                return False
            at = self._at(node)
            following = words[at + layout.NODE_NEXT]
            if words[at + layout.NODE_BELL] == bell:
                break
            before, node = node, following
        change[at + layout.NODE_NEXT] = words[layout.FREE_NODE]
        change[layout.FREE_NODE] = node
        if before:
            change[self._at(before) + layout.NODE_NEXT] = following
        else:
            change[queue + layout.Q_WAIT_FIRST] = following
        if not following:
            change[queue + layout.Q_WAIT_LAST] = before
        return True

    def drop_dead(self, queue: int, all_bells: bool = False) -> bool:
        """Take the bells of dead processes in front off a queue, or ``all_bells``.

        Return whether a bell is left. May `Pause`.
        """
        words = self._words
        for _ in range(layout.NODES + 1):
            bell = words[queue + layout.Q_BELL]
            if not bell:
                return False
            if not all_bells and self._alive(bell):
                return True
            self._heap.spend(MOVE)
            change: Change = {}
            self.take(change, queue)
            self._heap.commit(change)
        return False
