"""Opening a store: finding, checking or making its two segments.

The lock file decides. Its header has the store's id, from which follows which memory belongs
to it. A store that can't be joined (of another boot, version or engine; its memory is gone, or
was never completed) is replaced if no process uses it, and refused otherwise. It is replaced
under the OPENING lock, with a *new* lock file if the old one may still be in use: then every
process that has the old one sees that it is unlinked and opens again. There are never two stores.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable

from asgi_ipc.exceptions import StoreUnavailable

from ..base import NODE_BYTES
from ..deferred import tell_outside
from .bells import check_fifos
from .directory import StoreDirectory, remove_if_empty
from .errors import remedy_for_memory, unusable
from .files import FileMemory
from .heap import layout
from .heap.layout import CHANNELS, WORD, Geometry
from .location import described
from .lock_file import READY, REMOVED, LockFileHeader, open_lock_file
from .locked_segment import LockedSegment
from .locks.base import OtherLibrary
from .machine import boot_identity
from .queues.rings import recount
from .segment import Segment
from .store import Store, StoreOptions
from .store_memory import attach_own, check_layout, locators, mark, remove_memory

_log = logging.getLogger("asgi_ipc")

#: Seconds that processes of a store get to notice that its memory was removed.
_NOTICE = 3.0
#: Times that new memory may find its name taken, by chance.
_TRIES = 10

#: Bytes of a store's id from which its number of flushes begins.
_FLUSHES_BYTES = 6

_PACKAGE = __name__.partition(".")[0] + "."


def _outside() -> int:
    """Return the stacklevel of the caller of this package, for `warnings.warn`."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


class MemoryMissing(StoreUnavailable):
    """The memory of a store that processes use can't be found from here."""


def open_store(options: StoreOptions, on_recovery: Callable[[], None], node: bytes = b"") -> Store:
    """Open the store, or make it if need be and the options allow that.

    ``on_recovery`` is called after each recovery. ``node`` are the bytes with which the identities
    of a new store's processes begin; without, they are random. Waits for other processes that open
    or remove the store. Raises `StoreUnavailable`.
    """
    return _Opening(options, on_recovery, node).open()


class _Opening:
    """One attempt to open a store."""

    def __init__(self, options: StoreOptions, on_recovery: Callable[[], None], node: bytes) -> None:
        self._options = options
        self._path = options.location.directory
        self._on_recovery = on_recovery
        # Never zeros: the first word of an identity is not zero.
        self._node = node or (1 + secrets.randbelow((1 << 8 * NODE_BYTES) - 1)).to_bytes(
            NODE_BYTES, "big"
        )
        #: What to say once no lock is held: a handler that shows it may use the store.
        self._warnings: list[str] = []
        self._notes: list[tuple[int, str]] = []

    def open(self) -> Store:
        """See `open_store`."""
        try:
            store = self._find()
            if self._options.make:
                self._note_stores_of_others()
        except BaseException:
            if self._options.make:
                remove_if_empty(self._options.location)
            raise
        finally:
            for level, text in self._notes:
                tell_outside(_log.log, level, "%s", text)
        try:
            for text in self._warnings:
                warnings.warn(text, RuntimeWarning, stacklevel=_outside())
        except BaseException:
            store.close()
            raise
        return store

    def _note(self, text: str, level: int = logging.WARNING) -> None:
        self._notes.append((level, text))

    def _note_stores_of_others(self) -> None:
        """Note stores of the same prefix that other users have, as far as this one may see them."""
        if not self._options.location.private:
            return
        folder, prefix = os.path.split(self._path)
        parent, own = os.path.split(folder)
        beginning = own.partition("-")[0] + "-"
        with contextlib.suppress(OSError), os.scandir(parent) as entries:
            for entry in entries:
                if not entry.name.startswith(beginning) or entry.name == own:
                    continue
                with contextlib.suppress(OSError):
                    theirs = os.path.join(entry.path, prefix)
                    user = described(os.lstat(os.path.join(theirs, "lock")).st_uid)
                    self._note(
                        f"there is another store of the prefix {prefix!r} at {theirs!r}, of user"
                        f" {user}: its processes and those of the store at {self._path!r} share no"
                        " messages; if they belong together, run them as one user, or name a group"
                        " in engine_options['group']"
                    )

    def _find(self) -> Store:
        """Get the lock file that is the store's, and attach or create what it says."""
        limit = 0.0
        while True:
            store = self._reach()
            if store is None:
                continue
            try:
                with store.opening() as linked:
                    if linked and self._attach_or_create(store):
                        return store
                store.release()
            except MemoryMissing as error:
                store.release()
                if not self._options.make:
                    raise
                # Processes that have the memory notice that it was removed, and leave it.
                limit = limit or time.monotonic() + _NOTICE
                if time.monotonic() > limit:
                    raise StoreUnavailable(str(error)) from error
                time.sleep(0.05)
            except OSError as error:
                store.release()
                raise unusable("open the store in", self._path, error) from error
            except BaseException:
                store.release()
                raise

    def _reach(self) -> Store | None:
        """Open directory and lock file; None if they were removed meanwhile."""
        location, make = self._options.location, self._options.make
        try:
            directory = StoreDirectory.open(location, make)
        except FileNotFoundError as error:
            raise self._none() from error
        try:
            if make:
                check_fifos(directory)
            return Store(location, directory, open_lock_file(directory, make))
        except FileNotFoundError as error:  # removed between the making and now
            directory.close()
            if not make:
                raise self._none() from error
            return None
        except OSError as error:
            directory.close()
            raise unusable("open the lock file in", self._path, error) from error
        except BaseException:
            directory.close()
            raise

    def _none(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"there is no store at {self._path!r}; name the engine and the engine "
            "options that its processes use"
        )

    # ---- under the opening lock

    def _attach_or_create(self, store: Store) -> bool:
        """Attach or create; False if the lock file had to go and opening must begin again."""
        header = store.lock_file.read()
        boot = boot_identity()
        if header:
            reason = self._attach_unless(store, header, boot)
            if not reason:
                if self._options.make:
                    self._note(
                        f"opened the store at {self._path!r}: engine {self._options.engine}",
                        logging.INFO,
                    )
                return True
            if not self._options.make:
                raise StoreUnavailable(
                    f"the store at {self._path!r} {reason}; the next process "
                    "to open it makes it afresh"
                )
            self._remove_old(store, header, reason)
            if header.ready:
                # Others may still be inside: they must see that this is not the store.
                store.lock_file.unlink()
                return False
        elif not self._options.make:
            raise self._none()
        elif store.lock_file.in_use(b""):
            # It was emptied by hand: processes inside must see that this is not the store.
            self._note(
                f"the lock file of the store at {self._path!r} was emptied while "
                "processes used it; it was replaced, and they will follow"
            )
            store.lock_file.unlink()
            return False
        self._create(store, boot)
        return True

    def _attach_unless(self, store: Store, header: LockFileHeader, boot: bytes) -> str:
        """Attach to the store of that header, or return why it is to be replaced.

        Raises `StoreUnavailable` if it can't be attached and must not be replaced.
        """
        options = self._options
        if header.ready == REMOVED:
            return "was being removed by a process that was killed"
        if header.engine != options.engine:
            why = f"was made by engine {header.engine!r}, this is {options.engine!r}"
            remedy = "choose another prefix or directory"
        elif header.version != layout.VERSION:
            why = f"is of format {header.version}, this asgi_ipc uses format {layout.VERSION}"
            remedy = "end the processes of the other version, or choose another prefix"
        elif header.ready != READY:
            why = "was not completed: the process that made it was killed"
            remedy = "choose another prefix or directory"
        elif header.boot_id != boot:
            why = "is of another boot of this machine, or of another machine or container"
            remedy = (
                "a store serves processes that see the same boot id "
                "(/proc/sys/kernel/random/boot_id) and are in the same time namespace; name "
                "another engine_options['directory']"
            )
        else:
            try:
                self._attach(store, header)
            except FileNotFoundError as error:
                if isinstance(error, OtherLibrary):
                    why = "has semaphores of another C library (of glibc or musl)"
                    remedy = (
                        "All its processes must have the same, or share an "
                        "engine_options['directory'] outside /dev/shm, where a store has none."
                    )
                else:
                    why = "has memory or semaphores that can't be seen from here"
                    remedy = (
                        "All its processes must see the same shared memory, /dev/shm included: no "
                        "PrivateIPC= for a service, one --ipc for all containers or an "
                        "engine_options['directory'] that they share with engine 'mmap'. If it "
                        f"was removed by hand, end them, or run: {options.removal()}"
                    )
                if store.lock_file.in_use(header.store_id):
                    raise MemoryMissing(
                        f"the store at {self._path!r} {why}, and processes use it. {remedy}"
                    ) from None
                return why
            if not store.is_destroyed():
                return ""
            # Its processes know that it is gone; the one that destroyed it was killed.
            store.close_segments()
            return "was being destroyed by a process that was killed"
        if store.lock_file.in_use(header.store_id):
            raise StoreUnavailable(
                f"the store at {self._path!r} {why}, and processes still use it; {remedy}"
            )
        if header.version != layout.VERSION and header.engine == options.engine:
            self._warnings.append(
                f"the store at {self._path!r} {why}; nobody used it any more, so it "
                "made place for a fresh one"
            )
        return why

    def _remove_old(self, store: Store, header: LockFileHeader, reason: str) -> None:
        """Remove the memory and locks of a store that is to be replaced."""
        what = f"the store at {self._path!r} {reason}"
        options = self._options
        segment: type[Segment] | None = options.segment
        if header.engine != options.engine:
            # The name is read from the lock file: it must not lead to the import of anything.
            segment = options.segment_of(header.engine)
        if segment is None:
            raise StoreUnavailable(
                f"{what}, which is not to be had here, so its memory can't be removed; choose "
                "another prefix or directory, or destroy() the store with that engine"
            )
        try:
            left = remove_memory(segment, store.directory, header.store_id)
        except PermissionError as error:
            raise StoreUnavailable(
                f"{what} and is to be replaced, but its memory belongs to another user, who "
                f"alone may remove it ({error.strerror}); let a process of that user start "
                "first, or choose another prefix"
            ) from error
        store.lock_file.remove_locks(header.store_id)
        for text in left:
            self._note(text)
        self._note(f"{what}; it was replaced by a new one")

    def _attach(self, store: Store, header: LockFileHeader) -> None:
        options = self._options
        store.lock_file.prepare(header.store_id, create=False)
        locked_segments = {}
        try:
            for kind, locator in locators(options.segment, header.store_id).items():
                segment = attach_own(options.segment, store.directory, locator, header.store_id)
                try:
                    if not segment.view.nbytes:
                        raise FileNotFoundError(errno.ENOENT, "it has no bytes any more", locator)
                    check_layout(kind, segment, locator, options.removal)
                    self._check_taken(kind, segment, locator)
                    locked_segments[kind] = self._locked_segment(store, kind, segment)
                except BaseException:
                    segment.close()
                    raise
        except BaseException:
            for locked_segment in locked_segments.values():
                locked_segment.close()
            raise
        store.use(header, locked_segments)
        for kind, locked_segment in locked_segments.items() if options.make else ():
            size, asked = locked_segment.heap.geometry.size, options.sizes[kind]
            if size != asked:
                option = "channel_memory" if kind == CHANNELS else "group_memory"
                text = (
                    f"the store at {self._path!r} was made with {option}={size}; that size stays, "
                    f"and {asked} is ignored; to change it destroy() the store, which drops what "
                    "it holds"
                )
                self._warnings.append(text)
                if _log.hasHandlers():  # Else both would be shown on standard error.
                    self._note(text)

    def _check_taken(self, kind: int, segment: Segment, locator: str) -> None:
        """Refuse memory that a member of the group has made larger than it was.

        It costs that member nothing, and a process that uses it would take all of the machine's
        memory for it.
        """
        fixed = Geometry.of(kind, segment.view.nbytes).first_extent * WORD
        if (
            self._options.location.gid is not None
            and isinstance(segment, FileMemory)
            and segment.is_stretched(fixed)
        ):
            raise StoreUnavailable(
                f"{locator!r} has {segment.view.nbytes:,} bytes, and of the {fixed:,} that a store "
                "of that size begins with not all were ever taken: a member of the group has "
                "stretched it; remove it and the lock file, or choose another prefix"
            )

    def _locked_segment(self, store: Store, kind: int, segment: Segment) -> LockedSegment:
        return LockedSegment(
            kind, segment, store.lock_file, self._on_recovery, recount, self._options.removal
        )

    # ---- making

    def _create(self, store: Store, boot: bytes) -> None:
        """Make both segments: first say whose they will be, then make them, then say ready."""
        options = self._options
        for tries in range(_TRIES):
            header = LockFileHeader(
                0, secrets.token_bytes(16), boot, options.engine, layout.VERSION
            )
            try:
                self._create_as(store, header)
                break
            except FileExistsError as error:
                if tries == _TRIES - 1:
                    raise self._no_memory(error) from error
        channels, groups = options.sizes[CHANNELS], options.sizes[layout.GROUPS]
        self._note(
            f"made the store at {self._path!r}: engine {options.engine}, "
            f"channel_memory={channels}, group_memory={groups}",
            logging.INFO,
        )

    def _create_as(self, store: Store, header: LockFileHeader) -> None:
        lock_file, segment = store.lock_file, self._options.segment
        locked_segments: dict[int, LockedSegment] = {}
        try:
            lock_file.write(header)
            lock_file.prepare(header.store_id, create=True)
            for kind, locator in locators(segment, header.store_id).items():
                locked_segments[kind] = self._create_one(store, kind, locator, header.store_id)
            lock_file.write(header._replace(ready=READY))
        except BaseException as error:
            again = isinstance(error, FileExistsError)
            # While there still is something to look at.
            refusal = None
            if isinstance(error, (OSError, OverflowError)) and not again:
                refusal = self._no_memory(error)
            for locked_segment in locked_segments.values():
                with contextlib.suppress(OSError):
                    locked_segment.segment.unlink()
                locked_segment.close()
            with contextlib.suppress(OSError):
                lock_file.remove_locks(header.store_id)
            if not again:
                with contextlib.suppress(OSError):
                    lock_file.unlink()
            if refusal:
                raise refusal from error
            raise
        store.use(header._replace(ready=READY), locked_segments)

    def _create_one(self, store: Store, kind: int, locator: str, store_id: bytes) -> LockedSegment:
        size = self._options.sizes[kind]
        segment = self._options.segment.create(store.directory, locator, size)
        try:
            geometry = Geometry.of(kind, size)
            segment.reserve(0, geometry.first_extent * WORD)
            # First, so that memory of a creator that is killed can be told.
            mark(segment.view, store_id, self._path)
            locked_segment = self._locked_segment(store, kind, segment)
        except BaseException:
            with contextlib.suppress(OSError):
                segment.unlink()
            segment.close()
            raise
        words, view = locked_segment.words, segment.view
        words[layout.W_BYTE_ORDER] = layout.BYTE_ORDER
        words[layout.W_VERSION], words[layout.W_KIND] = layout.VERSION, kind
        words[layout.W_SIZE], words[layout.W_EXTENT_WORDS] = size, geometry.extent_words
        words[layout.W_BUCKETS] = geometry.buckets
        # Not from zero: a process that follows from a store to the next one must see a difference.
        words[layout.FLUSHES] = int.from_bytes(store_id[:_FLUSHES_BYTES], "big")
        start = layout.W_HASH_KEY * WORD
        view[start : start + layout.HASH_KEY_BYTES] = secrets.token_bytes(layout.HASH_KEY_BYTES)
        if kind == CHANNELS:
            view[layout.W_NODE * WORD : layout.W_NODE * WORD + NODE_BYTES] = self._node
        locked_segment.format()
        view[layout.W_MAGIC : layout.W_MAGIC + 8] = layout.MAGIC
        return locked_segment

    def _no_memory(self, error: Exception) -> StoreUnavailable:
        asked = sum(self._options.sizes.values())
        if isinstance(error, FileExistsError):
            return StoreUnavailable(
                f"can't make a store: its names were taken {_TRIES} times ({error.filename!r}), by "
                f"another program or user, while it was made in "
                f"{self._options.segment.space(self._path)}; end that one, or choose another "
                "engine"
            )
        told = getattr(error, "strerror", None) or error
        remedy = (
            "use a smaller channel_memory and group_memory, another engine, or more shared "
            "memory (--shm-size for a container)"
        )
        return StoreUnavailable(
            f"can't make a store of {asked:,} bytes ({told}): "
            f"{self._options.segment.space(self._path)}; {remedy_for_memory(error, remedy)}"
        )
