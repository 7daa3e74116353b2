"""The lock file: who is inside a store, which processes are alive, where its memory is.

The locks are those of `locks`. Closing any descriptor of the file can drop all of the
process's locks on it, so a process opens each lock file once, in the registry below,
nothing maps it, and it is closed only when nobody here needs it.

Its bytes hold a `Record`, not read or written but under the OPENING lock. Neither their layout
nor which bytes are locked changes with the version: a store of another one can be replaced.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

from ..engines.guards import own_lock
from ..exceptions import StoreUnavailable
from .lock_choice import choose
from .locks import NAMES, OPENING, Locks
from .place import check_owner, unusable
from .segment import Owner, Place, Segment

_MAGIC = b"asgi_ipc lock\n"
#: Most bytes of an engine's name.
LONGEST_NAME = 16
_FORMAT = struct.Struct(f"<14sHHI16s16s60s60s{LONGEST_NAME}s")
#: Its beginning: magic, version, kind of lock.
_HEAD = struct.Struct("<14sHH")


class Record(NamedTuple):
    """What the lock file says of its store."""

    ready: bool
    store_id: bytes
    boot_id: bytes
    channels: str
    groups: str
    engine: str
    #: Of the memory's layout. That of the lock file is the same in all versions.
    version: int


class Sidecar:
    """One lock file, open in this process. Made by `open_sidecar` alone."""

    def __init__(self, path: str, descriptor: int, key: tuple[int, int], locks: Locks) -> None:
        self.path = path
        self.key = key
        #: One thread of this process at a time; the locks do not tell threads apart. One
        #: that a thread may take again, as it then can be asked whether that has it.
        self.thread_lock = own_lock()
        #: Whoever has it is inside a region of the store.
        self.inside = False
        self._descriptor = descriptor
        self._more_descriptors: list[int] = []
        self._users = 1
        self._locks = locks
        #: Of its locks: a key of `locks.NAMES`.
        self.kind = locks.kind
        # The `Locks` as they are.
        self.prepare, self.mutex = locks.prepare, locks.mutex
        self.hold, self.release, self.is_held = locks.hold, locks.release, locks.is_held
        self.in_use = locks.in_use

    # ---- what it says

    def read(self) -> Record | None:
        """The record, or None if nothing was ever written."""
        data = os.pread(self._descriptor, _FORMAT.size, 0)
        if not data:
            return None
        if len(data) < _FORMAT.size or not data.startswith(_MAGIC):
            raise StoreUnavailable(
                f"{self.path!r} is not a lock file of asgi_ipc and was left as it is; "
                "choose another prefix or engine_options['directory']"
            )
        _, version, kind, ready, store_id, boot_id, channels, groups, engine = _FORMAT.unpack(data)
        if kind not in NAMES:
            raise StoreUnavailable(
                f"the store at {os.path.dirname(self.path)!r} has locks of kind {kind}, this "
                f"asgi_ipc knows {' and '.join(map(str, NAMES))}; end the processes that use it "
                "and remove it with their version, or choose another prefix"
            )
        if kind != self.kind:
            # Two processes made it at once, each with locks that the other's can't see.
            raise StoreUnavailable(
                f"the store at {os.path.dirname(self.path)!r} was made with {NAMES[kind]}, this "
                f"process uses {NAMES[self.kind]}; end the other processes and remove it, "
                "or choose another engine_options['directory']"
            )
        channels, groups, engine = (
            text.rstrip(b"\0").decode("ascii", "replace") for text in (channels, groups, engine)
        )
        return Record(bool(ready), store_id, boot_id, channels, groups, engine, version)

    def write(self, record: Record) -> None:
        """Replace the record. Raises OSError."""
        data = _FORMAT.pack(
            _MAGIC,
            record.version,
            self.kind,
            record.ready,
            record.store_id,
            record.boot_id,
            record.channels.encode(),
            record.groups.encode(),
            record.engine.encode(),
        )
        os.pwrite(self._descriptor, data, 0)

    def is_at(self, path: str) -> bool:
        """False once the file was removed or moved away: the store is no longer the store."""
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise unusable("reach", path, error) from error
        return (status.st_dev, status.st_ino) == self.key

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Be alone among those who open the store, or remove it. Raises `Gone` if it is removed."""
        with self.thread_lock:
            try:
                self._locks.lock(OPENING)
                yield
            finally:
                self._locks.unlock(OPENING)

    def remove_memory(self, segment: type[Segment], place: Place, record: Record) -> None:
        """Take away the memory of a store and what its locks need; comes within `opening`.

        Raises OSError. What is gone already is no error.
        """
        for locator in (record.channels, record.groups):
            if locator:
                segment.unlink(place, locator)
        self._locks.remove(record.store_id)

    # ---- life

    def close(self) -> None:
        """One user less; the last drops every lock."""
        with _registry_lock:
            self._users -= 1
            if self._users:
                return
            if _registry.get(self.key) is self:
                del _registry[self.key]
            self._locks.close()
            for descriptor in (self._descriptor, *self._more_descriptors):
                os.close(descriptor)

    def _adopt(self, descriptor: int) -> Sidecar:
        """One user more, who came with a descriptor that must not be closed yet."""
        self._users += 1
        self._more_descriptors.append(descriptor)
        return self


_registry: dict[tuple[int, int], Sidecar] = {}
_registry_lock = threading.Lock()


def open_sidecar(place: Place, name: str = "lock") -> Sidecar:
    """The lock file of a store's directory, made if need be. Raises OSError, `StoreUnavailable`."""
    path = os.path.join(place.directory, name)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with _registry_lock:
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            known = _registry.get((status.st_dev, status.st_ino))
            if known:
                known._users += 1
                return known
        descriptor = os.open(path, flags, place.mode)
        try:
            status = os.fstat(descriptor)
            key = (status.st_dev, status.st_ino)
            if key in _registry:
                return _registry[key]._adopt(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StoreUnavailable(f"{path!r} is not a plain file and was left as it is")
            if status.st_uid == os.geteuid() and not status.st_size:
                if place.gid is not None:
                    os.fchown(descriptor, -1, place.gid)
                os.fchmod(descriptor, place.mode)
                status = os.fstat(descriptor)
            check_owner(path, Owner.of(status), place)
            try:
                locks = choose(path, descriptor, place, _kind(descriptor))
            except StoreUnavailable:
                # Where nobody can lock nobody is inside.
                if not os.fstat(descriptor).st_size:
                    os.unlink(path)
                raise
        except BaseException:
            os.close(descriptor)
            raise
        _registry[key] = Sidecar(path, descriptor, key, locks)
        return _registry[key]


def remove_store(place: Place, segment: type[Segment]) -> None:
    """Remove a store, whatever it holds, all but its directory.

    Raises OSError, `StoreUnavailable`.
    """
    sidecar = open_sidecar(place)
    try:
        with sidecar.opening():
            record = sidecar.read()
            if record:
                sidecar.remove_memory(segment, place, record)
            os.unlink(sidecar.path)
    finally:
        sidecar.close()


def _kind(descriptor: int) -> int:
    """The kind of locks that a lock file says it has, or 0.

    Read without a lock, as it says which lock to take; it never changes once written.
    """
    data = os.pread(descriptor, _HEAD.size, 0)
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        return 0
    kind: int = _HEAD.unpack(data)[2]
    return kind


def _after_fork_in_child() -> None:
    # The locks stay with the parent; a thread that held one of these is not here.
    global _registry_lock
    _registry_lock = threading.Lock()
    for sidecar in _registry.values():
        sidecar.thread_lock = own_lock()
        sidecar.inside = False
        sidecar._locks.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
