"""A worker of a site for the tests of bursts, run as a program with a prefix and a directory.

Its clients join rooms and count what they hear. For each message they wait for a thread once, as
consumers of Channels do. Each line of input is a command as a JSON list, answered by a line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

from asgi_ipc import IPCChannelLayer

#: Nothing that a test waits for takes so long.
_LIFETIME = 200.0


class Worker:
    """The commands."""

    def __init__(self, layer: IPCChannelLayer) -> None:
        self._layer = layer
        self._heard: Counter[str] = Counter()
        self._clients: list[tuple[str, asyncio.Task[None]]] = []

    async def join(self, room: str, count: int) -> list[str]:
        """So many clients join a room; their channels."""
        channels = [await self._layer.new_channel() for _ in range(count)]
        for channel in channels:
            await self._layer.group_add(room, channel)
            self._clients.append((room, asyncio.create_task(self._read(room, channel))))
        await asyncio.sleep(0)
        return channels

    async def _read(self, room: str, channel: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._layer.receive(channel)
            await loop.run_in_executor(None, int)
            self._heard[room] += 1

    async def say(self) -> None:
        """Each client says one thing to its room, all at once."""
        message = {"type": "chat.message", "text": "x" * 200}
        await asyncio.gather(*(self._layer.group_send(room, message) for room, _ in self._clients))

    async def flood(self, room: str, count: int, gap: float = 0) -> None:
        """Send so many messages to a room, one after the other or with a gap."""
        for number in range(count):
            await self._layer.group_send(room, {"type": "line", "text": "x" * 200, "n": number})
            if gap:
                await asyncio.sleep(gap)

    async def flood_from_thread(self, room: str, count: int) -> None:
        """The same by a plain thread."""

        def flood() -> None:
            for number in range(count):
                self._layer.sync.group_send(room, {"type": "line", "text": "x" * 200, "n": number})

        await asyncio.to_thread(flood)

    async def tell(self, channels: list[str]) -> int:
        """Send a message to each channel; how many were refused."""
        refused = 0
        for channel in channels:
            try:
                await self._layer.send(channel, {"type": "told"})
            except self._layer.ChannelFull:
                refused += 1
        return refused

    async def block(self, seconds: float, times: int = 1) -> None:
        """Block the event loop, again and again."""
        for _ in range(times):
            time.sleep(seconds)  # noqa: ASYNC251 (that is what a bad handler does)
            await asyncio.sleep(0.001)

    async def leave(self) -> None:
        """Nobody reads any more."""
        tasks = [task for _, task in self._clients]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def heard(self) -> dict[str, int]:
        """How many messages the clients of each room have heard."""
        return dict(self._heard)

    async def overflowed(self) -> float:
        """How many were dropped after they had been fetched."""
        return (await self._layer.global_statistics())["overflow_count"]


async def main(prefix: str, directory: str) -> None:
    """Carry out commands until the input ends."""
    loop = asyncio.get_running_loop()
    layer = IPCChannelLayer(prefix, engine_options={"directory": directory})
    worker, reader = Worker(layer), asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        name, *arguments = json.loads(line)
        answer: Any = await getattr(worker, name)(*arguments)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await worker.leave()
    await layer.close()


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), _LIFETIME))
