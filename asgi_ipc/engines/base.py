"""The Engine contract: what a channel layer needs from its message store.

An engine keeps *queues* of records and *tables* of members. Names, records and members are
``bytes``; an engine never sees a channel, a group or a message. The caller decides policy
(capacity, expiry, queue) and passes it as numbers. `asgi_ipc.engines.memory` is the reference.

Every engine must pass the tests (``conformance/``) that cite these clauses:

Queues
  E1   A record is popped at most once, by one caller, whatever the number of callers.
  E2   Records of one queue are popped in the order in which they were pushed.
  E3   `push` never waits for room. It refuses a record if its queue already holds ``capacity``
       live records, if the store has no room for the record, or if the record would give its
       queue too large a share of the store (E7). It returns which records it refused and why, and
       stores all others of the batch in order.
  E4   A record is never popped after its deadline. It then no longer counts against capacity, and
       its room is reused before `push` refuses any record.
  E5   A popped record equals the pushed one byte for byte. Records of up to `MAX_PAYLOAD` bytes
       and names of 1 to `MAX_NAME` bytes work; others raise `ValueError`, and nothing is stored.
  E6   `restore` puts a popped record back in front of its queue, whatever the capacity.
  E7   Queues are independent: a full or busy queue never affects another.
       (Capability ``bounded``:) a queue takes a record only while its bytes, the record
       included, are at most `SHARE` times the bytes of the store that are then free. So no
       queue has more than seven eighths of the memory. An engine may count more than payloads.

Tables
  E8   `put` adds a new member; of a present member it renews deadline and owner.
  E9   `members` returns each live member once, and none past its deadline.
  E10  `remove` removes a member and returns whether it was there.
  E11  `members(table, known)` returns the very object ``known`` while the members are unchanged,
       and a new object otherwise; it never misses a change.

Waiting
  E12  `pop` with a bell arms the bell if it returns fewer records than asked for: the next
       record pushed on that queue signals it. No record is missed between the last look and the
       arming. An armed bell is signalled once and must then be armed again; arming an armed
       bell changes nothing. A flush signals an armed bell, or leaves it armed.
  E13  Each pushed record signals the bell armed first on its queue, skipping bells that are
       closed or whose process has died. If that is found out later, the next bell is signalled
       then.
  E14  `disarm` takes a bell off a queue. If the bell has already been signalled for the queue,
       and the queue has records, `disarm` signals the next bell instead.
  E26  A push that wakes many processes may leave signals to helpers: the processes that it signals
       first, which signal others in `clear`. A stopped helper withholds no signal from the other
       processes; a killed one loses at most one. If all helpers are stopped or killed, the pushing
       process signals the others within seconds while it uses the store, or at once at `close`.
  E24  `peek` returns True for a queue with a live record, whichever process pushed it, and
       changes nothing.

Processes (capability ``crosses_processes``)
  E15  Two processes that open the same prefix with the same options share everything.
       (Two engines of one process do, whatever the capability says.)
  E16  A process may be killed at any instant: no other process waits for it forever, no record
       whose `push` returned is lost, and none is popped twice.
  E17  `identity` is unique for all time, lasts while the process has the engine open, even if
       the store is replaced meanwhile, and differs in a forked child. The identities of all
       processes of one store begin with the same `NODE_BYTES`, which differ from those of
       every other store, so a name tells its machine. A process that creates a store in place
       of one that it had open gives the new store the same bytes.
       (Capability ``owners``:) records and members with an ``owner`` are removed within seconds
       after the process with that identity has died, without a call for that purpose, while
       any process uses the store. An owner that was never seen, or is forgotten, counts as none.
  E32  (Capability ``roles``:) a role is held by at most one engine of a store, in any process,
       from the `hold` that returns True until `release`, `close` or the death of the process. A
       stopped process keeps its roles, and a forked child holds none of its parent's. If the
       store is replaced, or the process counts as dead (E34), its roles are free; the next `hold`
       tells.
  E33  (Capability ``blocking``:) a call that can't reach the server raises `StoreUnavailable`, and
       `OutcomeUnknown` if the server may have carried it out; the engine then does not repeat it by
       itself. The server may carry such a call out late, after later calls; likewise the last call
       of a process that was killed (E16). The next call works if the server is back, and bells are
       signalled for what was pushed meanwhile; the engine need not be opened again.
  E34  (Capability ``lease``:) a process of which the server hears nothing for ``lease`` seconds
       counts as dead (E17). If it was stopped, ``lapses`` grows in it within ``lease`` seconds of
       going on. From then on its records and memberships last as those of a new process, and the
       layers put its memberships again.
  E18  Any thread may call any method at any time, also in a forked child.
  E25  Python may run other code in the middle of a method (finalizers, signal handlers, trace
       functions). A method that such code calls in the same thread does its work, or raises
       `Reentered` and does nothing; it never waits for a lock that its own thread holds.
       ``inside`` returns True meanwhile.

Upkeep
  E19  After `flush` no record and no member is left, for any process, and `flushes` has grown: at
       once in the caller's process, and in every other before it pops a record that was pushed
       after the flush, and within seconds even if there is none.
  E20  `statistics` counts each record by what happened to it; the counts agree with what
       callers saw. A record past its deadline counts as expired, not as pending.
  E21  `close` releases everything that this engine holds, its bells included, and may be called
       twice. The store remains if the capability ``survives_exit`` says so. Any other call on
       a closed engine raises `StoreUnavailable`.
  E22  `destroy` removes the store from the system and closes the engine. Other processes that
       had the store open get a new, empty store, or `StoreUnavailable`, and never end up in
       two stores.
  E23  Bad options, an unusable machine or a foreign store raise at construction
       (`OptionError`, `EngineUnavailable`, `StoreUnavailable`) and leave nothing behind.

Inspection (capability ``inspects``)
  E27  `queues` yields every queue that holds a record or has an armed bell all the while, `tables`
       every table that has a member, and `processes` every process that has the store open. None
       yields a name or identity twice. What comes or goes meanwhile may be missing, and an
       iteration may end early if the store is replaced.
  E28  What they yield agrees with what callers saw: `QueueInfo` with `statistics` of that queue,
       and ``owner`` and ``waiting`` with the pushes and pops of its users. Members of a table past
       their deadline may be counted until upkeep removes them.
  E29  `look` returns the oldest live records that `pop` would return, in that order, and at least
       one if there is one. It takes none of them: each is still popped once.
  E30  No method of inspection changes what another caller sees, or holds a lock for longer than a
       constant and the payloads that it returns, however much is stored. Between two items of an
       iteration no lock is held, so the caller may use the engine, or stop.
  E31  `note` replaces the counts of this engine's process. Every process sees them in `processes`
       and summed in `statistics`. When the process leaves or dies, `COUNTERS` stay in the sums as
       last noted, and `GAUGES` go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

#: Longest queue, table or member name, in bytes.
MAX_NAME = 255
#: Largest record, in bytes: the largest message of a layer, and the names of its channels.
MAX_PAYLOAD = 8 * 1024 * 1024
#: A queue may have at most this many times the bytes that it leaves free (E7).
SHARE = 7
#: Roles of a store are the numbers from 0 to `ROLES` - 1 (E32).
ROLES = 8
#: Length of an `Engine.identity`, in bytes.
IDENTITY_BYTES = 14
#: Bytes at the beginning of an identity that all processes of a store share.
#: 40 random bits: a thousand machines collide once in two million tries. The other 72: a billion
#: processes of one store collide once in nine thousand.
NODE_BYTES = 5
#: `Engine.look` returns at most this many records, and after the first at most so many bytes.
LOOK_RECORDS, LOOK_BYTES = 100, 1024 * 1024
#: What a process notes of itself (`Engine.note`): messages that bypassed the store; messages that
#: were dropped in its buffers, at capacity or for memory, and past their deadline; and how many of
#: these were copies of a record for several channels.
COUNTERS = ("passed_directly", "overflowed", "buffer_expired", "copies_dropped")
#: The same of what it holds at the moment: messages in its buffers, how many of them are such
#: copies, and the bytes of memory that all of them take.
GAUGES = ("held", "held_copies", "held_bytes")


class Record(NamedTuple):
    """One record to push."""

    queue: bytes
    payload: bytes
    #: Nanoseconds on the engine's `Engine.clock`; the record has expired from then on.
    deadline: int
    #: The queue may hold this many live records, this one included. 2**63 - 1 where the layer does
    #: not count them.
    capacity: int
    #: Identity of the only process that reads this queue, or ``b""``.
    owner: bytes = b""


class Popped(NamedTuple):
    """One record taken off a queue."""

    payload: bytes
    deadline: int


class Refused(NamedTuple):
    """Why one record of a batch was not stored."""

    #: Index of the record in the batch.
    position: int
    #: True: the store has no room. False: the queue is at capacity.
    no_room: bool
    #: For people: what is full, and how to get room.
    detail: str
    #: The store has room, but the queue would exceed its share (E7); ``no_room`` is True too.
    over_share: bool = False

    @property
    def reason(self) -> str:
        """``"capacity"``, ``"no room"`` or ``"share"``."""
        return "share" if self.over_share else "no room" if self.no_room else "capacity"


#: The detail of a refusal by a queue whose owner has died.
READER_GONE = "the process that reads it has ended"


def checked_role(role: int) -> int:
    """Return a role, or raise `ValueError` if there is none of that number (E32)."""
    if isinstance(role, bool) or not isinstance(role, int) or not 0 <= role < ROLES:
        raise ValueError(f"there is no role {role!r}; use a number from 0 to {ROLES - 1}")
    return role


class Members(NamedTuple):
    """The live members of a table at one instant."""

    names: tuple[bytes, ...]
    #: Opaque; the engine compares it to see whether the members have changed (E11).
    version: Any


#: `QueueInfo` has a field ``bytes``.
_Name: TypeAlias = bytes


class QueueInfo(NamedTuple):
    """One queue, as `Engine.queues` found it."""

    name: _Name
    #: Live records.
    pending: int
    #: Memory that they take.
    bytes: int
    #: Nanoseconds since the oldest of them was pushed; 0 if there is none.
    oldest_age: int
    #: Most records ever pending.
    high_water: int
    #: Records ever stored, taken, dropped at their deadline, and refused.
    pushed: int
    popped: int
    expired: int
    refused: int
    #: Whether a bell is armed: a reader waits for a record.
    waiting: bool
    #: Identity of the only process that reads it, or ``b""``.
    owner: _Name


class TableInfo(NamedTuple):
    """One table, as `Engine.tables` found it."""

    name: bytes
    members: int


class ProcessInfo(NamedTuple):
    """One process that has the store open, as `Engine.processes` found it.

    ``pid``, ``started`` and ``command`` are hints for people: a process id means something only in
    the container or jail of its process. Nothing may be decided by them.
    """

    identity: bytes
    #: 0 if unknown.
    pid: int
    #: Seconds since the epoch; 0.0 if unknown.
    started: float
    #: Its command line; empty if unknown.
    command: str
    #: Nanoseconds since it opened the store.
    joined_age: int
    #: The queues on which its bells are armed.
    waits_for: tuple[bytes, ...]
    #: `COUNTERS` and `GAUGES`, as it last noted them; and ``fetched``, the records popped off the
    #: queues that it owns.
    counts: Mapping[str, int]


class Capabilities(NamedTuple):
    """What an engine declares it can do. The suite skips tests of absent capabilities."""

    #: Processes with the same prefix share the store (E15 to E17).
    crosses_processes: bool
    #: The store outlives its processes (E21).
    survives_exit: bool
    #: A push signals bells of every process; if False, of its own only, and others must poll.
    wakes: bool
    #: Records and members are removed when their owner has died (E17).
    owners: bool
    #: A full store refuses records; if False it grows as far as the process may.
    bounded: bool
    #: Calls may wait for a disk or network, so the asynchronous layer makes them in a thread.
    blocking: bool = False
    #: `Engine.hold`, `release` and `is_held` work (E32). An engine that declares False may leave
    #: them out.
    roles: bool = False
    #: `Engine.queues`, `tables`, `processes`, `look` and `note` work (E27 to E31). An engine that
    #: declares False may leave them out: callers look here first.
    inspects: bool = False
    #: Seconds for which receivers wait for a server that is away: they look again when `Engine.pop`
    #: or `Engine.bell` has raised `StoreUnavailable`, instead of ending their consumers (E33).
    outage: float = 0.0
    #: Seconds of silence after which a process counts as dead that may have been stopped (E34).
    #: 0: only dead processes do.
    lease: float = 0.0


class Bell(Protocol):
    """A wake-up that a selector can wait for, in the process that made it.

    Any thread may call any method; none blocks.
    """

    def fileno(self) -> int:
        """Return a descriptor that is readable from a signal until `clear`; negative once closed.

        Also negative once the engine can't signal it any more: close it and make another.
        """

    def clear(self) -> Collection[int] | None:
        """Read and drop all signals, and return the hints of the queues they were for (E12).

        `asgi_ipc.engines.bell.hint` computes a queue's hint. None stands for any queue. It may
        signal other bells, which a push left to this one's process (E26).
        """

    def signal(self) -> None:
        """Signal it from this process, as a push would. Does nothing on a closed bell."""

    def close(self) -> None:
        """Release it, armed or not. May be called twice."""


class Engine(Protocol):
    """A store of queues and tables. See the module's clauses E1 to E34.

    Constructed as ``factory(prefix, channel_memory=bytes, group_memory=bytes, **options)``
    where ``options`` are the user's ``engine_options``. Opening may block while another process
    creates or removes the store (E23).

    A method of an engine that is not ``blocking`` normally returns in microseconds. Unless its
    docstring says otherwise it may wait for another process that holds the store's lock, and may
    raise `StoreCorrupt`, or `StoreUnavailable` if the store is gone and can't be opened again.

    An engine may also have a method ``watch_expiry(tell)``. It then calls ``tell(queue, count)``,
    normally within a second, when a call of this process has dropped records past their deadline,
    so that a layer can log them; with None it stops. ``tell`` takes no lock and never waits.
    A class method ``check_options(**options)`` raises `OptionError` for values that the constructor
    would refuse; its text has ``engine_options['NAME']``.
    """

    capabilities: ClassVar[Capabilities]

    @classmethod
    def unavailable(cls) -> str | None:
        """Return None, or why this engine can't work on this machine, and the remedy."""

    @property
    def identity(self) -> bytes:
        """This process's identity: the store's `NODE_BYTES`, then random bytes (E17)."""

    @property
    def flushes(self) -> int:
        """A number that grows with every flush, in every process (E19).

        Layers read it before each delivery, also on the event loop: it must take no lock and
        never wait. An engine that asks a server returns the last number it got. If this engine goes
        on in a store that replaced the one it had open, the number should differ, as layers tell by
        it that memberships are gone (`on_store_lost`).
        """

    def inside(self) -> bool:
        """Return whether the calling thread is in the middle of a method of this engine (E25).

        Such a thread may hold a lock that other threads wait for, so it must not wait for theirs.
        An engine that holds no lock while Python code runs returns False.
        """

    def clock(self) -> int:
        """Return the time in nanoseconds, on the scale of deadlines; it must never go back.

        It is the same in all processes of the store. Between machines clocks differ, so an engine
        that asks a server returns the server's time, as it reckons it from the last answers, and
        the server decides what has expired.
        """

    def push(self, records: Sequence[Record]) -> list[Refused]:
        """Store a batch, signal bells, and return the refused records in order (E1-E5, E7, E13)."""

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        """Take up to ``limit`` oldest records; arm ``bell`` if there are fewer (E1, E2, E12)."""

    def peek(self, queue: bytes) -> bool:
        """Return False only if the queue has no record, True if it may have one (E24).

        A spinning receiver calls it again and again, and a sender before its message bypasses the
        queue, also on the event loop: it must take no lock and never wait. An engine that can't
        tell without a lock returns True.
        """

    def restore(self, queue: bytes, record: Popped) -> None:
        """Put a record that `pop` returned back in front of its queue, and signal (E6)."""

    def disarm(self, queue: bytes, bell: Bell) -> None:
        """Take a bell off this queue (E14)."""

    def bell(self) -> Bell:
        """Return a new bell of this process."""

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        """Add or renew a member (E8). Raises `StoreFull` if there is no room for it."""

    def remove(self, table: bytes, member: bytes) -> bool:
        """Remove a member; return whether it was there (E10)."""

    def members(self, table: bytes, known: Members | None = None) -> Members:
        """Return the live members, or ``known`` itself if they are unchanged (E9, E11)."""

    def hold(self, role: int) -> bool:
        """Take a role, and return whether this engine holds it now; never waits (E32)."""

    def release(self, role: int) -> None:
        """Give up a role. Does nothing if this engine does not hold it (E32)."""

    def is_held(self, role: int) -> bool:
        """Return whether any engine of the store holds a role (E32).

        A `hold` by another process at the same instant may be refused.
        """

    def statistics(self, queue: bytes | None = None) -> Mapping[str, int]:
        """Return counts for one queue, or for the whole store (E20).

        Always: ``pushed``, ``popped`` (minus those restored), ``expired``, ``refused`` (at
        capacity or no room), ``store_full`` (those of ``refused`` without room), ``orphaned``
        (their owner died), ``pending``, ``high_water`` (most ever pending), ``oldest_age``
        (nanoseconds since the oldest pending record was pushed). For the store also ``queues``,
        ``members``, ``bytes_used``, ``bytes_total``, ``recoveries`` (changes completed for killed
        processes); and if it ``inspects``, ``processes``, the sums of `COUNTERS` and `GAUGES`
        (E31), and for each memory ``channel_bytes_used``, ``channel_bytes_reserved`` (what the
        system has given for it) and ``channel_bytes_total``, and the same of ``group_``; for a
        queue then ``bytes``, as in `QueueInfo`. An engine may add more: with ``restored`` (how
        often a popped record was restored), metrics have a count of received messages that never
        falls. For a queue that does not exist all are 0.
        """

    def queues(self) -> Iterator[QueueInfo]:
        """Iterate over all queues (E27, E28). A queue that is empty may be left out."""

    def tables(self) -> Iterator[TableInfo]:
        """Iterate over all tables (E27, E28)."""

    def processes(self) -> Iterator[ProcessInfo]:
        """Iterate over all processes that have the store open, this one included (E27)."""

    def look(self, queue: bytes, limit: int = LOOK_RECORDS) -> list[Popped]:
        """Return up to ``limit`` of the oldest records of a queue, and take none (E29).

        Never more than `LOOK_RECORDS`, nor than `LOOK_BYTES` after the first. An engine may stop
        earlier where many dead records lie between the live ones.
        """

    def note(self, counts: Mapping[str, int]) -> None:
        """Replace this process's own `COUNTERS` and `GAUGES` (E31).

        Those that are left out become 0, and other keys are ignored. Takes a lock for an instant.
        """

    def flush(self) -> None:
        """Empty every queue and table, for all processes (E19)."""

    def close(self) -> None:
        """Release everything that this engine holds (E21)."""

    def destroy(self) -> None:
        """Remove the store, for all processes, and close (E22)."""


class LeasedEngine(Engine, Protocol):
    """An engine that declares a ``lease``."""

    @property
    def lapses(self) -> int:
        """How often this process has counted as dead although it lived (E34).

        Layers read it about once a second, also on the event loop: it must never wait.
        """
