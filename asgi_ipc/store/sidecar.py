"""The lock file: who is inside a store, which processes are alive, where its memory is.

fcntl record locks on single bytes of one file. The kernel frees them when their
process ends, however it ends. Their trap: closing *any* descriptor of the file drops
*all* of the process's locks on it. So a process opens each lock file once, in the
registry below, nothing maps it, and it is closed only when nobody here needs it.

Its bytes hold a `Record`, not read or written but under the OPENING lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
import time
from typing import NamedTuple

from ..exceptions import StoreUnavailable
from .layout import VERSION
from .place import check_owner
from .segment import Owner, Place

#: Bytes that are locked. OPENING also covers creation and removal.
OPENING, CHANNELS_LOCK, GROUPS_LOCK, FIRST_SLOT = 0, 1, 2, 16

#: The one kind of lock so far; recorded so that another kind never meets it unawares.
FCNTL = 1

_MAGIC = b"asgi_ipc lock\n"
_FORMAT = struct.Struct("<14sHHI16s16s60s60s16s")
_ERRNO_HELD = {errno.EACCES, errno.EAGAIN}


class Record(NamedTuple):
    """What the lock file says of its store."""

    ready: bool
    store_id: bytes
    boot_id: bytes
    channels: str
    groups: str
    engine: str


class Sidecar:
    """One lock file, open in this process. Made by `open_sidecar` alone."""

    def __init__(self, path: str, descriptor: int, key: tuple[int, int]) -> None:
        self.path = path
        self.key = key
        #: One thread of this process at a time; fcntl locks do not tell threads apart.
        self.thread_lock = threading.Lock()
        self._descriptor = descriptor
        self._more_descriptors: list[int] = []
        self._users = 1
        self._held: set[int] = set()

    # ---- locks

    def lock(self, byte: int) -> None:
        """Wait for a byte and take it. The caller holds ``thread_lock``."""
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, byte)
                return
            except OSError as error:
                # The kernel counts all threads of a process as one and can see a
                # circle where there is none; whoever is inside is out in microseconds.
                if error.errno != errno.EDEADLK:
                    raise self._unusable(error) from error
            time.sleep(0.0005)

    def unlock(self, byte: int) -> None:
        """Give a byte back."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, byte)

    def hold(self, byte: int) -> bool:
        """Take a byte for as long as this process lives; False if it is taken."""
        if byte in self._held or not self._try_lock(byte):
            return False
        self._held.add(byte)
        return True

    def release(self, byte: int) -> None:
        """Give up a byte that is held."""
        self._held.discard(byte)
        self.unlock(byte)

    def is_held(self, byte: int) -> bool:
        """Whether any living process holds a byte."""
        # The kernel would grant it to its own holder.
        if byte in self._held:
            return True
        if not self._try_lock(byte):
            return True
        self.unlock(byte)
        return False

    def _try_lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in _ERRNO_HELD:
                return False
            raise self._unusable(error) from error
        return True

    def _unusable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"can't lock {self.path!r} ({error.strerror}): the store needs a file system "
            "with fcntl record locks; choose another engine_options['directory']"
        )

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
        if (version, kind) != (VERSION, FCNTL):
            raise StoreUnavailable(
                f"the store at {os.path.dirname(self.path)!r} is of format {version} with locks "
                f"of kind {kind}, this asgi_ipc uses format {VERSION} with locks of kind {FCNTL}; "
                "end the other processes and remove it, or choose another prefix"
            )
        texts = (
            text.rstrip(b"\0").decode("ascii", "replace") for text in (channels, groups, engine)
        )
        return Record(bool(ready), store_id, boot_id, *texts)

    def write(self, record: Record) -> None:
        """Replace the record. Raises OSError."""
        data = _FORMAT.pack(
            _MAGIC,
            VERSION,
            FCNTL,
            record.ready,
            record.store_id,
            record.boot_id,
            record.channels.encode(),
            record.groups.encode(),
            record.engine.encode(),
        )
        os.pwrite(self._descriptor, data, 0)

    def is_linked(self) -> bool:
        """False once the file has been removed: the store is no longer the store."""
        return os.fstat(self._descriptor).st_nlink > 0

    # ---- life

    def close(self) -> None:
        """One user less; the last drops every lock."""
        with _registry_lock:
            self._users -= 1
            if self._users:
                return
            if _registry.get(self.key) is self:
                del _registry[self.key]
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
        descriptor = os.open(path, flags, place.mode)
        status = os.fstat(descriptor)
        key = (status.st_dev, status.st_ino)
        if key in _registry:
            return _registry[key]._adopt(descriptor)
        try:
            if not stat.S_ISREG(status.st_mode):
                raise StoreUnavailable(f"{path!r} is not a plain file and was left as it is")
            if status.st_uid == os.geteuid() and not status.st_size:
                if place.gid is not None:
                    os.fchown(descriptor, -1, place.gid)
                os.fchmod(descriptor, place.mode)
                status = os.fstat(descriptor)
            check_owner(path, Owner.of(status), place)
        except BaseException:
            os.close(descriptor)
            raise
        _registry[key] = Sidecar(path, descriptor, key)
        return _registry[key]


def _after_fork_in_child() -> None:
    # The locks stayed with the parent; a thread that held one of these is not here.
    global _registry_lock
    _registry_lock = threading.Lock()
    for sidecar in _registry.values():
        sidecar.thread_lock = threading.Lock()
        sidecar._held.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
