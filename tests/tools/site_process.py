"""A process of a site on a machine: ``python site_process.py FOLDER URL NAME``.

Joins the group "room" and writes ``NAME N`` for each message on it with the number N. Any process
may relay as soon as it waits.
"""

from __future__ import annotations

import asyncio
import sys

from asgi_ipc import IPCChannelLayer
from asgi_ipc.layers import candidate


async def main(folder: str, url: str, name: str) -> None:
    layer = IPCChannelLayer(
        "site",
        engine="mmap",
        engine_options={"directory": folder},
        channel_memory=4 << 20,
        group_memory=1 << 20,
        relay=url,
    )
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    sys.stdout.write(f"{name} ready\n")
    sys.stdout.flush()
    while True:
        message = await layer.receive(channel)
        sys.stdout.write(f"{name} {message['n']}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    candidate.SERVES = 0.0
    asyncio.run(main(*sys.argv[1:]))
