"""Statistics of queues: what `Engine.statistics` tells of one of them, and of all together.

Everything needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from typing import NamedTuple

from asgi_ipc.engines.base import QueueInfo

from ..heap import layout
from ..heap.hash_table import HashTable
from ..heap.heap import PASS, Heap
from ..listing import Listing, Wait
from ..processes import Processes
from .counters import MILLISECOND, ever_pushed, pending, popped
from .rings import Rings
from .sweeper import Sweeper

#: What it costs to list a queue.
_LISTING = 10 * PASS


class Survey:
    """The oldest message of all queues, looked for over several holds of the lock."""

    def __init__(self, now: int) -> None:
        self.now = now
        #: The bucket where the next hold goes on, and the oldest age so far, in nanoseconds.
        self.bucket = self.oldest = 0

    def move(self, bucket: int) -> None:
        """Go on there."""
        self.bucket = bucket


class Listed(NamedTuple):
    """A queue that was listed. Whether a reader waits is to be found out of ``wait``."""

    info: QueueInfo
    wait: Wait


class Statistics:
    """The statistics of the queues of a store."""

    def __init__(
        self,
        heap: Heap,
        hash_table: HashTable,
        processes: Processes,
        rings: Rings,
        sweeper: Sweeper,
    ) -> None:
        self._heap = heap
        self._words = heap.words
        self._hash_table = hash_table
        self._processes = processes
        self._rings = rings
        self._sweeper = sweeper

    def of_queue(self, address: int, now: int) -> dict[str, int]:
        """Return the counts of one queue; 0 is a queue that there is not. May `Pause`."""
        words = self._words
        if not address:
            return dict.fromkeys(
                ("pushed", "popped", "expired", "refused", "store_full", "orphaned", "pending",
                 "high_water", "oldest_age", "bytes"), 0,
            )  # fmt: skip
        self._sweeper.expire(address, now)
        return {
            "pushed": ever_pushed(words, address),
            "popped": popped(words, address),
            "expired": words[address + layout.Q_EXPIRED],
            "refused": words[address + layout.Q_REFUSED],
            "store_full": words[address + layout.Q_NO_ROOM],
            "orphaned": 0,
            "pending": pending(words, address),
            "high_water": words[address + layout.Q_HIGH_WATER],
            "oldest_age": self._age(address, now),
            "bytes": words[address + layout.Q_BYTES],
        }

    def of_store(self) -> dict[str, int]:
        """Return what is counted in the channels segment."""
        words = self._words
        expired, orphaned = words[layout.EXPIRED], words[layout.ORPHANED]
        return {
            "pushed": words[layout.PUSHED],
            "popped": words[layout.GONE] - expired - orphaned - words[layout.FLUSHED],
            "expired": expired,
            "refused": words[layout.REFUSED],
            "store_full": words[layout.NO_ROOM],
            "orphaned": orphaned,
            "flushed": words[layout.FLUSHED],
            "restored": words[layout.RESTORED],
            "pending": words[layout.PUSHED] - words[layout.GONE],
            "high_water": words[layout.HIGH_WATER],
            "queues": words[layout.NAMED],
            "recoveries": words[layout.RECOVERIES],
        }

    def survey(self, survey: Survey) -> None:
        """Drop what has expired everywhere, and find the oldest message. May `Pause`.

        A queue that comes or goes meanwhile may be passed over.
        """
        words, end = self._words, self._heap.end
        for bucket in self._hash_table.used(survey.bucket, survey.move):
            for handle in list(self._hash_table.chain(bucket)):
                self._heap.spend(2 * PASS)
                address = words[end - handle]
                if self._sweeper.expire(address, survey.now):
                    self._heap.spend(4 * PASS)
                    survey.oldest = max(survey.oldest, self._age(address, survey.now))

    def list_some(self, listing: Listing, found: list[Listed]) -> None:
        """Go on with a listing of all queues. May `Pause`; if it does not, that was the last."""
        words, heap = self._words, self._heap
        for bucket in self._hash_table.used(listing.bucket, listing.move):
            for handle in list(self._hash_table.chain(bucket)):
                address = words[heap.end - handle]
                name = heap.name(address, layout.Q_WORDS)
                if not listing.has(name):
                    heap.spend(_LISTING)
                    found.append(self._listed(name, address, listing.now))
                    listing.add(name)

    def _listed(self, name: bytes, address: int, now: int) -> Listed:
        """Return what is to be told of one queue. May `Pause`."""
        words = self._words
        counts = self.of_queue(address, now)
        owner = words[address + layout.Q_OWNER]
        alive = owner and self._processes.owner_alive(owner)
        info = QueueInfo(
            name,
            counts["pending"],
            counts["bytes"],
            counts["oldest_age"],
            counts["high_water"],
            counts["pushed"],
            counts["popped"],
            counts["expired"],
            counts["refused"],
            False,
            self._processes.identity(owner & layout.SLOT_MASK) if alive else b"",
        )
        wait = Wait(words[address + layout.Q_BELL], words[address + layout.Q_WAIT_FIRST])
        return Listed(info, wait)

    def _age(self, address: int, now: int) -> int:
        """Return the nanoseconds since the oldest message of a queue was pushed. May `Pause`."""
        words = self._words
        heads = words[address + layout.Q_HEADS]
        if heads >> layout.FRONT_SHIFT:
            return self._age_of(heads >> layout.FRONT_SHIFT, now)
        while self._rings.drop_front(address, 0):
            self._heap.spend(PASS)
        for at, _ in self._rings.extents.entries(address):
            lifetime = (words[at] >> layout.ENTRY_LIFETIME_SHIFT) * MILLISECOND
            return max(0, now - (words[at + layout.ENTRY_DEADLINE] - lifetime))
        return self._age_of(heads & layout.LINK_MASK, now)

    def _age_of(self, message: int, now: int) -> int:
        if not message:
            return 0
        at = self._words[self._heap.end - message]
        lifetime = (self._words[at + layout.M_LINK] >> 32) * MILLISECOND
        return max(0, now - (self._words[at + layout.M_DEADLINE] - lifetime))
