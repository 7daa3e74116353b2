"""Hear in the relay's event loop what processes of the machine leave in the store."""

from __future__ import annotations

import asyncio
import os

from ..engines.base import Bell, Engine


class StoreBell:
    """A bell of the engine that an event loop polls, and what waits for it.

    A wake-up may be lost, so who waits is woken about once a second anyway, by `look`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[asyncio.Event] = []
        self._install()

    def event(self) -> asyncio.Event:
        """Return an event that is set whenever the bell was signalled, for whatever queue."""
        event = asyncio.Event()
        self._waiting.append(event)
        return event

    def ring(self) -> None:
        """Wake all that wait."""
        for event in self._waiting:
            event.set()

    def look(self) -> None:
        """Wake all that wait, and replace a bell that the engine can't signal any more."""
        if self.bell.fileno() < 0:
            self.close()
            self._install()
        self.ring()

    def _install(self) -> None:
        self.bell: Bell = self._engine.bell()
        # A duplicate, as the engine may close its own in any thread.
        self._descriptor = os.dup(self.bell.fileno())
        asyncio.get_running_loop().add_reader(self._descriptor, self._signalled)

    def _signalled(self) -> None:
        if self.bell.fileno() < 0:
            # It would stay readable; `look` makes another.
            asyncio.get_running_loop().remove_reader(self._descriptor)
        else:
            self.bell.clear()
        self.ring()

    def close(self) -> None:
        """Poll no more. May be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self.bell.close()


__all__ = ["StoreBell"]
