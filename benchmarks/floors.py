"""What no layer can beat: the bare means, with nothing of a layer around them."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import tempfile
import time
from typing import Any

from .measure import latencies
from .processes import Bench

#: Names of the floors, among those of the layers.
FIFO = "floor: FIFO"
AWAITED = "floor: FIFO, awaited"
COPY = "floor: lock and copy"


class _Fifo:
    """A FIFO to read from in an event loop."""

    def __init__(self, path: str) -> None:
        os.mkfifo(path)
        self.reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        #: Lest end-of-file comes.
        self.writer = os.open(path, os.O_WRONLY)
        self._waiting: asyncio.Future[bytes] | None = None

    async def read(self) -> bytes:
        """What was written, as a coroutine gets it that waits."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            loop.add_reader(self.reader, self._readable)
        self._waiting = loop.create_future()
        return await self._waiting

    def _readable(self) -> None:
        assert self._waiting is not None
        self._waiting.set_result(os.read(self.reader, 65536))


async def ping(bench: Bench, seconds: float, size: int) -> dict[str, Any]:
    """Write to one FIFO and be called back by the other, again and again."""
    fifo, write = await joined(bench, "ping")
    loop, payload = asyncio.get_running_loop(), b"x" * size
    times: list[float] = []
    done: asyncio.Future[None] = loop.create_future()
    warm, end = time.monotonic() + seconds / 5, time.monotonic() + seconds * 1.2
    started = time.perf_counter()

    def answered() -> None:
        nonlocal started
        os.read(fifo.reader, 65536)
        now = time.perf_counter()
        if time.monotonic() > warm:
            times.append(now - started)
        if time.monotonic() > end:
            done.set_result(None)
            loop.remove_reader(fifo.reader)
            return
        started = time.perf_counter()
        os.write(write, payload)

    loop.add_reader(fifo.reader, answered)
    os.write(write, payload)
    await done
    os.write(write, b"")
    await bench.sync()
    return latencies(times)


async def pong(bench: Bench, size: int) -> dict[str, Any]:
    """Answer each."""
    fifo, write = await joined(bench, "pong")
    payload = b"x" * size

    def asked() -> None:
        os.read(fifo.reader, 65536)
        os.write(write, payload)

    asyncio.get_running_loop().add_reader(fifo.reader, asked)
    await bench.sync()
    return {}


async def awaiting_ping(bench: Bench, seconds: float, size: int) -> dict[str, Any]:
    """As `ping`, but what waits is a coroutine, as in any layer with an asynchronous receive."""
    fifo, write = await joined(bench, "ping")
    payload, times = b"x" * size, []
    clock = time.perf_counter
    warm, end = clock() + seconds / 5, clock() + seconds * 1.2
    while True:
        started = clock()
        os.write(write, payload)
        await fifo.read()
        now = clock()
        if now > warm:
            times.append(now - started)
        if now > end and times:
            break
    os.write(write, b"end")
    return latencies(times)


async def awaiting_pong(bench: Bench, size: int) -> dict[str, Any]:
    """Answer each."""
    fifo, write = await joined(bench, "pong")
    payload = b"x" * size
    while await fifo.read() != b"end":
        os.write(write, payload)
    return {}


async def joined(bench: Bench, name: str) -> tuple[_Fifo, int]:
    """A FIFO to read from, and the end to write to of that of the other process."""
    path = os.path.join(bench.place.directory, name)
    fifo = _Fifo(path)
    other = next(each for each in await bench.sync(path) if each != path)
    return fifo, os.open(other, os.O_WRONLY)


def lock_and_copy(bench: Bench, seconds: float, size: int) -> dict[str, Any]:
    """Lock, copy in, unlock; lock, copy out, unlock: a pair with nothing around it."""
    payload = b"x" * size
    with (
        tempfile.TemporaryFile(dir=bench.place.directory) as lock,
        mmap.mmap(-1, max(4096, size)) as memory,
        memoryview(memory) as view,
    ):
        descriptor, count = lock.fileno(), 0
        started = time.perf_counter()
        while True:
            for _ in range(100):
                fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 1)
                view[:size] = payload
                fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, 1)
                fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 1)
                view[:size].tobytes()
                fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, 1)
            count += 100
            elapsed = time.perf_counter() - started
            if elapsed > seconds:
                return {"each": elapsed / count}
