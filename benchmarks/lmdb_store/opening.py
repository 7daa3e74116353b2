"""The environments that this process has open: LMDB allows one for each store."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from typing import Any

import lmdb

from asgi_ipc.engines.base import IDENTITY_BYTES, NODE_BYTES
from asgi_ipc.engines.guards import WeakBag, own_lock

from .bells import FifoBell
from .rows import STORE, StoreRow

_DATABASES = (b"store", b"queues", b"records", b"bells", b"tables", b"members")


class Opened:
    """What all engines of one store in this process share: LMDB allows one environment."""

    def __init__(self, folder: str, sizes: tuple[int, int]) -> None:
        self.folder, self.sizes, self.users = folder, sizes, 0
        self.identity = self.new_identity()
        #: What was last heard of the store's number of flushes.
        self.flushes = 0
        self.bells: WeakBag[FifoBell] = WeakBag()
        #: Held by a thread that uses the environment, so that no other one closes it.
        self.lock = own_lock()
        self.environment, self.databases = self._open()

    def new_identity(self) -> bytes:
        """One that nobody has had; it begins as those of all processes in the store (E17)."""
        path = os.fsencode(os.path.realpath(self.folder))
        node = hashlib.blake2b(path, digest_size=NODE_BYTES).digest()
        return node + os.urandom(IDENTITY_BYTES - NODE_BYTES)

    def _open(self) -> tuple[Any, dict[bytes, Any]]:
        os.makedirs(self.folder, 0o700, exist_ok=True)
        environment = lmdb.open(
            self.folder,
            # Pages are not full, and a payload may take a page more than it needs.
            map_size=4 * sum(self.sizes) + (64 << 20),
            max_dbs=len(_DATABASES),
            max_readers=1024,
            writemap=True,
            map_async=True,
            sync=False,
            metasync=False,
        )
        databases = {name: environment.open_db(name) for name in _DATABASES}
        with environment.begin(write=True) as transaction:
            if transaction.get(STORE, db=databases[b"store"]) is None:
                store = StoreRow(None)
                store.channel_memory, store.group_memory = self.sizes
                # More than any earlier store in its place has counted.
                store.made = store.flushes = time.time_ns()
                transaction.put(STORE, store.pack(), db=databases[b"store"])
        return environment, databases

    def again(self) -> None:
        """Open the store that has come after one that was destroyed."""
        for bell in self.bells.alive():
            bell.is_lost = True
        self.environment.close()
        self.environment, self.databases = self._open()


#: By folder, of this process.
opened: dict[str, Opened] = {}


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Keep others from making or removing the store."""
    path = folder + ".lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        os.close(descriptor)  # Somebody has just removed the store.
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # A forked child may have it open, too.
        os.close(descriptor)
