"""The processes of a case: real ones, started afresh, in step with each other, and watched.

Each plays a *role*: a function that gets a `Bench` and returns what it measured. Roles of a
case meet at `Bench.sync`: nobody leaves it before all have come, and each gets what all have
brought. All roles of a case therefore call it equally often. `together` ends them all when
they take too long or one of them fails.
"""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from .peers.base import Layer, Peer
from .place import Place

#: Seconds that a process which has done its part may take to end.
_GRACE = 5.0


@dataclass(frozen=True)
class Role:
    """One process's part: a function of a module, and what it is called with."""

    function: Callable[..., Any]
    params: dict[str, Any] = field(default_factory=dict)


class CaseFailed(Exception):
    """A case came to no result; says why."""


class Bench:
    """What a role works with."""

    def __init__(self, connection: Connection, peer: Peer | None, place: Place) -> None:
        self._connection = connection
        self._peer = peer
        self._opened: list[tuple[Peer, Layer]] = []
        self.place = place

    @property
    def peer(self) -> Peer:
        """Whose layer is measured."""
        assert self._peer is not None, "a floor has no layer"
        return self._peer

    def open(self, **options: Any) -> Layer:
        """A layer of the peer on the case's place; closed when the role ends."""
        return self.open_of(self.peer, **options)

    def open_of(self, peer: Peer, **options: Any) -> Layer:
        """The same of another peer, to compare with."""
        layer = peer.open(self.place, **options)
        self._opened.append((peer, layer))
        return layer

    async def sync(self, value: Any = None) -> list[Any]:
        """Wait for the others, while the event loop goes on; what all have brought."""
        self._connection.send(("sync", value))
        loop, come = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._connection.fileno(), come.set)
        try:
            await come.wait()
        finally:
            loop.remove_reader(self._connection.fileno())
        return self._received()

    def sync_now(self, value: Any = None) -> list[Any]:
        """The same for a role without an event loop."""
        self._connection.send(("sync", value))
        return self._received()

    def _received(self) -> list[Any]:
        values = self._connection.recv()
        assert isinstance(values, list)
        return values

    async def close(self) -> None:
        """Close what was opened."""
        for peer, layer in self._opened:
            await peer.close(layer)


def together(
    peer: Peer | None, places: Sequence[Place], roles: Sequence[Role], timeout: float
) -> list[dict[str, Any]]:
    """Play the roles, each in a process of its own, at one place or at one each; what they return.

    Raises `CaseFailed`. No process is left.
    """
    context = multiprocessing.get_context("spawn")
    processes, ends, logs = [], [], []
    try:
        for number, role in enumerate(roles):
            ours, theirs = context.Pipe()
            place = places[number % len(places)]
            log = os.path.join(place.directory, f"role-{number}.log")
            logs.append(log)
            process = context.Process(
                target=_play, args=(theirs, peer, place, role, log), daemon=True
            )
            process.start()
            theirs.close()
            processes.append(process)
            ends.append(ours)
        return _conduct(ends, logs, time.monotonic() + timeout)
    finally:
        for end in ends:
            end.close()
        for process in processes:
            if process.is_alive() and sys.exc_info()[0] is not None:
                process.kill()
            process.join(_GRACE)
            if process.is_alive():
                process.kill()
                process.join()


def _conduct(
    ends: Sequence[Connection], logs: Sequence[str], deadline: float
) -> list[dict[str, Any]]:
    came: dict[int, Any] = {}
    results: dict[int, dict[str, Any]] = {}
    while len(results) < len(ends):
        waited_for = [end for at, end in enumerate(ends) if at not in results and at not in came]
        ready = wait(waited_for, max(0.0, deadline - time.monotonic()))
        if not ready:
            raise CaseFailed("took too long")
        for end in ready:
            assert isinstance(end, Connection)
            at = ends.index(end)
            try:
                kind, value = end.recv()
            except EOFError:
                raise CaseFailed(f"process {at} ended early\n{_last_lines(logs[at])}") from None
            if kind == "error":
                raise CaseFailed(f"{value}{_last_lines(logs[at])}")
            (came if kind == "sync" else results)[at] = value
        if came and len(came) + len(results) == len(ends):
            if results:
                raise CaseFailed(f"process {min(results)} is done while others wait for it")
            values = [came[at] for at in range(len(ends))]
            came.clear()
            for end in ends:
                end.send(values)
    return [results[at] for at in range(len(ends))]


def _last_lines(log: str) -> str:
    text = Path(log).read_text(errors="replace")
    return "\n".join(text.splitlines()[-20:])


def _play(connection: Connection, peer: Peer | None, place: Place, role: Role, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    bench = Bench(connection, peer, place)
    status = 0
    try:
        if inspect.iscoroutinefunction(role.function):
            asyncio.run(_play_async(connection, bench, role))
        else:
            connection.send(("result", role.function(bench, **role.params)))
            asyncio.run(bench.close())
    except BaseException:
        status = 1
        try:
            connection.send(("error", traceback.format_exc()))
        except OSError:
            pass  # Nobody listens any more.
    # Not the usual way: some libraries leave threads that would be waited for.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


async def _play_async(connection: Connection, bench: Bench, role: Role) -> None:
    result = await role.function(bench, **role.params)
    connection.send(("result", result))
    await asyncio.wait_for(bench.close(), _GRACE / 2)
