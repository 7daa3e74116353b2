"""``python -m tests.tools.green gevent|eventlet ENGINE``: the synchronous layer in green threads.

Everything is patched, as a server does it. While one green thread waits for a message another
one runs, and sends it.
"""

from __future__ import annotations

import os
import sys


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

    from asgi_ipc import SyncIPCChannelLayer

    layer = SyncIPCChannelLayer(f"green-{os.getpid()}", engine=engine, channel_memory=1 << 20)
    got: list[object] = []
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

    try:
        wait([spawn(receive), spawn(send)])
        assert turns == 20
        assert got == [{"n": number} for number in range(20)], got
    finally:
        layer.destroy()


if __name__ == "__main__":
    main(*sys.argv[1:])
