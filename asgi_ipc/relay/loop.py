"""The event loop of a relay that runs in a thread: a forked child keeps nothing of it.

A child inherits the descriptors of its parent, though not the thread that uses them. If the child
kept the sockets, the server would keep the connections for as long as the child lives, and take
what a finalizer writes there (the goodbye of a TLS connection) for the parent's words. So the child
closes what this loop has open: without a word, and without the loop's methods, since a selector of
the kernel (epoll) would be the parent's too. `selectors.PollSelector` has nothing in the kernel,
and is as fast for a handful of descriptors.

The loop is asyncio's own, whatever the policy of the program: that of uvloop does not tell what it
has open.

It resolves names in threads that nothing waits for: asyncio's own hold up the end of the relay and
of the process, for as long as a name server is silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..engines.guards import WeakBag

_T = TypeVar("_T")


class RelayLoop(asyncio.SelectorEventLoop):
    """An event loop that knows the sockets it has connected."""

    def __init__(self) -> None:
        self._watched = selectors.PollSelector()
        self._connected: WeakBag[socket.socket] = WeakBag()
        super().__init__(self._watched)
        _loops.add(self)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect a socket. All connections of a loop begin with this."""
        self._connected.add(sock)
        await super().sock_connect(sock, address)

    async def getaddrinfo(self, host: Any, port: Any, **how: int) -> Any:
        """Resolve a name in a daemon thread of its own.

        Raises `OSError`, and `RuntimeError` if there can't be one more thread.

        A name server may be silent for long. asyncio would wait for the threads of its executor at
        the end of the loop, and Python at the end of the process.
        """
        found: asyncio.Future[Any] = self.create_future()

        def tell(addresses: Any, error: Exception | None) -> None:
            if found.done():
                return
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def resolve() -> None:
            told: tuple[Any, Exception | None]
            try:
                told = socket.getaddrinfo(host, port, **how), None
            except Exception as error:
                told = None, error
            with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
                self.call_soon_threadsafe(tell, *told)

        threading.Thread(target=resolve, name="asgi_ipc resolver", daemon=True).start()
        return await found

    def after_fork_in_child(self) -> None:
        """Close what the parent has open in this loop, whose thread does not exist in the child."""
        watched = {key.fd for key in (self._watched.get_map() or {}).values()}
        # Both ends of the pipe that wakes the loop. If asyncio renames them, one end of it stays
        # open, which does no harm.
        pipe = [getattr(self, name, None) for name in ("_ssock", "_csock")]
        # Closed by their objects, so that a finalizer does not close the descriptor again.
        for sock in [*self._connected.alive(), *pipe]:
            if isinstance(sock, socket.socket):
                watched.discard(sock.fileno())
                sock.close()
        for descriptor in watched:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def run(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine in a `RelayLoop`, then end what is left there, as `asyncio.run` does.

    Takes what makes the coroutine. Raises `OSError` if descriptors run out, and as the coroutine.
    """
    loop = RelayLoop()
    try:
        return loop.run_until_complete(_with_clean_up(main))
    finally:
        loop.close()


async def _with_clean_up(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    loop = asyncio.get_running_loop()
    try:
        return await main()
    finally:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await loop.shutdown_asyncgens()
        await loop.shutdown_default_executor()


_loops: WeakBag[RelayLoop] = WeakBag()
#: Never collected: finalizers of tasks would act for the parent, in the store and on descriptors.
_inherited: list[RelayLoop] = []


def _after_fork_in_child() -> None:
    inherited = _loops.alive()
    # Cleared, as a child of this child has nothing more to close.
    _loops.clear()
    _inherited.extend(inherited)
    for loop in inherited:
        loop.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["RelayLoop", "run"]
