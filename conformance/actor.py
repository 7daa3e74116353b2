"""The process behind a `Puppet`: opens a store and executes commands.

It needs only asgi_ipc. Each line of input is a command; each method of `Actor` is one.
"""

from __future__ import annotations

import ast
import faulthandler
import itertools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from asgi_ipc.engines import open_engine
from asgi_ipc.engines.base import Bell, Engine, LeasedEngine, Record

from .tools import ENOUGH, CheckedThread, patient

if TYPE_CHECKING:
    from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer

#: Seconds after which the process ends by itself; no test needs it that long.
LIFETIME = 300.0


class Actor:
    """The commands that a test may send to another process."""

    def __init__(self, arguments: dict[str, Any], output: int) -> None:
        self.arguments = arguments
        self.output = output
        self.opened: Engine | None = None
        self.bell: Bell | None = None
        self.asynchronous: IPCChannelLayer | None = None
        self.synchronous: SyncIPCChannelLayer | None = None

    @property
    def engine(self) -> Engine:
        assert self.opened is not None, "not open"
        return self.opened

    def say(self, text: object) -> None:
        """Print a line at once: the process may be killed a moment later."""
        os.write(self.output, f"{text}\n".encode())

    # The engine, method by method.

    def open(self) -> bytes:
        self.opened = open_engine(
            self.arguments["engine"],
            self.arguments["prefix"],
            channel_memory=self.arguments["channel_memory"],
            group_memory=self.arguments["group_memory"],
            engine_options=self.arguments["engine_options"],
        )
        return self.opened.identity

    def push(
        self,
        queue: bytes,
        payloads: Iterable[bytes],
        owner: bytes = b"",
        lifetime: float = 60,
        capacity: int = 1 << 20,
    ) -> list[tuple[int, bool]]:
        deadline = self.engine.clock() + int(lifetime * 1e9)
        batch = [Record(queue, payload, deadline, capacity, owner) for payload in payloads]
        return [(refused.position, refused.no_room) for refused in self.engine.push(batch)]

    def pop(self, queue: bytes, limit: int = 1) -> list[bytes]:
        return [popped.payload for popped in self.engine.pop(queue, limit)]

    def put(self, table: bytes, member: bytes, owner: bytes = b"", lifetime: float = 60) -> None:
        self.engine.put(table, member, self.engine.clock() + int(lifetime * 1e9), owner)

    def remove(self, table: bytes, member: bytes) -> bool:
        return self.engine.remove(table, member)

    def members(self, table: bytes) -> list[bytes]:
        return sorted(self.engine.members(table).names)

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        return dict(self.engine.statistics(queue))

    def queues(self) -> list[tuple[bytes, int]]:
        return [(each.name, each.pending) for each in self.engine.queues()]

    def note(self, counts: dict[str, int]) -> None:
        self.engine.note(counts)

    def identity(self) -> bytes:
        return self.engine.identity

    def lapses(self) -> int:
        return cast(LeasedEngine, self.engine).lapses

    def hold(self, role: int) -> bool:
        return self.engine.hold(role)

    def flush(self) -> int:
        self.engine.flush()
        return self.engine.flushes

    def flushes(self) -> int:
        return self.engine.flushes

    def close(self) -> None:
        self.engine.close()

    def destroy(self) -> None:
        self.engine.destroy()

    # Waiting.

    def arm(self, queue: bytes, limit: int = 1) -> list[bytes]:
        if self.bell is None:
            self.bell = self.engine.bell()
        return [popped.payload for popped in self.engine.pop(queue, limit, self.bell)]

    def heard(self, timeout: float = ENOUGH) -> bool:
        assert self.bell is not None
        poll = select.poll()
        poll.register(self.bell.fileno(), select.POLLIN)
        signalled = bool(poll.poll(int(timeout * 1000)))
        self.bell.clear()
        return signalled

    def wait_pop(self, queue: bytes, timeout: float = ENOUGH) -> bytes | None:
        """Pop one record, waiting only for the bell, so that a lost wake-up times out.

        Polls if the engine does not signal bells across processes.
        """
        if self.engine.capabilities.wakes:
            taken = self.arm(queue)
            while not taken and self.heard(timeout):
                taken = self.arm(queue)
        else:
            until = time.monotonic() + timeout
            while not (taken := self.pop(queue)) and time.monotonic() < until:
                time.sleep(0.005)
        return taken[0] if taken else None

    def echo(self, source: bytes, target: bytes, rounds: int) -> int:
        """Move ``rounds`` records from one queue to another, one at a time; return how many."""
        for done in range(rounds):
            payload = self.wait_pop(source)
            if payload is None:
                return done
            self.push(target, [payload])
        return rounds

    def collect(self, queue: bytes, end: bytes) -> list[bytes]:
        """Pop until the record ``end``; return the records before it."""
        found = []
        while (payload := self.wait_pop(queue)) not in (None, end):
            assert payload is not None
            found.append(payload)
        return found

    # Loops that only a kill ends; they print each step that has returned.

    def push_forever(self, queue: bytes, size: int, first: int = 0) -> None:
        for number in itertools.count(first):
            while self.push(queue, [b"%08d" % number + b"x" * size]):
                time.sleep(0.001)  # The store is full.
            self.say(number)

    def pop_forever(self, queue: bytes) -> None:
        while True:
            for payload in self.pop(queue):
                self.say(int(payload[:8]))

    def put_forever(self, table: bytes) -> None:
        for number in itertools.count():
            self.put(table, b"%08d" % number)
            self.say(f"+{number}")
            if number % 3 == 0:
                self.remove(table, b"%08d" % number)
                self.say(f"-{number}")

    def open_forever(self) -> None:
        while True:
            self.open()
            self.say("open")
            self.push(b"q", [b"x"])
            self.destroy()

    # Forks.

    def forked(self, commands: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        """Execute commands in a forked child; return the result of each."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(int(ENOUGH))  # Kills a child that hangs.
            try:
                text = repr([_result(self, name, args, {}) for name, args in commands])
                os.write(writer, text.encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        assert answer, "the forked child hung or died"
        results: list[Any] = ast.literal_eval(answer.decode())
        return results

    def fork_under_fire(self, queue: bytes, times: int) -> int:
        """Fork while another thread holds the store's lock most of the time."""
        stop = threading.Event()

        def fire() -> None:
            while not stop.is_set():
                self.push(b"fire", [b"x"], capacity=10)
                self.pop(b"fire")

        thread = CheckedThread(fire)
        thread.start()
        try:
            done = 0
            for number in range(times):
                answers = self.forked(
                    [("push", (queue, [b"%d" % number])), ("statistics", (queue,))]
                )
                done += all(kind == "ok" for kind, _ in answers)
        finally:
            stop.set()
            thread.join()
        return done

    # The layers.

    def async_layer(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method in a new event loop, as `asgiref.sync.async_to_sync` does."""
        # Imported late, since most of the many processes do not need it.
        import asyncio

        from asgi_ipc import IPCChannelLayer

        if self.asynchronous is None:
            self.asynchronous = IPCChannelLayer(**self.arguments)
        wait = asyncio.wait_for(
            getattr(self.asynchronous, method)(*args, **kwargs), patient(ENOUGH)
        )
        return asyncio.run(wait)

    def layer(self, method: str, *args: Any, **kwargs: Any) -> Any:
        from asgi_ipc import SyncIPCChannelLayer

        if self.synchronous is None:
            self.synchronous = SyncIPCChannelLayer(**self.arguments)
        return getattr(self.synchronous, method)(*args, **kwargs)


def _result(actor: Actor, command: str, args: Any, kwargs: Any) -> tuple[str, Any]:
    try:
        return "ok", getattr(actor, command)(*args, **kwargs)
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}"


def main() -> None:
    """Execute commands until the input ends, also because the test's process has died."""
    faulthandler.dump_traceback_later(LIFETIME, exit=True)
    actor = Actor(ast.literal_eval(sys.argv[1]), os.dup(1))
    os.dup2(2, 1)
    for line in sys.stdin:
        command, args, kwargs = ast.literal_eval(line)
        actor.say(repr(_result(actor, command, args, kwargs)))
