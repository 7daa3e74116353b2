"""Being in a store: opening it, joining and leaving, forks, removal, and looking after it."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import mmap
import os
import secrets
import time
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

from asgi_ipc.exceptions import (
    EngineUnavailable,
    OptionError,
    Reentered,
    StoreCorrupt,
    StoreUnavailable,
)

from .. import BUILT_IN
from ..base import IDENTITY_BYTES, NODE_BYTES, Bell
from ..deferred import tell_outside
from ..guards import OwnLock, WeakBag, own_lock
from .bells import FifoBell, Signaller, bell_name, bells_in, is_abandoned, signal_once
from .directory import StoreDirectory
from .heap.heap import Heap, Pause
from .heap.journal import Change
from .heap.layout import (
    BELL_GENERATION_SHIFT,
    BELL_NUMBER_SHIFT,
    CHANGES,
    CHANNELS,
    FLUSHES,
    FORMATTING,
    GROUPS,
    NEXT_SWEEP,
    SLOT_MASK,
    SMALLEST,
)
from .heap.rounds import Rounds
from .interpreter import unsuitable
from .location import location_for, removal, temporary_folder
from .lock_file import LONGEST_NAME
from .locks.base import FIRST_SLOT
from .opening import Gone, Store
from .operation import upkeep_step
from .ownership import NAMES
from .processes import Processes, started
from .queues.queues import Queues
from .segment import Segment
from .spread import LIST
from .tables import Tables

_Self = TypeVar("_Self", bound="Attachment")
_log = logging.getLogger("asgi_ipc")

#: Nanoseconds between two looks after the store.
_LOOK_EVERY = 1_000_000_000
#: Seconds between two holds of the lock by one call, and after how many holds that begins.
_PAUSE, _WITHOUT_PAUSE = 0.0001, 8
#: How many holds of a lock a look goes on sweeping for; and how many if a process has gone: enough
#: for some 700 of its memberships, which no reader sees any more. More would hold up the caller.
_SWEEP_HOLDS, _SWEEP_HOLDS_AFTER_DEATH = 8, 40
#: Nanoseconds until that is gone on with if it was not enough.
_GO_ON_AFTER = 50_000_000
#: How often a look takes the lock to see which processes have died (`Processes.reap`).
_REAPS = 8
#: From how many places of the table on a free slot is looked for.
_LOOKS = 8


class _Swept(Protocol):
    """What is swept in a segment."""

    rounds: Rounds

    def sweep(self, now: int) -> None:
        """Go on with the round; may `Pause`."""


class Attachment:
    """This process in one store. Options (all optional):

    ``directory``  where locks, wake-ups and (mmap) memory lie; default: a directory of
                   this user's own. Processes with the same directory and prefix share a store.
                   An absolute path.
    ``group``      name or number of a group whose members may use the store too.
    ``mode``       permission bits of what is made; 0o600, with ``group`` 0o660, and no other.
    ``clock``      for tests: callable that returns nanoseconds.

    Raises `OptionError` for others.
    """

    #: The memory; the one thing in which the engines differ.
    segment: ClassVar[type[Segment]]
    #: Written into the lock file: 1 to `LONGEST_NAME` printable ASCII characters.
    name: ClassVar[str]

    @classmethod
    def default_parent(cls) -> str:
        """The folder in which a user's own directory is made."""
        return temporary_folder()

    @classmethod
    def argument(cls) -> str:
        """What ``--engine`` of the commands takes for this engine."""
        path = f"{cls.__module__}:{cls.__qualname__}"
        return cls.name if BUILT_IN.get(cls.name) == path else path

    #: False for an engine that looks at a store: it never makes, replaces or removes one.
    _makes = True

    @classmethod
    def of_existing(cls: type[_Self], prefix: str, **options: Any) -> _Self:
        """Join a store that is there, for commands that look at it.

        Raises `StoreUnavailable` if there is none, and also later, once it is gone.
        """
        engine = cls.__new__(cls)
        engine._makes = False
        engine.__init__(prefix, **options)  # type: ignore[misc]
        return engine

    def __init__(
        self,
        prefix: str,
        *,
        channel_memory: int,
        group_memory: int,
        directory: str | os.PathLike[str] | None = None,
        group: str | int | None = None,
        mode: int | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        _check_name(type(self))
        reason = unsuitable()
        if reason is not None:
            raise EngineUnavailable(f"engine {type(self).name!r} can't work here: {reason}")
        if not callable(clock):
            raise OptionError(
                f"engine_options['clock']={clock!r}: it must be callable and return nanoseconds, "
                "as time.monotonic_ns does"
            )
        self._sizes = {}
        for kind, option, size in (
            (CHANNELS, "channel_memory", channel_memory),
            (GROUPS, "group_memory", group_memory),
        ):
            if not isinstance(size, int) or size < SMALLEST:
                raise OptionError(
                    f"{option}={size!r}: an int of at least {SMALLEST} bytes is needed"
                )
            # The system rounds up to its pages, and the size is compared on opening.
            self._sizes[kind] = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        # Where a directory is named, a machine without any other will do.
        parent = self.default_parent() if directory is None else ""
        self._location = location_for(parent, prefix, directory, group, mode)
        self.clock = clock
        #: Begins with the bytes of the first store; none yet.
        self._identity = b""
        self._signaller = Signaller()
        self._bells: WeakBag[FifoBell] = WeakBag()
        self._bell_numbers = 0
        #: What others are to signal for this process (`spread`); made when it is needed.
        self._list: FifoBell | None = None
        self._turns = itertools.count()
        self._next_look = 0
        self._slot = -1
        # For opening, closing and bells; never held while inside the store.
        self._lock = own_lock()
        self._store: Store | None = None
        self._closed = self._opening = False
        self._recovered = False
        self._open()
        _engines.add(self)

    # ---- opening and closing

    def _open(self) -> None:
        self._opening = True
        try:
            while True:
                node = self._identity[:NODE_BYTES]
                store = Store(
                    type(self),
                    self._location,
                    self._sizes,
                    self._on_recovery,
                    node,
                    make=self._makes,
                )
                try:
                    self._enter(store)
                    return
                except Gone:  # removed between the opening and the joining
                    self._store = None
                    store.close()
                except BaseException:
                    self._store = None
                    store.close()
                    raise
        finally:
            self._opening = False

    def _enter(self, store: Store) -> None:
        self._channels, self._groups = (
            store.locked_segments[CHANNELS],
            store.locked_segments[GROUPS],
        )
        self._processes = Processes(self._channels.heap, store.lock_file)
        self._queues = Queues(self._channels.heap, self._processes)
        owner_alive, deaths = self._processes.owner_alive, self._processes.deaths
        self._tables = Tables(self._groups.heap, owner_alive, deaths)
        self._words = self._channels.words
        if not self._identity:
            self._identity = new_identity(store.node())
        # Before the slot: an engine that has a slot has a store.
        self._store = store
        self._join(store)

    def _join(self, store: Store) -> None:
        run, start = store.lock_file.section.run, started()
        try:
            # Slots that have just been left may be held still. So it looks in some places.
            count = self._processes.count
            for first in range(0, count, -(-count // _LOOKS)):
                if run(self._take_slot, start, first):
                    return
            # All are taken. Those of the dead are free from now on, not from the next look on.
            rounds = 0
            while rounds < 2:
                dead, last = run(self._reap_slice)
                rounds += last
                if dead:
                    self._remove_bells(dead)
                    if run(self._take_slot, start, 0):
                        return
            raise self._processes.full()
        except BaseException:
            self._abandon(store)
            raise

    def _abandon(self, store: Store) -> None:
        """Give up the slot, as the dead do: whatever looks next frees it."""
        word = self._processes.owner_word(self._identity)
        self._slot = -1
        if word:
            store.lock_file.release(FIRST_SLOT + (word & SLOT_MASK))

    def _take_slot(self, start: int, first: int) -> bool:
        with self._channels:
            slot = self._processes.join(self._identity, self.clock(), start, first)
            if slot < 0:
                return False
            self._generation = self._processes.generation(slot)
        self._slot = slot
        return True

    def _reap_slice(self) -> tuple[list[bytes], bool]:
        with self._channels:
            return self._processes.reap()

    def _on_recovery(self) -> None:
        # Bells are signalled after leaving the store: a killed process may have owed one.
        self._recovered = True

    @staticmethod
    def _let_go(store: Store | None) -> None:
        if store is not None:
            store.lock_file.section.let_go()

    def inside(self) -> bool:
        """See `Engine.inside`."""
        return self._lock._is_owned() or self._in_store()

    def _in_store(self) -> bool:
        return self._channels.is_inside()

    def _exclusive(self) -> OwnLock:
        """``_lock``, for a method that begins with it. Raises `Reentered`."""
        if self.inside():
            raise Reentered
        return self._lock

    def _reopen(self, store: Store | None) -> None:
        """The store is gone, or this is a forked child: get into the one there is."""
        # In the middle of an entry, another thread may have the lock and wait for its end.
        if self._opening if self._lock._is_owned() else self._in_store():
            raise Reentered
        with self._lock:
            if self._closed:
                raise StoreUnavailable(f"the engine of {self._location.directory!r} is closed")
            if self._store is not store:
                return  # another thread did it
            if store:
                self._slot, self._store = -1, None
                tell_outside(
                    _log.warning,
                    "the store at %r was removed, or replaced by another process; what it held "
                    "is lost, and this process goes on in the store that is there now",
                    self._location.directory,
                )
                # In another store the same words are other bells.
                self._signaller.close()
                if self._makes:
                    # What removed the lock file may have left the memory, which no later
                    # process finds any more.
                    store.remove_rest()
                store.close()
                if self._makes:
                    store.remove_directory()
            self._open()

    def _current(self) -> Store:
        """The store that is there now, open; who calls holds ``_lock``."""
        store = self._inside()
        if not store.is_current():
            self._reopen(store)
        return self._inside()

    def _inside(self) -> Store:
        """The open store, joined. Comes before every entry."""
        store = self._store
        if store is None:
            self._reopen(None)
        elif self._slot < 0:
            if self._in_store():
                raise Reentered
            with self._lock:
                try:
                    if self._slot < 0:
                        self._join(store)
                except Gone:
                    self._reopen(store)
        else:
            return store
        return self._inside()

    @property
    def identity(self) -> bytes:
        """See `Engine.identity`."""
        self._inside()
        return self._identity

    @property
    def flushes(self) -> int:
        """See `Engine.flushes`."""
        while True:
            try:
                return self._words[FLUSHES]
            except ValueError:  # closed, or another thread is just letting go of the memory
                self._inside()

    def close(self) -> None:
        """See `Engine.close`."""
        self._ring_rest()
        with self._exclusive():
            self._close()

    def _close(self) -> None:
        self._closed = True
        slot, store = self._slot, self._store
        self._slot = -1
        self._store = None
        for bell in self._bells.alive():
            bell.close()
        self._signaller.close()
        if store is None:
            return
        try:
            if slot >= 0:
                with contextlib.suppress(Gone, StoreCorrupt):
                    store.lock_file.section.run(self._leave, slot)
                store.lock_file.release(FIRST_SLOT + slot)
        finally:
            current = True
            with contextlib.suppress(StoreUnavailable):
                current = store.is_current()
            store.close()
            if not current and self._makes:
                store.remove_directory()

    def _leave(self, slot: int) -> None:
        with self._channels:
            self._processes.leave(slot)

    def destroy(self) -> None:
        """See `Engine.destroy`."""
        with self._exclusive():
            store = self._current()  # Never one that was taken away, while another stays.
            alive = set()
            with contextlib.suppress(Gone, StoreCorrupt):
                self._reap()
                alive = store.lock_file.section.run(self._present)
            store.lock_file.section.run(store.destroy)
            self._signal_all()
            for identity, name in bells_in(store.directory):
                if identity not in alive:
                    with contextlib.suppress(OSError):
                        store.directory.unlink(name)
            self._close()

    def _present(self) -> set[bytes]:
        """The identities of the processes that have a slot."""
        with self._channels:
            return {self._processes.identity(slot) for slot in self._processes.used()}

    def _after_fork_in_child(self) -> None:
        """Nothing of the parent's is this process's: not its slot, not its bells."""
        self._lock = own_lock()
        self._identity = new_identity(self._identity[:NODE_BYTES])
        for bell in self._bells.alive():
            bell.after_fork()
        self._bells.clear()
        self._list = None
        self._bell_numbers = 0
        self._signaller.after_fork()
        # The mapping is inherited; joining is left to the first use.
        self._slot = -1

    # ---- bells

    def bell(self) -> FifoBell:
        """See `Engine.bell`."""
        with self._exclusive():
            directory = self._current().directory
            used = {bell.number for bell in self._bells.alive() if bell.is_open}
            for _ in range(SLOT_MASK):
                self._bell_numbers = self._bell_numbers % SLOT_MASK + 1
                if self._bell_numbers in used:
                    continue
                with contextlib.suppress(FileExistsError):
                    number = self._bell_numbers
                    bell = FifoBell(directory, self._identity, number, self._ring_more)
                    self._bells.add(bell)
                    return bell
            raise StoreUnavailable(
                f"this process waits with {SLOT_MASK} bells on the store at "
                f"{self._location.directory!r}, the most it can have: use fewer threads and event "
                "loops, or more processes"
            )

    def _own_list(self) -> FifoBell | None:
        """This process's list of bells (`spread`), made if need be; None if there can't be one."""
        owned, store = self._list, self._store
        if owned is not None and owned.fileno() >= 0:
            return owned
        if store is None or self.inside():
            return None
        with contextlib.suppress(OSError, StoreUnavailable), self._lock:
            # Another thread may have made it, or closed the engine, meanwhile.
            if self._list is owned and not self._closed:
                if owned is not None:
                    owned.close()  # It is lost. The next one has the same name.
                self._list = FifoBell(store.directory, self._identity, LIST)
                self._bells.add(self._list)
        return self._list

    def _ring_more(self, signals: bytes) -> None:
        """Ring the bells in the lists that these signals tell of."""
        raise NotImplementedError

    def _ring_rest(self) -> None:
        """Ring what is left in this process's own list."""
        raise NotImplementedError

    def _bell_word(self, bell: Bell) -> int:
        if not isinstance(bell, FifoBell):
            raise TypeError(f"{bell!r} was not made by this engine's bell()")
        return (
            self._generation << BELL_GENERATION_SHIFT
            | bell.number << BELL_NUMBER_SHIFT
            | self._slot
        )

    def _signal_all(self) -> None:
        self._recovered = False
        store = self._store
        if store is not None:
            directory = store.directory.share()
        else:
            # Another thread has just closed it; who waits in other processes is still to be told.
            try:
                directory = StoreDirectory.open(self._location, make=False)
            except (OSError, StoreUnavailable):
                return
        try:
            for identity, name in bells_in(directory):
                if name != bell_name(identity, LIST):
                    signal_once(directory, name)
        finally:
            directory.close()

    # ---- upkeep

    def _follow_flush(self) -> None:
        """A flush is one change, in the channels; the groups follow before they are used."""
        flushes = self._words[FLUSHES]
        words = self._groups.words
        if words[FLUSHES] != flushes:
            change: Change = {FLUSHES: flushes, CHANGES: words[CHANGES] + 1}
            self._groups.heap.commit(change, after=FORMATTING)
            self._groups.format()

    def _pause(self, heap: Heap, holds: int) -> None:
        """Let others have the lock, between two holds of one call, of which there were so many.

        A call needs no more of them than there can be work to do; one that does follows a
        circle in the memory.
        """
        if holds > heap.end // 64 + 64:
            raise StoreCorrupt(
                f"the {NAMES[heap.geometry.kind]} of the store at {self._location.directory!r} "
                "contradict themselves (an operation on them does not end); to start afresh remove "
                f"it with destroy(), or with this command: {removal(self.argument(), self._location)}"
            )
        # Waiters that are awake get in as it is; those asleep need longer to come.
        if holds > _WITHOUT_PAUSE:
            time.sleep(_PAUSE)

    def _maintain(self, now: int) -> None:
        """Do the upkeep that is due. If it fails, it is logged, and tried again in a second.

        It comes before the caller's own work, or when that found nothing, and its errors are not
        the caller's: a record that is taken off a queue must reach its receiver.
        """
        try:
            self._upkeep(now)
        except Reentered:
            pass  # In the middle of another call, which may be at it.
        except Exception as error:
            tell_outside(
                _log.error,
                "upkeep of the store at %r failed, and is tried again: %s",
                self._location.directory,
                error,
                exc_info=None if isinstance(error, (StoreCorrupt, StoreUnavailable)) else error,
            )

    def _upkeep(self, now: int) -> None:
        """See that the store still is the store, free what the dead left, drop what expired.

        Every process that waits or asks comes by about once a second; for what is the
        store's, the first of them does it for all.
        """
        self._next_look = now + _LOOK_EVERY
        store = self._inside()
        current = store.is_current() and not (self._makes and store.leave_if_lost())
        if not current:
            self._reopen(store)
        for bell in self._bells.alive():
            bell.look()
        self._ring_rest()
        if not current:
            return
        try:
            due = now >= self._words[NEXT_SWEEP]
        except ValueError:  # another thread is just letting go of the memory
            return
        if not due:
            return
        self._remove_bells(self._reap())
        self._sweep(now)

    def _reap(self) -> list[bytes]:
        """Free the slots of processes that have died, some at a time; their identities."""
        dead: list[bytes] = []
        for _ in range(_REAPS):
            found, last = self._reap_some()
            dead += found
            if last:
                break
        return dead

    @upkeep_step
    def _reap_some(self) -> tuple[list[bytes], bool]:
        return self._reap_slice()

    def _sweep(self, now: int) -> None:
        """Drop what expired, and what the dead left, for some holds of each lock."""
        if not self._begin_sweep(now):
            return
        done = self._sweep_segment(CHANNELS, now)
        done &= self._sweep_segment(GROUPS, now)
        if not done:
            self._next_look = now + _GO_ON_AFTER
            self._sweep_again(self._next_look)

    @upkeep_step
    def _begin_sweep(self, now: int) -> bool:
        """Note when the next sweep is due; False if another process has begun this one."""
        with self._channels as heap:
            if now < self._words[NEXT_SWEEP]:
                return False
            heap.commit({NEXT_SWEEP: now + _LOOK_EVERY})
        return True

    @upkeep_step
    def _sweep_again(self, when: int) -> None:
        with self._channels as heap:
            heap.commit({NEXT_SWEEP: when})

    def _sweep_segment(self, kind: int, now: int) -> bool:
        """Sweep a segment for a while; False if there is left what a dead process had."""
        holds = 0
        while True:
            holds += 1
            is_complete, is_due = self._sweep_hold(kind, now)
            if is_complete and not is_due:
                return True
            if holds >= (_SWEEP_HOLDS_AFTER_DEATH if is_due else _SWEEP_HOLDS):
                return not is_due
            self._pause(self._channels.heap, holds)

    @upkeep_step
    def _sweep_hold(self, kind: int, now: int) -> tuple[bool, bool]:
        """Sweep for one hold; whether the round is complete, and whether one is due for a death."""
        swept: _Swept = self._queues.upkeep if kind == CHANNELS else self._tables
        with self._channels if kind == CHANNELS else self._groups:
            if kind == GROUPS:
                self._follow_flush()
            is_due = swept.rounds.is_due()
            try:
                swept.sweep(now)
            except Pause:
                return False, is_due
            return True, swept.rounds.is_due()

    def _remove_bells(self, dead: list[bytes]) -> None:
        """Remove the bells of processes that have died; of all, where some were just found dead."""
        store = self._store
        if store is None or not dead:
            return
        directory = store.directory
        for identity, name in bells_in(directory):
            if identity in dead or is_abandoned(directory, name):
                with contextlib.suppress(OSError):
                    directory.unlink(name)


def new_identity(node: bytes) -> bytes:
    """An identity that no process ever had, in the store of that node."""
    return node + secrets.token_bytes(IDENTITY_BYTES - NODE_BYTES)


def _check_name(engine: type[Attachment]) -> None:
    """Refuse a name that would not come back from the lock file as it is."""
    name = getattr(engine, "name", None)
    if (
        not isinstance(name, str)
        or not 1 <= len(name) <= LONGEST_NAME
        or not (name.isascii() and name.isprintable())
    ):
        raise TypeError(
            f"the class {engine.__qualname__} has the name {name!r}; the name of an engine is "
            f"written into the lock file and must be 1 to {LONGEST_NAME} printable ASCII "
            "characters: choose another"
        )


_engines: WeakBag[Attachment] = WeakBag()


def _after_fork_in_child() -> None:
    for engine in _engines.alive():
        engine._after_fork_in_child()


def _at_exit() -> None:
    """Leave properly, so that nobody has to find out that this process is dead."""
    for engine in _engines.alive():
        with contextlib.suppress(Exception):
            engine.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
