"""The environments that this process has open: LMDB allows one for each store."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import lmdb

from asgi_ipc.engines.base import IDENTITY_BYTES

from .rows import STORE, StoreRow

_DATABASES = (b"store", b"queues", b"records", b"bells", b"tables", b"members")


class Opened:
    """What all engines of one store in this process share: LMDB allows one environment."""

    def __init__(self, folder: str, sizes: tuple[int, int]) -> None:
        self.folder, self.sizes, self.users = folder, sizes, 0
        self.identity = os.urandom(IDENTITY_BYTES)
        #: Held by a thread that uses the environment, so that no other one closes it.
        self.lock = threading.RLock()
        self.environment, self.databases = self._open()

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
                store.made = time.time_ns()
                transaction.put(STORE, store.pack(), db=databases[b"store"])
        return environment, databases

    def again(self) -> None:
        """Open the store that has come after one that was destroyed."""
        self.environment.close()
        self.environment, self.databases = self._open()


#: By folder, of this process.
opened: dict[str, Opened] = {}


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Keep others from making or removing the store."""
    descriptor = os.open(folder + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
