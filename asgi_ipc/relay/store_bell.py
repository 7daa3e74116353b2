"""Wake a task of the relay's event loop when a process leaves something in a queue of the store."""

from __future__ import annotations

import asyncio
import contextlib
import os

from ..engines.base import Bell, Engine
from ..exceptions import StoreUnavailable


class StoreBell:
    """A bell of the engine that an event loop polls, for one task that waits.

    A wake-up may be lost, so the owner calls `wake` about once a second.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rang = asyncio.Event()
        self._install()

    async def wait(self) -> None:
        """Wait until the bell was signalled since the last wait."""
        await self._rang.wait()
        self._rang.clear()

    def wake(self) -> None:
        """Wake the task, and replace a bell that the engine can't signal any more."""
        if self.bell.fileno() < 0:
            self.close()
            # Too many open files: tried again at the next call.
            with contextlib.suppress(StoreUnavailable):
                self._install()
        self._rang.set()

    def _install(self) -> None:
        """Raise `StoreUnavailable` if descriptors run out."""
        #: What the engine is to signal.
        self.bell: Bell = self._engine.bell()
        self._descriptor = -1
        try:
            # A duplicate, as the engine may close its own in any thread.
            self._descriptor = os.dup(self.bell.fileno())
            asyncio.get_running_loop().add_reader(self._descriptor, self._signalled)
        except OSError as error:
            self.close()
            raise StoreUnavailable(
                f"a relay can't poll a wake-up bell ({error.strerror}); raise this process's limit"
                " of open files (ulimit -n)"
            ) from error
        except BaseException:
            self.close()
            raise

    def _signalled(self) -> None:
        if self.bell.fileno() < 0:
            # It would stay readable; `wake` makes another.
            asyncio.get_running_loop().remove_reader(self._descriptor)
        else:
            self.bell.clear()
        self._rang.set()

    def close(self) -> None:
        """Poll no more. May be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self.bell.close()


__all__ = ["StoreBell"]
