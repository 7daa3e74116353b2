"""``python -m tests.tools.green gevent|eventlet ENGINE``: the layers in green threads.

Everything is patched, as a server does it. While one green thread waits for a message, or for room,
another one runs, and sends or receives it. An event loop runs in a green thread too.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def main(library: str, engine: str) -> None:
    """See the module."""
    if library == "gevent":
        import gevent  # type: ignore[import-untyped,import-not-found,unused-ignore]
        from gevent import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            monkey,
        )

        monkey.patch_all()
        spawn, wait, sleep = gevent.spawn, gevent.wait, gevent.sleep
    else:
        import eventlet  # type: ignore[import-untyped,import-not-found,unused-ignore]

        eventlet.monkey_patch()
        spawn, sleep = eventlet.spawn, eventlet.sleep

        def wait(threads: list[object]) -> None:
            for each in threads:
                each.wait()  # type: ignore[attr-defined]

    import asyncio

    from asgi_ipc import IPCChannelLayer

    both = IPCChannelLayer(
        f"green-{os.getpid()}", engine=engine, channel_memory=1 << 20, channel_capacity={"full": 1}
    )
    layer = both.sync
    got: list[Any] = []
    turns = 0

    def receive() -> None:
        for _ in range(20):
            got.append(layer.receive(["a", "x!"], block=True, timeout=30)[1])

    def send() -> None:
        nonlocal turns
        for number in range(20):
            sleep(0.005)
            turns += 1
            layer.send("a" if number % 2 else "x!local", {"n": number})

    def receive_own() -> None:
        got.append(layer.receive([mine], block=True, timeout=30)[1])

    def send_when_there_is_room() -> None:
        layer.send("full", {"n": 2}, wait=30)
        layer.send(mine, {"n": 3})

    def make_room() -> None:
        sleep(0.02)
        got.append(layer.receive(["full"])[1])

    async def talk() -> None:
        channel = await both.new_channel()
        await both.group_add("g", channel)
        asyncio.get_running_loop().call_later(0.01, layer.group_send, "g", {"n": 4})
        got.append(await asyncio.wait_for(both.receive(channel), 30))

    def run() -> None:
        asyncio.run(talk())

    try:
        wait([spawn(receive), spawn(send)])
        assert turns == 20
        # In the order of sending on each channel; between channels there is none.
        numbers = [message["n"] for message in got]
        assert [n for n in numbers if n % 2] == list(range(1, 20, 2)), got
        assert [n for n in numbers if not n % 2] == list(range(0, 20, 2)), got
        got.clear()
        mine = layer.new_channel()
        layer.send("full", {"n": 1})
        wait([spawn(receive_own), spawn(send_when_there_is_room), spawn(make_room)])
        wait([spawn(run)])
        assert got == [{"n": 1}, {"n": 3}, {"n": 4}], got
        assert layer.receive(["full"]) == ("full", {"n": 2})
    finally:
        layer.destroy()


if __name__ == "__main__":
    main(*sys.argv[1:])
