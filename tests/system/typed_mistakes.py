"""Mistakes of users, for type checkers: each line must be an error to mypy and to pyright.

Each says so in a comment for either; `make lint` fails on a comment that no error needs. Nothing
runs this file.
"""

from __future__ import annotations

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.django import get_layer

# Options that there are not, or no more; and those that take something else.
IPCChannelLayer(hosts=[("localhost", 6379)])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
IPCChannelLayer(capacty=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
SyncIPCChannelLayer(message_memory=1 << 20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
IPCChannelLayer("mysite", "posix")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
IPCChannelLayer(capacity="100")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
IPCChannelLayer(expiry=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
IPCChannelLayer(channel_memory=1e8)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
IPCChannelLayer(channel_capacity={"a": "1"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
IPCChannelLayer(channel_capacity=[("a", 1)])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
IPCChannelLayer(engine=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

layer = IPCChannelLayer()
sync = layer.sync

# A result that may be None, and one of another shape.
channel, message = sync.receive(["a"])
channel.upper()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
channel, message = sync.receive(["a"], block=True, timeout=5)
message["type"]  # type: ignore[index]  # pyright: ignore[reportOptionalSubscript]
sync.receive(["a"], block=True)["type"]  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

# A coroutine is not awaited, the other side's method is.
layer.group_send("news", {})["type"]  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
sync.new_channel(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
sync.send("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
sync.send("a", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
sync.group_sent("news", {})  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
get_layer(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
get_layer().sink()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
