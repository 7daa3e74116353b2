"""A relay in a thread of one of the site's processes, with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading

from ..exceptions import StoreCorrupt, StoreUnavailable
from .agreement import Differs
from .failures import Failures
from .loop import run
from .machine import Machine
from .options import RelayOptions
from .relay import Relay
from .way_out import DEDICATED, RELAY, vacate

_log = logging.getLogger("asgi_ipc")

#: Seconds that `RelayThread.stop` waits for the thread.
_PATIENCE = 2.0


class RelayThread:
    """A term of the relay in a thread. The caller has taken the role `RELAY`."""

    def __init__(
        self, machine: Machine, options: RelayOptions, failures: Failures | None = None
    ) -> None:
        self._machine, self._options = machine, options
        self._failures = failures or Failures()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stopped = False
        #: The relay, once it has begun.
        self.relay: Relay | None = None
        # A daemon: the interpreter waits for other threads before it calls what ends this one.
        self._thread = threading.Thread(
            target=self._relay_in_thread, name="asgi_ipc relay", daemon=True
        )

    def start(self) -> None:
        """Start the thread. Raises `RuntimeError` if there can't be one more."""
        self._failures.begun()
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether the thread has not ended yet."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the relay and give up the role. Blocks until that is done, `_PATIENCE` at most."""
        self._stopped = True
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):  # It has just ended.
                loop.call_soon_threadsafe(stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(_PATIENCE)

    def _relay_in_thread(self) -> None:
        try:
            run(self._relay)
        except (StoreUnavailable, StoreCorrupt, Differs) as error:
            self._failures.refused(error, self._options.shown)
        except Exception as error:
            # While the process ends, there can't be a thread that resolves names.
            if self._stopped or not threading.main_thread().is_alive():
                return
            self._failures.failed(error, self._options.shown)
        finally:
            # Another process begins to relay at once, or this one at its next look.
            with contextlib.suppress(StoreUnavailable, StoreCorrupt):
                self._machine.engine.release(RELAY)
                vacate(self._machine.engine)

    async def _relay(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if self._stopped:
            return
        url, engine = self._options.shown, self._machine.engine
        self.relay = Relay(self._machine, self._options)
        _log.info("relay %s: this process relays for its machine", url)
        await self.relay.run(self._stop)
        why = "as it closes its layer or ends"
        if not self._stopped and self.relay.lost_store:
            why = f"as it can't use the store: {self.relay.lost_store}"
        with contextlib.suppress(StoreUnavailable, StoreCorrupt):
            if not self._stopped and engine.is_held(DEDICATED):
                why = "as a relay process of its own takes over"
        _log.info("relay %s: this process relays no more, %s", url, why)


__all__ = ["RelayThread"]
