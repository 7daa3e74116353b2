"""What a store can be asked while it is in use: its queues, tables and processes.

Each hold of a lock lists some, and others come in between. See `listing` for why each is listed
once. If the store is replaced meanwhile, the listing ends: nothing of it has been there all the
while.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from ..base import ProcessInfo, QueueInfo, TableInfo
from ..process_hints import command, start_time
from .heap.heap import Pause
from .listing import Armed, Listing
from .operation import step
from .processes import Present
from .queues.statistics import Listed
from .session import Session
from .store import Store


class Inspection:
    """What a session can tell of its store."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def queues(self) -> Iterator[QueueInfo]:
        """See `Engine.queues`."""
        for info, readers in self._queues():
            yield info._replace(waiting=bool(readers))

    def _queues(self) -> Iterator[tuple[QueueInfo, set[int]]]:
        """All queues, and the owner words of the processes that wait for each."""
        session = self.session
        store, listing = session.joined(), Listing(session.clock())
        holds, done = 0, False
        while not done:
            found, armed, done = self._some_queues(store, listing)
            for info, wait in found:
                yield info, armed.owner_words(wait) if armed is not None else set()
            holds += 1
            if not done:
                session.pause(session.channels.heap, holds)

    @step
    def _some_queues(
        self, store: Store, listing: Listing
    ) -> tuple[list[Listed], Armed | None, bool]:
        """List some queues; also, what is armed on them, if anything, and whether that was all."""
        session = self.session
        found: list[Listed] = []
        armed, done = None, True
        if session.store is store:
            listing.now = session.clock()
            with session.channels as heap:
                try:
                    session.queues.statistics.list_some(listing, found)
                except Pause:
                    done = False
                if any(each.wait.bell for each in found):
                    armed = Armed(heap, session.processes)
        return found, armed, done

    def tables(self) -> Iterator[TableInfo]:
        """See `Engine.tables`."""
        session = self.session
        store, listing = session.joined(), Listing(session.clock())
        holds, done = 0, False
        while not done:
            found, done = self._some_tables(store, listing)
            yield from found
            holds += 1
            if not done:
                session.pause(session.groups.heap, holds)

    @step
    def _some_tables(self, store: Store, listing: Listing) -> tuple[list[TableInfo], bool]:
        """List some tables; also, whether that was all."""
        session = self.session
        found: list[TableInfo] = []
        if session.store is store:
            with session.groups:
                session.follow_flush()
                try:
                    session.tables.list_some(listing, found)
                except Pause:
                    return found, False
        return found, True

    def processes(self) -> Iterator[ProcessInfo]:
        """See `Engine.processes`."""
        session = self.session
        store = session.joined()
        waits: defaultdict[int, list[bytes]] = defaultdict(list)
        fetched: Counter[bytes] = Counter()
        for info, readers in self._queues():
            fetched[info.owner] += info.popped
            for reader in readers:
                waits[reader].append(info.name)
        first, done = 0, False
        while not done:
            found, first = self._some_processes(store, first)
            done = not first
            now = session.clock()
            for each in found:
                age = max(0, now - each.joined)
                yield ProcessInfo(
                    identity=each.identity,
                    pid=each.pid,
                    started=start_time(each.started),
                    command=command(each.pid, each.started, age / 1e9),
                    joined_age=age,
                    waits_for=tuple(sorted(waits[each.owner_word])),
                    counts={**each.counts, "fetched": fetched[each.identity]},
                )

    @step
    def _some_processes(self, store: Store, first: int) -> tuple[list[Present], int]:
        session = self.session
        if session.store is not store:
            return [], 0
        with session.channels:
            return session.processes.present(first)


__all__ = ["Inspection"]
