"""Being in a store: opening it, joining and leaving, forks, removal, and looking after it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import mmap
import os
import secrets
import time
from collections.abc import Callable
from typing import ClassVar

from ..engines import BUILT_IN
from ..engines.base import IDENTITY_BYTES, Bell
from ..engines.guards import OwnLock, WeakBag, own_lock
from ..exceptions import OptionError, Reentered, StoreCorrupt, StoreUnavailable
from .bells import FifoBell, Ringer, bells_in, is_abandoned, ring_once
from .journal import Change
from .layout import (
    BELL_GENERATION_SHIFT,
    BELL_NUMBER_SHIFT,
    CHANGES,
    CHANNELS,
    DEATHS,
    FLUSHES,
    FORMATTING,
    GROUPS,
    NEXT_TEND,
    SLOT_MASK,
    SMALLEST,
    SWEPT_DEATHS,
)
from .locks import FIRST_SLOT
from .place import place_for, temporary_folder
from .processes import Processes
from .queues import Queues
from .segment import Segment
from .sidecar import LONGEST_NAME
from .store import Gone, Store
from .tables import Tables

_log = logging.getLogger("asgi_ipc")

#: Nanoseconds between two looks after the store.
_LOOK_EVERY = 1_000_000_000
#: A look visits one of so many parts of the hash tables.
_SWEEP_SHARES = 8


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
        self._place = place_for(parent, prefix, directory, group, mode)
        self.clock = clock
        self._identity = secrets.token_bytes(IDENTITY_BYTES)
        self._ringer = Ringer()
        self._bells: WeakBag[FifoBell] = WeakBag()
        self._bell_numbers = 0
        self._next_look = 0
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
                store = Store(type(self), self._place, self._sizes, self._on_recovery)
                try:
                    self._enter(store)
                    self._store = store
                    return
                except Gone:  # removed between the opening and the joining
                    store.close()
                except BaseException:
                    store.close()
                    raise
        finally:
            self._opening = False

    def _enter(self, store: Store) -> None:
        self._channels, self._groups = store.regions[CHANNELS], store.regions[GROUPS]
        self._processes = Processes(self._channels.heap, store.sidecar)
        self._queues = Queues(self._channels.heap, self._processes)
        self._tables = Tables(self._groups.heap, self._processes.owner_alive)
        self._words = self._channels.words
        self._join()

    def _join(self) -> None:
        try:
            with self._channels:
                self._slot = self._processes.join(self._identity)
        except BaseException as error:
            self._let_go(error)
            raise
        self._generation = self._processes.generation(self._slot)

    def _let_go(self, error: BaseException) -> None:
        for region in (self._channels, self._groups):
            region.let_go(error)

    def _on_recovery(self) -> None:
        # Bells are rung after leaving the store: a killed process may have owed one.
        self._recovered = True

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
                raise StoreUnavailable(f"the engine of {self._place.directory!r} is closed")
            if self._store is not store:
                return  # another thread did it
            if store:
                self._store = None
                # In another store the same words are other bells.
                self._ringer.close()
                # Whoever removed it may have left the memory, which nobody finds any more.
                store.remove_memory()
                store.close()
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
                        self._join()
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
        with self._exclusive():
            self._close()

    def _close(self) -> None:
        self._closed = True
        store, self._store = self._store, None
        for bell in self._bells.alive():
            bell.close()
        self._ringer.close()
        if store is None:
            return
        try:
            if self._slot >= 0:
                with contextlib.suppress(Gone, StoreCorrupt), self._channels:
                    self._processes.leave(self._slot)
                store.sidecar.release(FIRST_SLOT + self._slot)
        except BaseException as error:
            self._let_go(error)
            raise
        finally:
            current = True
            with contextlib.suppress(StoreUnavailable):
                current = store.is_current()
            store.close()
            if not current:
                store.remove_directory()

    def destroy(self) -> None:
        """See `Engine.destroy`."""
        with self._exclusive():
            store = self._current()  # Never one that was taken away, while another stays.
            alive = set()
            try:
                with contextlib.suppress(Gone, StoreCorrupt), self._channels:
                    self._processes.reap()
                    alive = {self._processes.identity(slot) for slot in self._processes.used()}
                store.destroy()
            except BaseException as error:
                self._let_go(error)
                raise
            self._ring_all()
            for identity, path in bells_in(self._place):
                if identity not in alive:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
            self._close()

    def _after_fork_in_child(self) -> None:
        """Nothing of the parent's is this process's: not its slot, not its bells."""
        self._lock = own_lock()
        self._identity = secrets.token_bytes(IDENTITY_BYTES)
        for bell in self._bells.alive():
            bell.after_fork()
        self._bells.clear()
        self._bell_numbers = 0
        self._ringer.after_fork()
        # The mapping is inherited; joining is left to the first use.
        self._slot = -1

    # ---- bells

    def bell(self) -> FifoBell:
        """See `Engine.bell`."""
        with self._exclusive():
            self._current()
            self._bell_numbers = self._bell_numbers % SLOT_MASK + 1
            bell = FifoBell(self._place, self._identity, self._bell_numbers)
            self._bells.add(bell)
            return bell

    def _bell_word(self, bell: Bell) -> int:
        if not isinstance(bell, FifoBell):
            raise TypeError(f"{bell!r} was not made by this engine's bell()")
        return (
            self._generation << BELL_GENERATION_SHIFT
            | bell.number << BELL_NUMBER_SHIFT
            | self._slot
        )

    def _ring_all(self) -> None:
        self._recovered = False
        for _, path in bells_in(self._place):
            ring_once(path)

    # ---- upkeep

    def _follow_flush(self) -> None:
        """A flush is one change, in the channels; the groups follow before they are used."""
        flushes = self._words[FLUSHES]
        words = self._groups.words
        if words[FLUSHES] != flushes:
            change: Change = {FLUSHES: flushes, CHANGES: words[CHANGES] + 1}
            self._groups.heap.commit(change, after=FORMATTING)
            self._groups.format()

    def _look_after(self, now: int) -> None:
        """Do the upkeep that is due. If it fails, it is logged, and tried again in a second.

        It comes before the caller's own work, or when that found nothing, and its errors are not
        the caller's: a record that is taken off a queue must reach its receiver.
        """
        try:
            self._upkeep(now)
        except Reentered:
            pass  # In the middle of another call, which may be at it.
        except Exception as error:
            _log.error(
                "upkeep of the store at %r failed, and is tried again: %s",
                self._place.directory,
                error,
                exc_info=not isinstance(error, (StoreCorrupt, StoreUnavailable)),
            )

    def _upkeep(self, now: int) -> None:
        """See that the store still is the store, free what the dead left, drop what expired.

        Every process that waits or asks comes by about once a second; for what is the
        store's, the first of them does it for all.
        """
        self._next_look = now + _LOOK_EVERY
        store = self._inside()
        current = store.is_current()
        if not current:
            self._reopen(store)
        for bell in self._bells.alive():
            bell.look()
        if not current:
            return
        try:
            due = now >= self._words[NEXT_TEND]
        except ValueError:  # another thread is just letting go of the memory
            return
        if not due:
            return
        try:
            with self._channels as heap:
                if now < self._words[NEXT_TEND]:
                    return
                dead = self._processes.reap()
                deaths = self._words[DEATHS]
                # What the dead and the closed left goes at once; the rest bit by bit.
                shares = _SWEEP_SHARES if deaths == self._words[SWEPT_DEATHS] else 1
                heap.commit({NEXT_TEND: now + _LOOK_EVERY, SWEPT_DEATHS: deaths})
                self._queues.upkeep.sweep(now, shares)
            with self._groups:
                self._follow_flush()
                self._tables.sweep(now, shares)
        except Gone:
            self._reopen(store)
            return
        except BaseException as error:
            self._let_go(error)
            raise
        for identity, path in bells_in(self._place) if dead else ():
            if identity in dead or is_abandoned(path):
                with contextlib.suppress(OSError):
                    os.unlink(path)


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
