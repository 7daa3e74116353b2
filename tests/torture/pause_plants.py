"""Bugs, planted in what is left to do between two holds of the lock, and in what a kill leaves.

See `plants`, which runs them.
"""

from __future__ import annotations

from asgi_ipc.engines.shm import locked_segment
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.heap import Heap
from asgi_ipc.engines.shm.heap.layout import STATE
from asgi_ipc.engines.shm.heap.log import Log
from asgi_ipc.engines.shm.heap.rounds import Rounds
from asgi_ipc.engines.shm.processes import Processes
from asgi_ipc.engines.shm.queues import rings
from asgi_ipc.engines.shm.queues.counters import Counts
from asgi_ipc.engines.shm.queues.linked_list import Lists
from asgi_ipc.engines.shm.queues.rings import Rings
from asgi_ipc.engines.shm.queues.sweeper import Upkeep

from .planting import Plant, altered


def recount_off_by_one() -> None:
    """What a kill left uncounted is counted twice."""
    recount = rings.recount

    def wrong(heap: Heap) -> None:
        total = layout.PUSHED if heap.words[STATE] & layout.PUSHING else layout.GONE
        before = heap.words[total]
        recount(heap)
        heap.words[total] += heap.words[total] - before

    locked_segment.recount = wrong  # type: ignore[attr-defined]


#: Bugs in what is left to do between two holds of the lock.
PAUSE_PLANTS = [
    Plant(
        "what is left of a record is forgotten",
        altered(Log, "free", ("change[LEFTOVER] = handle", "pass")),
        "free a record bit by bit",
    ),
    Plant(
        "what is left of a record is forgotten before it is freed",
        altered(Heap, "settle", ("self.free(", "self.commit(change); self.free(")),
        "free two records bit by bit",
    ),
    Plant(
        "a record goes before what is left of another",
        altered(Lists, "_take", ("heap.settle()", "pass")),
        "free two records bit by bit",
    ),
    Plant(
        "cleaning is over before the extent is empty",
        altered(Heap, "_clean", ("self.commit(change)", "self.commit({**change, CLEANING: 0})")),
        "clean over several holds",
    ),
    Plant(
        "the last free extent is taken before cleaning begins",
        altered(
            Heap,
            "_begin_cleaning",
            (
                "self._turn_to_fresh_extent(change)",
                "self._turn_to_fresh_extent(own := {}); self.commit(own)",
            ),
        ),
        "clean the current extent over several holds",
    ),
    Plant(
        "cleaning passes a record before it is moved",
        altered(
            Heap,
            "_clean",
            ("self._move(", "words[CLEANING] = address + length; self._move("),
        ),
        "clean over several holds",
    ),
    Plant(
        "a round notes how far it came before what it saw",
        altered(
            Rounds,
            "pause",
            ("self._heap.commit(", "self._heap.commit({HAND: self._hand}); self._heap.commit("),
        ),
        "a round over several holds",
    ),
    Plant(
        "a round of tables notes how far it came before what it saw",
        altered(
            Rounds,
            "pause",
            ("self._heap.commit(", "self._heap.commit({HAND: self._hand}); self._heap.commit("),
        ),
        "a round of tables over several holds",
        ("prefixes",),  # Of few pauses, that a sample of kills may miss.
    ),
    Plant(
        "a round forgets what earlier holds saw",
        altered(Rounds, "pause", ("min(self._words[SOONEST], self._soonest)", "self._soonest")),
        "a round over several holds",
    ),
    Plant(
        "a round begins before it notes what is unseen",
        altered(
            Rounds,
            "go_on",
            ("UNSEEN: min(words[SOONEST], words[UNSEEN]),", ""),
        ),
        "a round over several holds",
    ),
    Plant(
        "what comes during a round does not lower SOONEST",
        altered(Counts, "arrival", ("change[SOONEST] = deadline", "pass")),
        "push what expires first during a round",
    ),
    Plant(
        "a push through a ring does not lower SOONEST",
        altered(Rings, "push", ("commit({SOONEST: deadline, ", "commit({")),
        "push through a ring what expires first",
    ),
    Plant(
        "a push through a ring lowers SOONEST of the queue first",
        altered(
            Rings,
            "push",
            (
                "self._heap.commit({SOONEST",
                "words[queue + Q_SOONEST] = deadline; self._heap.commit({SOONEST",
            ),
        ),
        "push through a ring what expires first",
    ),
    Plant(
        "a search of a list moves before it notes what it saw",
        altered(
            Lists,
            "expire",
            (
                "heap.commit({queue + Q_SOONEST: soonest, queue + Q_WALK: walk})",
                "heap.commit({queue + Q_WALK: walk}); heap.commit({queue + Q_SOONEST: soonest})",
            ),
        ),
        "search a list over several holds",
    ),
    Plant(
        "a search of a list ends before it notes what it saw",
        altered(
            Lists,
            "expire",
            (
                "heap.commit({**then, queue + Q_SOONEST: soonest})",
                "heap.commit(then); heap.commit({queue + Q_SOONEST: soonest})",
            ),
        ),
        "search a list in one hold",
    ),
    Plant(
        "a search of a ring moves before it notes what it saw",
        altered(
            Rings,
            "expire",
            (
                "    except Pause:\n",
                (
                    "    except Pause:\n"
                    "        heap.commit({queue + Q_WALK: WALK_LANE << WALK_SHIFT | at, "
                    "queue + Q_REACH: (words[queue + Q_OUT] >> COUNT_SHIFT) + passed})\n"
                ),
            ),
        ),
        "search a ring over several holds",
    ),
    Plant(
        "a search begins before it notes what is unseen",
        altered(
            Upkeep,
            "_search",
            (
                "self._heap.commit(",
                "self._heap.commit({address + Q_SOONEST: NEVER}); self._heap.commit(",
            ),
        ),
        "search a list over several holds",
    ),
    Plant(
        "a pop leaves a search at what it took",
        altered(Lists, "_take", ("if message == kept:", "if False:")),
        "pop where a search is",
    ),
    Plant(
        "a refill hides a message from a search",
        altered(Lists, "refill", ("if deadline < words[queue + Q_SOONEST]:", "if False:")),
        "push that refills a ring which a search has passed",
    ),
    Plant("a recount off by one", recount_off_by_one, "pop from a ring", ("prefixes",)),
    Plant(
        "a recount counts what was counted",
        altered(locked_segment, "recount", ("words[total] += lacking", "words[total] += 1")),
        "push through a ring",
        ("prefixes",),
    ),
    Plant(
        "a push through a ring notes the count after its move",
        altered(Rings, "push", ("(came - total &", "(came + 1 - total &")),
        "push through a ring",
    ),
    Plant(
        "a process is in its slot before its row is written",
        altered(
            Processes,
            "_settle",
            (
                "words[row + P_PID],",
                (
                    "at = self._at(slot)\n"
                    "    self._heap.commit({at + SLOT_IDENTITY: low, "
                    "at + SLOT_IDENTITY + 1: high, "
                    "SLOTS_USED: max(words[SLOTS_USED], slot + 1)})\n"
                    "    words[row + P_PID],"
                ),
            ),
        ),
        "join",
    ),
    Plant(
        "a slot is taken and not counted as used",
        altered(Processes, "_settle", ("SLOTS_USED: max(words[SLOTS_USED], slot + 1),", "")),
        "join",
    ),
    Plant(
        "a slot is given up before it is counted",
        altered(
            Processes,
            "leave",
            (
                "self._heap.commit(",
                "self._heap.commit({at + SLOT_IDENTITY: 0}); self._heap.commit(",
            ),
        ),
        "reap more than one hold may",
    ),
    Plant(
        "a reap goes on before it has looked",
        altered(
            Processes,
            "reap",
            ("dead = []", "dead = []; self._heap.commit({REAP_HAND: last if last < ever else 0})"),
        ),
        "reap more than one hold may",
    ),
]
