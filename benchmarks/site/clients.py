"""The load generator: many clients in one process, which count what comes to them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from .counting import Tally
from .websocket import Socket, connect

#: Seconds without a delivery after which the rest is taken to be lost.
LOST = 4.0
#: Seconds for a burst at most.
LONGEST = 30.0
#: Seconds for an answer.
_ANSWER = 30.0
#: Connections that are being opened at once.
_OPENING = 50


class Refused(Exception):
    """The site could not carry a command out; says why."""


class Crowd:
    """Clients of one site. Numbers of messages are given out here, so that none is used twice."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._numbers = 0
        #: What is counted now.
        self.tally = Tally()
        #: Called with the number of each message that comes, once it has been counted.
        self.heard: Callable[[int], None] | None = None
        self.clients: list[Client] = []
        #: Commands that failed.
        self.errors = 0

    async def open(self, count: int, worker: int | None = None) -> list[Client]:
        """Connect clients, to one worker or to all in turn."""
        free = asyncio.Semaphore(_OPENING)

        async def opened(number: int) -> Client:
            port = self._ports[number % len(self._ports) if worker is None else worker]
            client = Client(self, len(self.clients))
            self.clients.append(client)
            async with free:
                client.socket = await connect(port, client.received)
            return client

        return list(await asyncio.gather(*map(opened, range(count))))

    def count(self, messages: int, members: int) -> Tally:
        """Count from now on: so many new messages, each for so many clients."""
        first, self._numbers = self._numbers, self._numbers + messages
        self.tally = Tally(range(first, self._numbers), messages * members)
        return self.tally

    def pass_over(self, messages: int) -> int:
        """The first of so many numbers that are not counted."""
        first, self._numbers = self._numbers, self._numbers + messages
        return first

    async def settle(self, tally: Tally, lost: float = LOST) -> Tally:
        """Wait until all has come or nothing comes any more, then a little for what comes twice."""
        before, since = -1, time.monotonic()
        while tally.missing and time.monotonic() < tally.began + LONGEST:
            now = time.monotonic()
            if tally.arrived != before:
                before, since = tally.arrived, now
            elif now - since > lost:
                break
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        return tally

    async def close(self, clients: Sequence[Client]) -> None:
        """Have clients leave."""
        for client in clients:
            client.close()
        await asyncio.sleep(0.2)


class Client:
    """One client."""

    socket: Socket

    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd, self._number = crowd, number
        self._answers: asyncio.Queue[Any] = asyncio.Queue()

    def received(self, frame: bytes) -> None:
        """Take a text frame."""
        if frame[:1] == b"r":
            answer = json.loads(frame[1:])
            self._crowd.errors += "error" in answer
            self._answers.put_nowait(answer)
            return
        head, sent, _ = frame.split(b" ", 2)
        number = int(head[1:])
        self._crowd.tally.came(self._number, number, float(sent), time.monotonic())
        if self._crowd.heard is not None:
            self._crowd.heard(number)

    def order(self, do: str, **arguments: Any) -> None:
        """Send a command."""
        self.socket.send(json.dumps({"do": do, **arguments}))

    async def ask(self, do: str, **arguments: Any) -> Any:
        """Send a command and wait for the answer. Raises `Refused`."""
        self.order(do, **arguments)
        answer = await asyncio.wait_for(self._answers.get(), _ANSWER)
        if "error" in answer:
            raise Refused(f"{do}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Leave."""
        self.socket.close()


async def join(clients: Sequence[Client], room: str) -> list[str]:
    """Have clients join a room; their channels."""
    answers = await asyncio.gather(*(client.ask("join", room=room) for client in clients))
    return [answer["channel"] for answer in answers]
