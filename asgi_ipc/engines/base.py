"""The Engine contract: what a channel layer asks of the thing that stores its messages.

An engine keeps *queues* of records and *tables* of members. Names, records and
members are ``bytes``; it never sees a channel, a group or a message. Everything
that is policy (which capacity, which expiry, which queue) is decided by the caller
and arrives as numbers. `asgi_ipc.engines.memory` is the readable reference.

The clauses; every engine must pass the tests that cite them (``conformance/``):

Queues
  E1   A record is popped once or never, by one caller, whatever the number of callers.
  E2   Records of one queue are popped in the order in which they were pushed.
  E3   `push` never waits for room: it refuses a record whose queue already holds
       ``capacity`` live records, a record that the store has no room for, and a record
       with which its queue would have too large a share of the store (E7), and says
       which and why; it stores all others of the batch, in their order.
  E4   A record whose deadline has passed is never popped. It does not count against
       capacity, and its room is given to whoever needs it before anybody is refused.
  E5   What was pushed comes back byte for byte, up to `MAX_PAYLOAD` bytes, and any
       name of 1 to `MAX_NAME` bytes works. Beyond that: `ValueError`, and nothing is stored.
  E6   `restore` puts a popped record back in front of its queue, whatever the capacity.
  E7   Queues are independent: a full or busy one changes nothing for another.
       (Capability ``bounded``:) a queue takes a record only while its bytes, the record
       included, are at most `SHARE` times the bytes of the store that are then free. So no
       queue has more than seven eighths of the memory. An engine may count more than payloads.

Tables
  E8   `put` of a new member adds it; of a present one renews its deadline and owner.
  E9   `members` gives each live member once; none past its deadline.
  E10  `remove` takes a member out and says whether it was there.
  E11  `members(table, known)` returns the very object ``known`` while it is still the
       truth, and a new one otherwise; no change is missed.

Waiting
  E12  `pop` with a bell arms the bell if it returns fewer records than asked: the next
       record pushed on that queue signals it. Between the last look and the arming no
       record is missed. An armed bell signals once and must be armed again; to arm it
       while it is armed changes nothing. A flush signals it, or leaves it armed.
  E13  Of several bells armed on a queue each record pushed signals one, the one armed first;
       a bell that is closed, or whose process is gone, is passed over.
  E14  `disarm` takes the bell off the queue; had it been signalled for it already, and the
       queue has records, the next bell is signalled in its stead.
  E26  A push that wakes many may have the processes whose bells it rang first signal the others,
       as they `clear` theirs. One of these that stands still keeps nothing from the others; one
       that is killed, at most one signal. If all do, the pusher signals the others within seconds,
       without anybody's action while it uses the store, and at once when it closes.
  E24  `peek` is True of a queue that has a live record, whoever pushed it; it changes nothing.

Processes (capability ``crosses_processes``)
  E15  Two processes that open the same prefix with the same options share everything.
       (Two engines of one process do, whatever the capability says.)
  E16  A process killed at any instant harms nobody: no other process waits for it, no
       record whose push returned is lost, none is popped twice.
  E17  `identity` is unique for all time, lasts as long as the process has the engine
       open, even if the store is replaced meanwhile, and differs in a forked child. All
       processes that open one store have the first `NODE_BYTES` in common, those of another
       store have others; so a name says which machine it is of. A process that creates a
       store in place of one that it had open gives it the bytes of that one.
       (Capability ``owners``:) records and members with an ``owner`` go when the process
       of that identity has gone, within seconds and without anybody's action while any
       process uses the store. An owner that was never seen, or is already forgotten,
       counts as none.
  E18  All methods may be called from any thread at any time, in a forked child too.
  E25  Python may run other code in the middle of a method (finalizers, signal handlers, trace
       functions). A method that such code calls in the same thread does its work, or raises
       `Reentered` and does nothing; it never waits for what its own thread holds. ``inside``
       is True meanwhile.

Upkeep
  E19  After `flush` no record and no member is left, for anyone, and `flushes` has grown
       in every process.
  E20  `statistics` counts each record by what became of it; the numbers agree with what
       callers saw. A record past its deadline is counted as expired, and not as pending.
  E21  `close` lets go of all this engine holds, its bells included, and may be called twice; the
       store stays if the capability ``survives_exit`` says so. Any other call on a closed
       engine raises `StoreUnavailable`.
  E22  `destroy` removes the store and closes; nothing is left in the system. Others who
       had it open meet a fresh, empty store, or `StoreUnavailable`, never a split one.
  E23  Bad options, an unusable machine or a foreign store raise at construction
       (`OptionError`, `EngineUnavailable`, `StoreUnavailable`) and leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

#: Longest queue, table or member name, in bytes.
MAX_NAME = 255
#: Largest record, in bytes: a message of the layer's limit and the names it is for.
MAX_PAYLOAD = 8 * 1024 * 1024
#: A queue may have so many times the bytes that it leaves free (E7).
SHARE = 7
#: Length of an `Engine.identity`, in bytes.
IDENTITY_BYTES = 14
#: How many of them all processes of a store have in common, the store's own name for itself.
#: 40 random bits tell a thousand machines apart but once in two million tries; the other 72
#: give a billion processes of one store different identities but once in nine thousand.
NODE_BYTES = 5


class Record(NamedTuple):
    """One record to push."""

    queue: bytes
    payload: bytes
    #: Nanoseconds on the engine's `Engine.clock`; the record is dead from then on.
    deadline: int
    #: The queue may hold this many live records, this one included.
    capacity: int
    #: Identity of the process that alone reads this queue, or ``b""``.
    owner: bytes = b""


class Popped(NamedTuple):
    """One record taken off a queue."""

    payload: bytes
    deadline: int


class Refused(NamedTuple):
    """Why one record of a batch was not stored."""

    #: Its place in the batch.
    position: int
    #: True: there is no room for it. False: the queue is at capacity.
    no_room: bool
    #: For people: what is full, and what to do about it.
    detail: str
    #: The store has room, but the queue would leave others too little of it; ``no_room`` too.
    over_share: bool = False

    @property
    def reason(self) -> str:
        """In a word or two: ``"capacity"``, ``"no room"`` or ``"share"``."""
        return "share" if self.over_share else "no room" if self.no_room else "capacity"


#: The detail of a refusal at capacity by a queue whose owner has died.
READER_GONE = "the process that reads it has ended"


class Members(NamedTuple):
    """The live members of a table at some instant."""

    names: tuple[bytes, ...]
    #: Opaque; for the engine, to see whether this is still the truth (E11).
    version: Any


class Capabilities(NamedTuple):
    """What an engine declares it can do. The suite skips what is absent and tests the rest."""

    #: Processes with the same prefix share the store (E15 to E17).
    crosses_processes: bool
    #: The store outlives the processes that use it (E21).
    survives_exit: bool
    #: A push signals bells in every process; if False only in its own, and others must poll.
    wakes: bool
    #: Records and members go with their owner (E17).
    owners: bool
    #: A full store refuses; if False it grows as far as the process may.
    bounded: bool
    #: Calls may wait on a disk or network: the asynchronous layer makes them in a thread.
    blocking: bool = False


class Bell(Protocol):
    """Something a selector can wait for. Made by one process and waited for in it.

    Any thread may call any method; none blocks.
    """

    def fileno(self) -> int:
        """A descriptor that is readable from a signal until `clear`; negative once closed.

        Negative too once the engine can't signal it any more: close it and make another.
        """

    def clear(self) -> Collection[int] | None:
        """Forget the signals so far, and return for which queues they were (E12).

        It may signal other bells, those of a push that woke this one first (E26).

        Queues are told by `asgi_ipc.engines.bell.hint`. None: any queue may have been pushed to.
        """

    def signal(self) -> None:
        """Ring it from this process, as a push would. Does nothing on a closed bell."""

    def close(self) -> None:
        """Give it up, armed or not. May be called twice."""


class Engine(Protocol):
    """A store of queues and tables. See the module's clauses E1 to E26.

    Constructed as ``factory(prefix, channel_memory=bytes, group_memory=bytes, **options)``
    where ``options`` are the user's ``engine_options``. Opening may block briefly while
    another process creates the store (E23).

    Unless said otherwise a method returns in microseconds, may wait that long for
    another process that is inside the store, and may raise `StoreCorrupt` or
    `StoreUnavailable` (gone, and could not be opened again).
    """

    capabilities: ClassVar[Capabilities]

    @classmethod
    def unavailable(cls) -> str | None:
        """None, or why this engine can't work on this machine and what to do about it."""

    @property
    def identity(self) -> bytes:
        """This process's identity: the store's `NODE_BYTES`, then random bytes (E17)."""

    @property
    def flushes(self) -> int:
        """Grows with every flush, in every process (E19).

        Read before each delivery, on the event loop too: it takes no lock and never waits.
        An engine that must ask somebody gives what it heard last.
        """

    def inside(self) -> bool:
        """Return whether the calling thread is in the middle of a method of this engine (E25).

        It holds a lock then that other threads may wait for, and must not wait for theirs. An
        engine that holds no lock while Python code runs says False.
        """

    def clock(self) -> int:
        """Now, in nanoseconds, on the scale of deadlines; never goes back."""

    def push(self, records: Sequence[Record]) -> list[Refused]:
        """Store a batch and signal for it; return the refused, in order (E1-E5, E7, E13)."""

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        """Take up to ``limit`` oldest records; fewer: the queue is empty, arm ``bell`` (E12)."""

    def peek(self, queue: bytes) -> bool:
        """False only if the queue has no record; True if it may have one (E24).

        Asked over and over by who expects a record any moment, and before a message passes
        by a queue that must not overtake any; on the event loop too, so it takes no lock and
        never waits. An engine that can't tell without says True.
        """

    def restore(self, queue: bytes, record: Popped) -> None:
        """Put back in front a record that `pop` gave and nobody used; signals (E6)."""

    def disarm(self, queue: bytes, bell: Bell) -> None:
        """Stop waiting for this queue (E14)."""

    def bell(self) -> Bell:
        """A new bell of this process."""

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        """Add or renew a member (E8). Raises `StoreFull` when there is no room for it."""

    def remove(self, table: bytes, member: bytes) -> bool:
        """Take a member out; True if it was there (E10)."""

    def members(self, table: bytes, known: Members | None = None) -> Members:
        """The live members, or ``known`` itself if they are still those (E9, E11)."""

    def statistics(self, queue: bytes | None = None) -> Mapping[str, int]:
        """Counts for one queue, or for the whole store (E20).

        Always: ``pushed``, ``popped`` (less what was restored), ``expired``,
        ``refused`` (at capacity or no room), ``store_full`` (of the refused, those for
        which there was no room), ``orphaned`` (their owner died),
        ``pending``, ``high_water`` (most ever pending), ``oldest_age`` (nanoseconds
        since the oldest pending record was pushed). For the store also ``queues``,
        ``members``, ``bytes_used``, ``bytes_total``, ``recoveries``; an engine may add more.
        For a queue that does not exist all are 0.
        """

    def flush(self) -> None:
        """Empty every queue and table, for everyone (E19)."""

    def close(self) -> None:
        """Let go (E21)."""

    def destroy(self) -> None:
        """Remove the store, for everyone, and close (E22)."""
