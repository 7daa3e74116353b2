"""The part of a process's counts that belongs to its present store.

Layers note all that their process has counted (`asgi_ipc.engines.base.Engine.note`). If another
store took the place of the one that the engine had open, the counts of that one are no part of it.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping

from .base import COUNTERS


class OwnCounts:
    """The counts of one engine."""

    def __init__(self) -> None:
        self._process = 0
        self._store: Hashable = None
        #: What was noted last, and what was noted last of the store before.
        self._last: Mapping[str, int] = {}
        self._before: Mapping[str, int] = {}

    def in_store(self, store: Hashable, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the counts to note in a store, which ``store`` tells from other ones.

        What was counted between the last note in the store before and its end belongs to the new
        one. A forked child has counted nothing.
        """
        if self._process != os.getpid():
            self._process, self._store = os.getpid(), store
            self._last = self._before = {}
        if self._store != store:
            self._store, self._before = store, self._last
        self._last = {name: counts.get(name, 0) for name in COUNTERS}
        return {name: max(0, count - self._before.get(name, 0)) for name, count in counts.items()}


__all__ = ["OwnCounts"]
