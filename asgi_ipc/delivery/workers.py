"""A pool of threads that call an engine that blocks.

Not `concurrent.futures`: while it holds its locks a garbage collection may close a receiver, which
asks for a thread and so waits for itself. This pool has no lock; its threads share a queue and a
deque that are written in C.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from ..engines.deferred import pending, run_deferred
from ..exceptions import StoreUnavailable

_Result = TypeVar("_Result")
_Job = Callable[[], object]

#: Most threads, and so most calls of one engine that block at a time.
MOST = 32
#: Seconds for which a thread waits until another one has run the calls it has deferred.
#: Long, as it holds nothing that the other could wait for; finite, as an engine may hang.
_PATIENCE = 60.0


class Workers:
    """A pool of at most `MOST` threads, each started when none is idle."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle: deque[None] = deque()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def do(self, job: _Job) -> None:
        """Run a job that raises nothing in a thread.

        Raises `StoreUnavailable` once stopped, and `RuntimeError` if there is no thread and can't
        be one.
        """
        if self._stopped:
            raise StoreUnavailable("the channel layer was closed; call it again to open it anew")
        self._jobs.put(job)
        if self._jobs.qsize() > len(self._idle) and len(self._threads) < MOST:
            # A daemon, so that an engine that hangs does not keep the process from ending.
            thread = threading.Thread(target=self._work, name="asgi_ipc", daemon=True)
            self._threads.append(thread)
            try:
                thread.start()
            except RuntimeError:  # There can't be one more: those that are there do the job.
                self._threads.remove(thread)
                if not self._threads:
                    raise

    def call(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., _Result], *arguments: Any
    ) -> asyncio.Future[_Result]:
        """Call a function in a thread; return a future of the loop for its result."""
        future: asyncio.Future[_Result] = loop.create_future()

        def job() -> None:
            result: Any = None
            error: Exception | None = None
            try:
                result = function(*arguments)
            except BaseException as caught:
                error = as_exception(caught)
            if pending:
                # Before the result is known, as the caller's next job may run in another thread.
                run_deferred(_PATIENCE)
            with contextlib.suppress(RuntimeError):  # The loop is closed, so no receiver waits.
                loop.call_soon_threadsafe(_settle, future, result, error)

        self.do(job)
        return future

    async def result(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., _Result], *arguments: Any
    ) -> _Result:
        """Call a function in a thread, and await its result.

        asyncio logs the exception of a future that is collected with the receiver's coroutine. So
        the future's result tells of the error.
        """

        def outcome() -> tuple[_Result, None] | tuple[None, Exception]:
            try:
                return function(*arguments), None
            except BaseException as caught:
                return None, as_exception(caught)

        result, error = await self.call(loop, outcome)
        if error is None:
            return cast("_Result", result)
        try:
            raise error
        finally:
            del error  # Its traceback has this frame.

    def _work(self) -> None:
        while True:
            self._idle.append(None)
            job = self._jobs.get()
            self._idle.pop()
            if job is None:
                return
            job()
            del job  # Else this frame would keep it until the next job.

    def stop(self) -> None:
        """End the threads after their present jobs. Waits for none."""
        self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def as_exception(error: BaseException) -> Exception:
    """Return an exception that a receiver can raise, whatever an engine raised.

    A `BaseException` that is no `Exception` would end the whole program in an event loop. No future
    takes a `StopIteration`, so its receiver would wait without end.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    unavailable = StoreUnavailable(f"a call of the engine ended in {error!r}; try again")
    unavailable.__cause__ = error
    return unavailable


__all__ = ["Workers", "as_exception"]
