"""A process's session in a store: opening it, joining it, following it, and leaving it.

A session outlives its store. If another process removes or replaces the store, the session opens
the one that is there then; a forked child joins the store anew.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable
from functools import partial, wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

from asgi_ipc.exceptions import Reentered, StoreCorrupt, StoreUnavailable

from ..base import IDENTITY_BYTES, NODE_BYTES, Bell
from ..bell import signal_for
from ..deferred import register, tell_outside
from ..guards import WeakBag, own_lock
from ..process_hints import start_ticks
from .bells import (
    LIST,
    FifoBell,
    OwnBells,
    Signaller,
    bell_name,
    bells_in,
    open_fifo,
    remove_bells,
    signal_all,
)
from .critical_section import hold_lock, is_interruption
from .directory import StoreDirectory
from .heap import layout
from .heap.heap import Heap
from .heap.journal import Change
from .heap.layout import CHANGES, CHANNELS, FLUSHES, FORMATTING, GROUPS, NODES, SLOT_MASK
from .lock_file import OpeningLocks
from .locked_segment import LockedSegment
from .locks.base import FIRST_ROLE, FIRST_SLOT, Gone
from .opening import open_store
from .processes import Processes
from .queues.queues import Queues
from .spread import DIRECT, ask_helpers, enlist, requests_in, signal_listed
from .store import Store, StoreOptions
from .store_memory import NAMES
from .tables import Tables

_log = logging.getLogger("asgi_ipc")

P = ParamSpec("P")
Result = TypeVar("Result")

#: Seconds between two holds of the lock by one call, and after how many holds that begins.
_PAUSE, _WITHOUT_PAUSE = 0.0001, 8
#: From how many parts of the table on a free slot is looked for.
_LOOKS = 8


def _exclusive(
    method: Callable[Concatenate[Session, P], Result],
) -> Callable[Concatenate[Session, P], Result]:
    """Make a method that has the session's lock. Raises `Reentered` where that would not end."""

    @wraps(method)
    def alone(self: Session, *arguments: P.args, **named: P.kwargs) -> Result:
        if self.is_inside():
            raise Reentered
        return hold_lock(self.lock, method, self, *arguments, **named)

    return cast("Callable[Concatenate[Session, P], Result]", alone)


class Session:
    """This process in one store. Raises `StoreUnavailable` if it can't be opened."""

    #: The store's parts, which are others once another store is open. In one of the two segments
    #: they are those of its store; ``slot`` and ``store`` are not if another thread is closing it.
    store_id: bytes
    channels: LockedSegment
    groups: LockedSegment
    processes: Processes
    queues: Queues
    tables: Tables
    #: Those of the channels segment.
    words: memoryview
    #: What is the same in the words of its bells. It stays while another thread gives up the slot.
    _bells_word: int

    def __init__(self, options: StoreOptions, clock: Callable[[], int]) -> None:
        self.options = options
        self.location = options.location
        self.clock = clock
        #: Begins with the bytes of the first store; empty until that is open.
        self.identity = b""
        self.signaller = Signaller()
        self.bells = OwnBells()
        self._broadcasts = itertools.count()
        #: The slot of this process; -1 while it has none. While it has one, ``store`` is open.
        self.slot = -1
        self.store: Store | None = None
        #: The roles that this process holds, with the stores in which it took them.
        self._roles: dict[int, Store] = {}
        #: A process was killed inside the store, and may have owed a signal: see `signal_all`.
        self.recovered = False
        # For opening, closing and bells. It comes before the critical section: see `hold_lock`.
        self.lock = own_lock()
        self._closed = self._opening = False
        self._open()
        _sessions.add(self)

    # ---- opening and joining

    def _open(self) -> None:
        # For as long as it lives.
        holder = OpeningLocks()
        register(holder)
        self._opening = True
        try:
            while True:
                node = self.identity[:NODE_BYTES]
                store = open_store(self.options, self._on_recovery, node)
                try:
                    self._enter(store)
                    return
                except Gone:  # removed between the opening and the joining
                    self.store = None
                    store.close()
                except BaseException:
                    self.store = None
                    store.close()
                    raise
        finally:
            self._opening = False

    def _enter(self, store: Store) -> None:
        channels, groups = store.locked_segments[CHANNELS], store.locked_segments[GROUPS]
        self.store_id = store.store_id
        self.processes = processes = Processes(channels.heap, store.lock_file)
        self.queues = Queues(channels.heap, processes)
        self.tables = Tables(groups.heap, processes.owner_alive, processes.deaths)
        self.words = channels.words
        # After the other parts: a thread that gets into one of these finds those that go with it.
        self.channels, self.groups = channels, groups
        if not self.identity:
            self.identity = new_identity(store.node())
        # Before the slot: a session that has a slot has a store.
        self.store = store
        self._join(store)

    def _join(self, store: Store) -> None:
        run, start = store.lock_file.section.run, start_ticks()
        try:
            # Slots that have just been left may be held still. So it looks in some places.
            count = self.processes.count
            for first in range(0, count, -(-count // _LOOKS)):
                if run(self._take_slot, start, first):
                    return
            # All are taken. Those of the dead are free from now on, not from the next look on.
            rounds = 0
            while rounds < 2:
                dead, last = run(self.reap_some)
                rounds += last
                if dead:
                    self.remove_bells(dead)
                    if run(self._take_slot, start, 0):
                        return
            raise self.processes.full()
        except BaseException:
            self._abandon(store)
            raise

    def _abandon(self, store: Store) -> None:
        """Give up the slot, as the dead do: the next process to look frees it."""
        word = self.processes.owner_word(self.identity)
        self.slot = -1
        self.queues.let_none_peek()
        if word:
            store.lock_file.release(FIRST_SLOT + (word & SLOT_MASK))

    def _take_slot(self, start: int, first: int) -> bool:
        with self.channels:
            slot = self.processes.join(self.identity, self.clock(), start, first)
            if slot < 0:
                return False
            generation = self.processes.generation(slot)
            self.processes.own = slot
        self._bells_word = generation << layout.BELL_GENERATION_SHIFT | slot
        self.slot = slot
        return True

    def reap_some(self) -> tuple[list[bytes], bool]:
        """Free the slots of some processes that have died, see `Processes.reap`."""
        with self.channels:
            return self.processes.reap()

    def _on_recovery(self) -> None:
        # Bells are signalled after leaving the store.
        self.recovered = True

    # ---- being in the store

    def joined(self) -> Store:
        """Return the open store, joined. Comes before every entry."""
        store = self.store
        if store is None:
            self.reopen(None)
        elif self.slot < 0:
            if self._is_in_store():
                raise Reentered
            hold_lock(self.lock, self._join_again, store)
        else:
            return store
        return self.joined()

    def _join_again(self, store: Store) -> None:
        # Unless another thread did it meanwhile, or has closed the session.
        if self.slot < 0 and self.store is store:
            try:
                self._join(store)
                self._tell("a forked child joined the store at %r")
            except Gone:
                self.reopen(store)

    def reopen(self, store: Store | None) -> None:
        """Open the store that there is now: ``store`` is gone, or None for a forked child.

        As all that waits for ``lock``, never called within a segment.
        """
        # In the middle of an entry, another thread may have the lock and wait for its end.
        if self._opening if self.lock._is_owned() else self._is_in_store():
            raise Reentered
        hold_lock(self.lock, self._reopen, store)

    def _reopen(self, store: Store | None) -> None:
        if self._closed:
            raise StoreUnavailable(f"the engine of {self.location.directory!r} is closed")
        if self.store is not store:
            return  # another thread did it
        if store:
            self._leave_behind(store)
        self._open()

    def _leave_behind(self, store: Store) -> None:
        """Close a store that is not the store any more."""
        self.slot, self.store = -1, None
        tell_outside(
            _log.warning,
            "the store at %r was removed, or replaced by another process; what it held is lost%s",
            self.location.directory,
            # Another process's store may be there, or none.
            ", and this process goes on in the store that is there now" * self.options.make,
        )
        # In another store the same words are other bells.
        self.signaller.close()
        if self.options.make:
            # The process that removed the lock file may have left the memory, which no later
            # process finds any more.
            store.remove_rest()
        store.close()
        if self.options.make:
            store.remove_directory()

    def current(self) -> Store:
        """Return the store that is there now, joined. The caller holds ``lock``."""
        store = self.joined()
        if not store.is_current():
            self.reopen(store)
        return self.joined()

    @staticmethod
    def let_go(store: Store | None) -> None:
        """Give back what an exception left of the store's locks."""
        if store is not None:
            store.lock_file.section.let_go()

    def is_inside(self) -> bool:
        """Whether the calling thread is in the middle of a call that has a lock."""
        return self.lock._is_owned() or self._is_in_store()

    def _is_in_store(self) -> bool:
        return self.channels.is_inside()

    def pause(self, heap: Heap, holds: int) -> None:
        """Let others have the lock, between two holds of one call, of which there were so many.

        A call needs no more of them than there can be work to do; one that does follows a
        circle in the memory.
        """
        if holds > heap.end // 64 + 64:
            raise StoreCorrupt(
                f"the {NAMES[heap.geometry.kind]} of the store at {self.location.directory!r} "
                "contradict themselves (an operation on them does not end); to start afresh remove "
                f"it with destroy(), or with this command: {self.options.removal()}"
            )
        # Waiters that are awake get in as it is; those asleep need longer to come.
        if holds > _WITHOUT_PAUSE:
            time.sleep(_PAUSE)

    def follow_flush(self) -> None:
        """Empty the groups if the store was flushed; needs their lock.

        A flush is one change, in the channels; the groups follow before they are used.
        """
        flushes = self.words[FLUSHES]
        words = self.groups.words
        if words[FLUSHES] != flushes:
            change: Change = {FLUSHES: flushes, CHANGES: words[CHANGES] + 1}
            self.groups.heap.commit(change, after=FORMATTING)
            self.groups.format()

    # ---- roles

    @_exclusive
    def hold(self, role: int) -> bool:
        """See `Engine.hold`."""
        store = self.current()
        if self._roles.get(role) is store:
            return True
        self._roles.pop(role, None)
        try:
            if not store.lock_file.section.run(self._take_role, store, role):
                return False
        except BaseException:
            store.lock_file.release(FIRST_ROLE + role)
            raise
        self._roles[role] = store
        return True

    @staticmethod
    def _take_role(store: Store, role: int) -> bool:
        section = store.lock_file.section
        # One thread at a time: a look at a lock, between two steps of taking it, would drop it.
        section.enter()
        try:
            return store.lock_file.hold(FIRST_ROLE + role)
        finally:
            section.leave()

    @_exclusive
    def is_held(self, role: int) -> bool:
        """See `Engine.is_held`."""
        store = self.current()
        return store.lock_file.section.run(self._is_role_held, store, role)

    @staticmethod
    def _is_role_held(store: Store, role: int) -> bool:
        section = store.lock_file.section
        section.enter()
        try:
            return store.lock_file.is_held(FIRST_ROLE + role)
        finally:
            section.leave()

    @_exclusive
    def release_role(self, role: int) -> None:
        """See `Engine.release`."""
        store = self._roles.pop(role, None)
        if store is not None and store is self.store:
            store.lock_file.release(FIRST_ROLE + role)

    # ---- bells

    @_exclusive
    def bell(self) -> FifoBell:
        """See `Engine.bell`."""
        return self.bells.make(self.current().directory, self.identity, self._help_with)

    def bell_word(self, bell: Bell) -> int:
        """Return the word by which the store knows a bell of this process."""
        if not isinstance(bell, FifoBell):
            raise TypeError(f"{bell!r} was not made by this engine's bell()")
        return self._bells_word | bell.number << layout.BELL_NUMBER_SHIFT

    def signal(self, queue: bytes, bell: int, request: bytes = b"") -> bool:
        """Signal a bell that was taken off a queue; if no process hears it, the next one.

        A ``request`` for help (`spread`) follows the signal. Returns whether a process heard it.

        What it signals for is done, so no error leaves it: a receiver that misses a signal polls
        again by itself.
        """
        signal = signal_for(queue) + request
        for _ in range(NODES):
            try:
                if self.processes.bell_alive(bell) and self.signaller.signal(
                    bell, self._open_bell, signal
                ):
                    return True
                bell = self._next_bell(queue)
                if not bell:
                    break
            except (ValueError, IndexError):
                # Another thread is just letting go of the memory, where the bells have names.
                self.signal_all()
                break
            except (Gone, Reentered, StoreCorrupt, StoreUnavailable):
                break
        return False

    def _next_bell(self, queue: bytes) -> int:
        return self.joined().lock_file.section.run(self._take_bell, queue)

    def _take_bell(self, queue: bytes) -> int:
        with self.channels:
            return self.queues.next_bell(queue)

    def _open_bell(self, bell: int) -> int:
        """Open for writing a bell that is alive. Raises OSError."""
        identity = self.processes.identity(bell & layout.SLOT_MASK)
        name = bell_name(identity, bell >> layout.BELL_NUMBER_SHIFT & layout.SLOT_MASK)
        store = self.store
        if store is None:  # Another thread is just leaving it.
            raise FileNotFoundError(errno.ENOENT, "the store is closed", name)
        return open_fifo(store.directory, name)

    def spread(self, bells: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """Have helpers signal many bells (`spread`); return those that are left to the caller."""
        if len(bells) <= DIRECT:
            return bells
        slot, own = self.slot, self._own_list()
        if slot < 0 or own is None:
            return bells
        # Helping takes time, so the helpers change from push to push.
        first = next(self._broadcasts) % len(bells)
        left = enlist(own, bells[first:] + bells[:first])
        own.use(partial(ask_helpers, slot, self.signal), None)
        return left

    def _own_list(self) -> FifoBell | None:
        """Return the list of this process, made if need be; None if there can't be one."""
        own, store = self.bells.list, self.store
        if own is not None and own.fileno() >= 0:
            return own
        if store is None or self.is_inside():
            return None
        with contextlib.suppress(OSError, Reentered, StoreUnavailable):
            hold_lock(self.lock, self._make_list, store, own)
        return self.bells.list

    def _make_list(self, store: Store, lost: FifoBell | None) -> None:
        # Another thread may have made it, or closed the session, meanwhile.
        if self.bells.list is lost and not self._closed:
            self.bells.make_list(store.directory, self.identity)

    def signal_own_list(self) -> None:
        """Signal the bells that no helper has taken from the list of this process."""
        own = self.bells.list
        if own is not None:
            own.use(partial(signal_listed, self.signal), None)

    def _help_with(self, signals: bytes) -> None:
        """Signal the bells in the lists of the processes that request it among these signals."""
        for slot in requests_in(signals):
            store = self.store
            # Another thread is just leaving it; or a queue's hint looks like a request.
            if store is None or slot >= self.processes.count:
                continue
            # Its process is gone, or has no list; or the memory is just being released.
            with contextlib.suppress(OSError, ValueError, IndexError):
                name = bell_name(self.processes.identity(slot), LIST)
                reader = open_fifo(store.directory, name, os.O_RDONLY)
                try:
                    signal_listed(self.signal, reader)
                finally:
                    os.close(reader)

    def signal_all(self) -> None:
        """Signal every bell of the store, of all processes."""
        self.recovered = False
        store = self.store
        if store is not None:
            directory = store.directory.share()
        else:
            # Another thread has just closed it; receivers elsewhere are still to be told.
            try:
                directory = StoreDirectory.open(self.location, make=False)
            except (OSError, StoreUnavailable):
                return
        try:
            signal_all(directory)
        finally:
            directory.close()

    def remove_bells(self, dead: list[bytes]) -> None:
        """Remove the bells of processes that have died; of all, if some were just found dead."""
        store = self.store
        if store is not None and dead:
            remove_bells(store.directory, dead)

    # ---- leaving

    def close(self) -> None:
        """See `Engine.close`."""
        self.signal_own_list()
        if self._close_whole():
            self._tell("left the store at %r")

    @_exclusive
    def _close_whole(self) -> bool:
        """Close, and return whether it was open."""
        _check_not_half()
        was_open = self.store is not None and self.slot >= 0
        self._close()
        return was_open

    def _tell(self, text: str) -> None:
        """Log an event in the life of the store, unless this session only looks at it."""
        if self.options.make:
            tell_outside(_log.info, text, self.location.directory)

    def _close(self) -> None:
        self._closed = True
        slot, store = self.slot, self.store
        self.slot = -1
        self.store = None
        self.bells.close()
        self.signaller.close()
        if store is None:
            return
        try:
            if slot >= 0:
                with contextlib.suppress(Gone, StoreCorrupt):
                    store.lock_file.section.run(self._leave, slot)
                store.lock_file.release(FIRST_SLOT + slot)
            for role in [role for role, taken_in in self._roles.items() if taken_in is store]:
                store.lock_file.release(FIRST_ROLE + role)
        finally:
            self._roles.clear()
            current = True
            with contextlib.suppress(StoreUnavailable):
                current = store.is_current()
            store.close()
            if not current and self.options.make:
                store.remove_directory()

    def _leave(self, slot: int) -> None:
        with self.channels:
            self.processes.leave(slot)

    def destroy(self, reap: Callable[[], object]) -> None:
        """See `Engine.destroy`. ``reap`` frees the slots of processes that have died."""
        self._destroy(reap)
        self._tell("destroyed the store at %r")

    @_exclusive
    def _destroy(self, reap: Callable[[], object]) -> None:
        _check_not_half()
        self.current()
        with contextlib.suppress(Gone, StoreCorrupt):
            reap()
        # Another process may have removed the store meanwhile, and the reaping goes on in the
        # next one. Never one that was taken away, while another stays.
        store = self.current()
        run = store.lock_file.section.run
        alive = set()
        with contextlib.suppress(Gone, StoreCorrupt):
            alive = run(self._present)
        run(store.destroy)
        self.signal_all()
        for identity, name in bells_in(store.directory):
            if identity not in alive:
                with contextlib.suppress(OSError):
                    store.directory.unlink(name)
        self._close()

    def see(self) -> None:
        """Note that this process is not in the middle of a peek, see `heap.returns`."""
        # Another thread may just be letting go of the memory.
        with contextlib.suppress(ValueError):
            if self.slot >= 0 and self.queues.peeks:
                self.processes.see()

    def _present(self) -> set[bytes]:
        """The identities of the processes that have a slot."""
        with self.channels:
            return {self.processes.identity(slot) for slot in self.processes.used()}

    def after_fork_in_child(self) -> None:
        """Have nothing of the parent's: not its slot, not its bells."""
        self.lock = own_lock()
        self.identity = new_identity(self.identity[:NODE_BYTES])
        self.bells.after_fork_in_child()
        self.signaller.after_fork_in_child()
        # The mapping is inherited; joining is left to the first use.
        self.slot = -1
        self._roles = {}
        self.queues.let_none_peek()


def _check_not_half() -> None:
    """Raise `Reentered` where closing might have to end halfway.

    Code that interrupted another call does not wait for the critical section.
    """
    if is_interruption():
        raise Reentered


def new_identity(node: bytes) -> bytes:
    """Return an identity that no process ever had, in the store of that node."""
    return node + secrets.token_bytes(IDENTITY_BYTES - NODE_BYTES)


_sessions: WeakBag[Session] = WeakBag()


def _after_fork_in_child() -> None:
    for session in _sessions.alive():
        session.after_fork_in_child()


def _at_exit() -> None:
    """Leave properly, so that no process has to find out that this one is dead."""
    for session in _sessions.alive():
        with contextlib.suppress(Exception):
            session.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
