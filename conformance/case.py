"""One engine under test: opens it, starts processes that use it, and cleans up after it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec

from asgi_ipc.engines import open_engine
from asgi_ipc.exceptions import StoreUnavailable

from .leaks import Snapshot, left_behind
from .puppet import Puppet

if TYPE_CHECKING:
    from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
    from asgi_ipc.engines.base import Capabilities, Engine

#: Default sizes of a test's store, enough for one record of `asgi_ipc.engines.base.MAX_PAYLOAD`.
CHANNEL_MEMORY = 24 << 20
GROUP_MEMORY = 4 << 20

_P = ParamSpec("_P")


class Case:
    """An engine by name, and a prefix that only this test uses."""

    def __init__(
        self, engine: str, capabilities: Capabilities, prefix: str, options: dict[str, Any]
    ) -> None:
        self.engine = engine
        self.capabilities = capabilities
        self.prefix = prefix
        self.options = options
        self._before = Snapshot.take()
        self._files: set[str] = set()
        self._engines: list[Engine] = []
        self._puppets: list[Puppet] = []
        self._layers: list[IPCChannelLayer] = []
        self._sync_layers: list[SyncIPCChannelLayer] = []
        self._memory = {"channel_memory": CHANNEL_MEMORY, "group_memory": GROUP_MEMORY}

    def open(
        self,
        *,
        channel_memory: int | None = None,
        group_memory: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> Engine:
        """Open the test's store, as another part of the program would."""
        # Remembered, so that processes started later open it alike (E15).
        self._memory["channel_memory"] = channel_memory or self._memory["channel_memory"]
        self._memory["group_memory"] = group_memory or self._memory["group_memory"]
        options = self.options if options is None else options
        engine = open_engine(self.engine, self.prefix, engine_options=options, **self._memory)
        self._engines.append(engine)
        return engine

    def process(self, *, opened: bool = True) -> Puppet:
        """Start another process, with the test's store open in it if ``opened``."""
        puppet = Puppet(
            {
                "engine": self.engine,
                "prefix": self.prefix,
                "engine_options": self.options,
                **self._memory,
            }
        )
        self._puppets.append(puppet)
        if opened:
            puppet.call("open")
        return puppet

    def layer(self, **options: Any) -> IPCChannelLayer:
        """Make an asynchronous layer on the test's store. Closed after the test (`in_loop`)."""
        from asgi_ipc import IPCChannelLayer

        layer = IPCChannelLayer(**self._layer_options(options))
        self._layers.append(layer)
        return layer

    def sync_layer(self, **options: Any) -> SyncIPCChannelLayer:
        """Make a synchronous layer on the test's store. Closed after the test."""
        from asgi_ipc import SyncIPCChannelLayer

        layer = SyncIPCChannelLayer(**self._layer_options(options))
        self._sync_layers.append(layer)
        return layer

    def _layer_options(self, options: dict[str, Any]) -> dict[str, Any]:
        ours = {"prefix": self.prefix, "engine": self.engine, "engine_options": self.options}
        return {**ours, **self._memory, **options}

    async def close_layers(self) -> None:
        """Close the asynchronous layers, in the loop that used them."""
        while self._layers:
            await self._layers.pop().close()

    def clean_up(self) -> list[str]:
        """End all processes, remove the store, and return what the test has left behind."""
        children = [puppet.pid for puppet in self._puppets]
        for puppet in self._puppets:
            puppet.end()
            self._files |= puppet.files
        self._files |= Snapshot.take().files
        while self._sync_layers:
            self._sync_layers.pop().close()
        while self._engines:
            self._engines.pop().close()
        # Opened afresh, since a test may have destroyed the store or broken its last engine.
        last = open_engine(self.engine, self.prefix, engine_options=self.options, **self._memory)
        self._files |= Snapshot.take().files
        with contextlib.suppress(StoreUnavailable):
            last.destroy()
        last.close()
        del last
        return left_behind(self._before, self._files, self.prefix, children)


def in_loop(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Run an asynchronous test of a ``case`` in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        async def scenario() -> None:
            try:
                await asyncio.wait_for(test(*args, **kwargs), 240)
            finally:
                case: Any = kwargs["case"]
                await case.close_layers()

        asyncio.run(scenario())

    return run
