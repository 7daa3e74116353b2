"""Threads in which the calls of an engine are made that blocks.

Not `concurrent.futures`: its locks are held while a collection may close a receiver that asks for
a thread, which then waits for itself. Here is none; what more than one thread touches are a queue
and a deque in C.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from ..engines.deferred import carry_out, left
from ..exceptions import StoreUnavailable

_Result = TypeVar("_Result")
_Job = Callable[[], object]

#: Calls of one engine that may wait at a time.
MOST = 32
#: Seconds for which a call waits until another thread has carried out what it has left. Long, as
#: here nothing is held that the other one could wait for; but an engine may hang.
_PATIENCE = 60.0


class Workers:
    """A pool of at most `MOST` threads, each started when none is idle."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle: deque[None] = deque()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def do(self, job: _Job) -> None:
        """Let a thread do something that raises nothing. Raises `StoreUnavailable` once stopped."""
        if self._stopped:
            raise StoreUnavailable("the channel layer was closed; call it again to open it anew")
        self._jobs.put(job)
        if self._jobs.qsize() > len(self._idle) and len(self._threads) < MOST:
            # A daemon, lest an engine that hangs keeps the process from ending.
            thread = threading.Thread(target=self._work, name="asgi_ipc", daemon=True)
            self._threads.append(thread)
            thread.start()

    def call(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., _Result], *arguments: Any
    ) -> asyncio.Future[_Result]:
        """Call a function in a thread; the future of a loop becomes its result."""
        future: asyncio.Future[_Result] = loop.create_future()

        def job() -> None:
            result: Any = None
            error: Exception | None = None
            try:
                result = function(*arguments)
            except BaseException as caught:
                error = tamed(caught)
            if left:
                # What the same caller asks for next another thread may do.
                carry_out(_PATIENCE)
            with contextlib.suppress(RuntimeError):  # The loop is closed, and nobody waits.
                loop.call_soon_threadsafe(_settle, future, result, error)

        self.do(job)
        return future

    def _work(self) -> None:
        while True:
            self._idle.append(None)
            job = self._jobs.get()
            self._idle.pop()
            if job is None:
                return
            job()
            del job  # Or it is kept until there is another.

    def stop(self, patience: float = 0.0) -> None:
        """Let the threads end with what they have begun; wait for so many seconds at most."""
        self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if patience else ():
            thread.join(patience)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def tamed(error: BaseException) -> Exception:
    """An exception for the receivers, whatever an engine raised.

    In an event loop what is no `Exception` would end the whole program, and no future takes a
    `StopIteration`: who waits for it would wait for ever.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    tame = StoreUnavailable(f"a call of the engine ended in {error!r}; try again")
    tame.__cause__ = error
    return tame


__all__ = ["Workers", "tamed"]
