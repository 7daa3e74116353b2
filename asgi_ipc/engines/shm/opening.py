"""Opening a store: finding, checking or making its two segments.

The lock file decides. Its record has the store's id, from which follows which memory belongs
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
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from asgi_ipc.exceptions import StoreCorrupt, StoreUnavailable

from ..base import NODE_BYTES
from ..deferred import tell_outside
from .bells import check_fifos
from .boot import boot_identity as boot_identity
from .directory import StoreDirectory, remove_if_empty
from .files import FileMemory
from .heap.layout import (
    BYTE_ORDER,
    CHANNELS,
    DESTROYED,
    FLUSHES,
    GROUPS,
    HASH_KEY_BYTES,
    MAGIC,
    VERSION,
    W_BUCKETS,
    W_BYTE_ORDER,
    W_EXTENT_WORDS,
    W_HASH_KEY,
    W_KIND,
    W_MAGIC,
    W_NODE,
    W_SIZE,
    W_VERSION,
    WORD,
    Geometry,
)
from .location import described, remedy_for, removal, unusable
from .lock_file import READY, REMOVED, Record, open_lock_file
from .locked_segment import LockedSegment
from .locks.base import Gone as Gone
from .ownership import (
    attach_own,
    check_layout,
    locators,
    mark,
    remove_memory,
)
from .segment import Location, Segment

if TYPE_CHECKING:
    from .session import Attachment


_log = logging.getLogger("asgi_ipc")

#: Seconds that processes of a store get to notice that its memory was removed.
_NOTICE = 3.0
#: Times that new memory may find its name taken, by chance.
_TRIES = 10

_PACKAGE = __name__.partition(".")[0] + "."


def _outside() -> int:
    """For `warnings.warn`, the stacklevel of whoever called this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


class Missing(StoreUnavailable):
    """The memory of a store that processes use can't be found from here."""


class Store:
    """The two segments of a store, open in this process."""

    def __init__(
        self,
        engine: type[Attachment],
        location: Location,
        sizes: dict[int, int],
        on_recovery: Callable[[], None],
        node: bytes = b"",
        make: bool = True,
    ) -> None:
        """Open it, or make it if ``make`` is true, with ``node`` if one is given.

        Without ``make`` nothing is made, replaced or removed. Raises `StoreUnavailable`.
        """
        self.location = location
        self._segment = engine.segment
        self._engine = engine
        self._sizes = sizes
        self._on_recovery = on_recovery
        # Never zeros: the first word of an identity is not zero.
        self._node = node or (1 + secrets.randbelow((1 << 8 * NODE_BYTES) - 1)).to_bytes(
            NODE_BYTES, "big"
        )
        self._make = make
        self.locked_segments: dict[int, LockedSegment] = {}
        #: What to say once no lock is held: a handler that shows it may use the store.
        self._warnings: list[str] = []
        self._notes: list[tuple[int, str]] = []
        try:
            self._find()
        except BaseException:
            if make:
                self.remove_directory()
            raise
        finally:
            for level, text in self._notes:
                tell_outside(_log.log, level, "%s", text)
        self.store_id = self._record.store_id
        try:
            for text in self._warnings:
                warnings.warn(text, RuntimeWarning, stacklevel=_outside())
        except BaseException:
            self.close()
            raise

    def _find(self) -> None:
        """Get the lock file that is the store's, and attach or create what it says."""
        path = self.location.directory
        limit = 0.0
        while True:
            try:
                self.directory = StoreDirectory.open(self.location, self._make)
            except FileNotFoundError as error:
                raise self._none() from error
            try:
                if self._make:
                    check_fifos(self.directory)
                self.lock_file = open_lock_file(self.directory, self._make)
            except FileNotFoundError as error:  # removed between the making and now
                self.directory.close()
                if not self._make:
                    raise self._none() from error
                continue
            except OSError as error:
                self.directory.close()
                raise unusable("open the lock file in", path, error) from error
            except BaseException:
                self.directory.close()
                raise
            try:
                with self._opening() as linked:
                    if linked and self._open():
                        return
                self._release()
            except Missing as error:
                self._release()
                if not self._make:
                    raise
                # Processes that have the memory notice that it was removed, and leave it.
                limit = limit or time.monotonic() + _NOTICE
                if time.monotonic() > limit:
                    raise StoreUnavailable(str(error)) from error
                time.sleep(0.05)
            except OSError as error:
                self._release()
                raise unusable("open the store in", path, error) from error
            except BaseException:
                self._release()
                raise

    def _none(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"there is no store at {self.location.directory!r}; name the engine and the engine "
            "options that its processes use"
        )

    @contextlib.contextmanager
    def _opening(self) -> Iterator[bool]:
        """Be alone among openers; yields whether the lock file still is the store's."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.lock_file.opening())
            except Gone:  # a forked child may find it so
                yield False
                return
            yield self.is_current()

    # ---- under the opening lock

    def _open(self) -> bool:
        """Attach or create; False if the lock file had to go and opening must begin again."""
        record = self.lock_file.read()
        boot = boot_identity()
        if record:
            reason = self._attach_unless(record, boot)
            if not reason:
                return True
            if not self._make:
                raise StoreUnavailable(
                    f"the store at {self.location.directory!r} {reason}; the next process to open it "
                    "makes it afresh"
                )
            self._remove_old(record, reason)
            if record.ready:
                # Others may still be inside: they must see that this is not the store.
                self.lock_file.unlink()
                return False
        elif not self._make:
            raise self._none()
        elif self.lock_file.in_use(b""):
            # It was emptied by hand: those who are inside must see that this is not the store.
            text = (
                f"the lock file of the store at {self.location.directory!r} was emptied while "
                "processes used it; it was replaced, and they will follow"
            )
            self._notes.append((logging.WARNING, text))
            self.lock_file.unlink()
            return False
        self._create(boot)
        return True

    def _attach_unless(self, record: Record, boot: bytes) -> str:
        """Attach to the store of that record, or return why it is to be replaced.

        Raises `StoreUnavailable` if it can't be attached and must not be replaced.
        """
        if record.ready == REMOVED:
            return "was being removed by a process that was killed"
        if record.engine != self._engine.name:
            why = f"was made by engine {record.engine!r}, this is {self._engine.name!r}"
            remedy = "choose another prefix or directory"
        elif record.version != VERSION:
            why = f"is of format {record.version}, this asgi_ipc uses format {VERSION}"
            remedy = "end the processes of the other version, or choose another prefix"
        elif record.ready != READY:
            why = "was not completed: the process that made it was killed"
            remedy = "choose another prefix or directory"
        elif record.boot_id != boot:
            why = "is of another boot of this machine, or of another machine or container"
            remedy = (
                "a store serves processes that see the same boot id "
                "(/proc/sys/kernel/random/boot_id); name another engine_options['directory']"
            )
        else:
            try:
                self._attach(record)
            except FileNotFoundError:
                why = "has memory or semaphores that can't be seen from here"
                if self.lock_file.in_use(record.store_id):
                    raise Missing(
                        f"the store at {self.location.directory!r} {why}, and processes use it. "
                        "All its processes must see the same shared memory, /dev/shm included: no "
                        "PrivateIPC= for a service, one --ipc for all containers or an "
                        "engine_options['directory'] that they share with engine 'mmap'. If it "
                        "was removed by hand, end them, or run: "
                        f"{removal(self._engine.argument(), self.location)}"
                    ) from None
                return why
            if not any(
                locked_segment.is_destroyed() for locked_segment in self.locked_segments.values()
            ):
                return ""
            # Its processes know that it is gone; the one that destroyed it was killed.
            self._close_segments()
            return "was being destroyed by a process that was killed"
        if self.lock_file.in_use(record.store_id):
            raise StoreUnavailable(
                f"the store at {self.location.directory!r} {why}, and processes still use it; {remedy}"
            )
        if record.version != VERSION and record.engine == self._engine.name:
            self._warnings.append(
                f"the store at {self.location.directory!r} {why}; nobody used it any more, so it "
                "made place for a fresh one"
            )
        return why

    def _remove_old(self, record: Record, reason: str) -> None:
        """Remove the memory and locks of a store that is to be replaced."""
        what = f"the store at {self.location.directory!r} {reason}"
        segment = self._segment_of(record.engine)
        if segment is None:
            raise StoreUnavailable(
                f"{what}, which is not to be had here, so its memory can't be removed; choose "
                "another prefix or directory, or destroy() the store with that engine"
            )
        try:
            left = remove_memory(segment, self.directory, record.store_id)
        except PermissionError as error:
            raise StoreUnavailable(
                f"{what} and is to be replaced, but its memory belongs to another user, who "
                f"alone may remove it ({error.strerror}); let a process of that user start "
                "first, or choose another prefix"
            ) from error
        self.lock_file.remove_locks(record.store_id)
        self._notes += [(logging.WARNING, text) for text in left]
        self._notes.append((logging.WARNING, f"{what}; it was replaced by a new one"))

    def _segment_of(self, engine: str) -> type[Segment] | None:
        """Return the class of another engine's memory; of a registered engine alone.

        The name is read from the lock file: it must not lead to the import of anything else.
        """
        if engine == self._engine.name:
            return self._segment
        from .. import find, names

        with contextlib.suppress(Exception):
            factory: Any = find(engine) if engine in names() else None
            if getattr(factory, "name", None) == engine and not factory.unavailable():
                found: type[Segment] = factory.segment
                return found
        return None

    def _attach(self, record: Record) -> None:
        self.lock_file.prepare(record.store_id, create=False)
        locked_segments = {}
        try:
            for kind, locator in locators(self._segment, record.store_id).items():
                segment = attach_own(self._segment, self.directory, locator, record.store_id)
                try:
                    if not segment.view.nbytes:
                        raise FileNotFoundError(errno.ENOENT, "it has no bytes any more", locator)
                    check_layout(kind, segment, locator)
                    self._check_taken(kind, segment, locator)
                    locked_segments[kind] = self._locked_segment(kind, segment)
                except BaseException:
                    segment.close()
                    raise
        except BaseException:
            for locked_segment in locked_segments.values():
                locked_segment.close()
            raise
        self.locked_segments, self._record = locked_segments, record
        for kind, locked_segment in locked_segments.items() if self._make else ():
            if locked_segment.heap.geometry.size != self._sizes[kind]:
                option = "channel_memory" if kind == CHANNELS else "group_memory"
                text = (
                    f"the store at {self.location.directory!r} was made with {option}="
                    f"{locked_segment.heap.geometry.size}; that size stays, and {self._sizes[kind]} "
                    "is ignored; to change it destroy() the store, which drops what it holds"
                )
                self._warnings.append(text)
                self._notes.append((logging.WARNING, text))

    def _check_taken(self, kind: int, segment: Segment, locator: str) -> None:
        """Refuse memory that a member of the group has made larger than it was.

        It costs him nothing, and who uses it would take all the memory of the machine for it.
        """
        fixed = Geometry.of(kind, segment.view.nbytes).first_extent * WORD
        if (
            self.location.gid is not None
            and isinstance(segment, FileMemory)
            and segment.is_stretched(fixed)
        ):
            raise StoreUnavailable(
                f"{locator!r} has {segment.view.nbytes:,} bytes, and of the {fixed:,} that a store "
                "of that size begins with not all were ever taken: a member of the group has "
                "stretched it; remove it and the lock file, or choose another prefix"
            )

    def _locked_segment(self, kind: int, segment: Segment) -> LockedSegment:
        def command() -> str:
            return removal(self._engine.argument(), self.location)

        return LockedSegment(kind, segment, self.lock_file, self._on_recovery, command)

    def _create(self, boot: bytes) -> None:
        """Make both segments: first say whose they will be, then make them, then say ready."""
        for tries in range(_TRIES):
            record = Record(0, secrets.token_bytes(16), boot, self._engine.name, VERSION)
            try:
                self._create_as(record)
                break
            except FileExistsError as error:
                if tries == _TRIES - 1:
                    raise self._no_memory(error) from error
        sizes = f"channel_memory={self._sizes[CHANNELS]}, group_memory={self._sizes[GROUPS]}"
        text = f"made the store at {self.location.directory!r}: engine {record.engine}, {sizes}"
        self._notes.append((logging.INFO, text))

    def _create_as(self, record: Record) -> None:
        locked_segments: dict[int, LockedSegment] = {}
        try:
            self.lock_file.write(record)
            self.lock_file.prepare(record.store_id, create=True)
            for kind, locator in locators(self._segment, record.store_id).items():
                locked_segments[kind] = self._create_one(kind, locator, record.store_id)
            self.lock_file.write(record._replace(ready=READY))
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
                self.lock_file.remove_locks(record.store_id)
            if not again:
                with contextlib.suppress(OSError):
                    self.lock_file.unlink()
            if refusal:
                raise refusal from error
            raise
        self.locked_segments, self._record = locked_segments, record._replace(ready=READY)

    def _create_one(self, kind: int, locator: str, store_id: bytes) -> LockedSegment:
        size = self._sizes[kind]
        segment = self._segment.create(self.directory, locator, size)
        try:
            geometry = Geometry.of(kind, size)
            segment.reserve(0, geometry.first_extent * WORD)
            # First, so that memory of a creator that is killed can be told.
            mark(segment.view, store_id, self.location.directory)
            locked_segment = self._locked_segment(kind, segment)
        except BaseException:
            with contextlib.suppress(OSError):
                segment.unlink()
            segment.close()
            raise
        words = locked_segment.words
        words[W_BYTE_ORDER], words[W_VERSION], words[W_KIND] = BYTE_ORDER, VERSION, kind
        words[W_SIZE], words[W_EXTENT_WORDS] = size, geometry.extent_words
        words[W_BUCKETS] = geometry.buckets
        start = W_HASH_KEY * WORD
        segment.view[start : start + HASH_KEY_BYTES] = secrets.token_bytes(HASH_KEY_BYTES)
        if kind == CHANNELS:
            segment.view[W_NODE * WORD : W_NODE * WORD + NODE_BYTES] = self._node
        locked_segment.format()
        segment.view[W_MAGIC : W_MAGIC + 8] = MAGIC
        return locked_segment

    def _no_memory(self, error: Exception) -> StoreUnavailable:
        asked = sum(self._sizes.values())
        if isinstance(error, FileExistsError):
            return StoreUnavailable(
                f"can't make a store: its names were taken {_TRIES} times ({error.filename!r}), by "
                f"another program or user, while it was made in "
                f"{self._segment.space(self.location.directory)}; end that one, or choose another "
                "engine"
            )
        told = getattr(error, "strerror", None) or error
        remedy = (
            "use a smaller channel_memory and group_memory, another engine, or more shared "
            "memory (--shm-size for a container)"
        )
        return StoreUnavailable(
            f"can't make a store of {asked:,} bytes ({told}): "
            f"{self._segment.space(self.location.directory)}; {remedy_for(error, remedy)}"
        )

    # ---- afterwards

    def is_current(self) -> bool:
        """False once the lock file has been removed or moved away."""
        return self.lock_file.is_at(os.path.join(self.location.directory, "lock"))

    def node(self) -> bytes:
        """The bytes with which the identities of its processes begin."""
        view = self.locked_segments[CHANNELS].segment.view
        return view[W_NODE * WORD : W_NODE * WORD + NODE_BYTES].tobytes()

    def leave_if_lost(self) -> bool:
        """Remove the lock file if later openers can't find the memory any more; whether it is so.

        A process that has the memory is the only one that can tell removed memory from memory
        that another can't see.
        """
        if all(
            locked_segment.segment.is_linked() for locked_segment in self.locked_segments.values()
        ):
            return False
        with self._opening() as linked:
            if linked:
                self.lock_file.unlink()
        return True

    def flushes(self) -> int:
        """How often the store was flushed. Takes no lock."""
        return self.locked_segments[CHANNELS].words[FLUSHES]

    def destroy(self) -> None:
        """Mark the store as gone for those inside, then remove it.

        Raises `StoreUnavailable` if this user may not; then nothing is changed.
        """
        try:
            self._check_removable()
        except OSError as error:
            raise unusable("remove the store at", self.location.directory, error) from error
        for locked_segment in self.locked_segments.values():
            # What is corrupt can't be marked: those inside see that the lock file is gone.
            with contextlib.suppress(Gone, StoreCorrupt), locked_segment as heap:
                heap.commit({}, after=DESTROYED)
        with self._opening() as linked:
            try:
                if linked:
                    # For a newcomer, if this process is killed now: others may be inside still.
                    self.lock_file.write(self._record._replace(ready=REMOVED))
                self._remove_memory()
                if linked:
                    self.lock_file.unlink()
            except OSError as error:
                raise unusable("remove the store at", self.location.directory, error) from error

    def _check_removable(self) -> None:
        for locked_segment in self.locked_segments.values():
            if not locked_segment.segment.may_unlink():
                owner = described(locked_segment.segment.owner().uid)
                raise StoreUnavailable(
                    f"can't remove the store at {self.location.directory!r}: its memory belongs to "
                    f"user {owner}, who alone may remove it; let a process of that user or of "
                    "root destroy() it, or empty it with flush()"
                )

    def _remove_memory(self) -> None:
        for locked_segment in self.locked_segments.values():
            locked_segment.segment.unlink()
        self.lock_file.remove_locks(self._record.store_id)

    def remove_rest(self) -> None:
        """Remove what is left of a store that is not the store any more.

        That includes the lock file if the process that destroyed the store could not remove it,
        or was killed at that: a newcomer can't tell such a store from one that is used.
        """
        with contextlib.suppress(OSError, StoreUnavailable):
            if not any(
                locked_segment.is_destroyed() for locked_segment in self.locked_segments.values()
            ):
                self._remove_memory()
                return
            with self._opening() as linked:
                self._remove_memory()
                if linked:
                    self.lock_file.unlink()

    def remove_directory(self) -> None:
        """Remove the directories that are empty."""
        remove_if_empty(self.location)

    def close(self) -> None:
        """Release the memory, the lock file and the directory."""
        self.lock_file.section.run(self._close_alone)
        self._release()

    def _release(self) -> None:
        self._close_segments()
        self.lock_file.close()
        self.directory.close()

    def _close_alone(self) -> None:
        section = self.lock_file.section
        section.enter()
        try:
            self._close_segments()
        finally:
            section.leave()

    def _close_segments(self) -> None:
        for locked_segment in self.locked_segments.values():
            locked_segment.close()
        self.locked_segments = {}
