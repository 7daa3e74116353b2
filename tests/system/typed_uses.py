"""What users write, for type checkers: each line must be right, and have the type that it says.

`make lint` has mypy and pyright read this file; nothing runs it.
"""

from __future__ import annotations

import re
from typing import Any

from typing_extensions import assert_type

from asgi_ipc import ChannelFull, IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.django import get_layer
from asgi_ipc.engines.memory import MemoryEngine

by_name: dict[str, int] = {"thumbnails-generate": 1000}
by_pattern: dict[re.Pattern[str], int] = {re.compile(r"import\."): 5}
settings: dict[str, Any] = {"prefix": "mysite", "channel_capacity": by_name}

layer = IPCChannelLayer("mysite", channel_capacity=by_name, expiry=30, capacity=None)
sync = SyncIPCChannelLayer(prefix="mysite", engine=MemoryEngine, channel_capacity=by_pattern)
IPCChannelLayer(channel_capacity={"a": 1, re.compile("b"): 2}, engine_options={"mode": 0o600})
IPCChannelLayer(**settings)

assert_type(sync.receive(["a"]), tuple[str, dict[str, Any]] | tuple[None, None])
assert_type(sync.receive(["a"], True, 5), tuple[str, dict[str, Any]] | tuple[None, None])
assert_type(
    sync.receive(["a"], block=True, timeout=5), tuple[str, dict[str, Any]] | tuple[None, None]
)
assert_type(sync.receive(["a"], block=True), tuple[str, dict[str, Any]])
assert_type(sync.receive(["a"], True, None), tuple[str, dict[str, Any]])
assert_type(layer.sync, SyncIPCChannelLayer)
assert_type(get_layer(), IPCChannelLayer)
assert_type(get_layer("other").sync.new_channel("a?"), str)
assert_type(sync.global_statistics(), dict[str, float])
assert_type(layer.ChannelFull, type[ChannelFull])

channel, message = sync.receive(["a"], block=True)
print(channel.upper(), message["type"])  # noqa: T201


class Room(IPCChannelLayer):
    """A layer of one's own."""

    async def group_add(self, group: str, channel: str) -> None:
        """Add it to the group of all as well."""
        await super().group_add("all", channel)
        await super().group_add(group, channel)


assert_type(Room("a", capacity=1), Room)


async def main() -> None:
    """Use the asynchronous side."""
    assert_type(await layer.receive("a"), dict[str, Any])
    assert_type(await layer.new_channel(), str)
    assert_type(await layer.group_channels("news"), list[str])
