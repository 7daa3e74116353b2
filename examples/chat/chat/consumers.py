"""One side of the page in one room, and the strip of figures above."""

import asyncio
import json
import os
import statistics
import time
import uuid
from typing import Any

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings

from asgi_ipc.django.consumers import DirectDispatchMixin

MAX_NAME = 40
MAX_TEXT = 2000
#: Close code for a browser that asked for another process than this one.
NOT_THIS_ONE = 4001
#: Seconds between two looks at the figures.
EVERY = 1.0
#: Round trips between two looks; the figure is their median.
TRIPS = 5


class Socket(DirectDispatchMixin, AsyncWebsocketConsumer):
    """A WebSocket that talks JSON."""

    async def tell(self, **what: Any) -> None:
        await self.send(text_data=json.dumps(what))

    async def ask(self, channel: str, message: dict[str, Any]) -> bool:
        """Send to a channel that another process reads; whether there was room."""
        try:
            await self.channel_layer.send(channel, message)
        except ChannelFull:
            return False
        return True


class RoomConsumer(Socket):
    """Passes what its browser says to the room's group, and what the group hears back."""

    group = ""

    async def connect(self) -> None:
        await self.accept()
        # The page shows a room twice, and wants another process for each side.
        if self.scope["query_string"] == f"avoid={os.getpid()}".encode():
            await self.close(NOT_THIS_ONE)
            return
        self.room: str = self.scope["url_route"]["kwargs"]["room"]
        self.group = f"room.{self.room}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.tell(kind="welcome", room=self.room, pid=os.getpid())

    async def disconnect(self, code: int) -> None:
        if self.group:
            await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        said = understood(text_data)
        if "do" in said and settings.DEMO and self.group:
            await self.do(said["do"])
        elif "text" in said and self.group:
            await self.say(said["name"], said["text"])
        else:
            await self.tell(kind="notice", text="That was not understood.")

    async def say(self, name: str, text: str) -> None:
        message = {
            "type": "room.message",
            "room": self.room,
            "id": uuid.uuid4().hex,
            "time": time.time(),
            "sent_at": time.monotonic_ns(),
            "name": name,
            "text": text,
            "sent_by": os.getpid(),
        }
        await self.channel_layer.group_send(self.group, message)
        # The assistant reads an ordinary channel. It may fall behind; then we say so.
        if not await self.ask("assistant", {**message, "type": "room.heard"}):
            await self.tell(kind="notice", text="The assistant is busy and missed that.")

    async def do(self, what: str) -> None:
        """Press one of the buttons. Both go through the layer to the process that can."""
        if what == "kill":  # This very process, and no other.
            asked = await self.ask("supervisor", {"type": "kill", "pid": os.getpid()})
        else:
            asked = await self.ask("assistant", {"type": "room.stream", "room": self.room})
        if not asked:
            await self.tell(kind="notice", text="Too much at once; try again in a moment.")

    async def room_message(self, message: dict[str, Any]) -> None:
        """From the group; this method's name is the message's type."""
        seen = {key: value for key, value in message.items() if key not in ("type", "sent_at")}
        took = round((time.monotonic_ns() - message["sent_at"]) / 1e6, 3)
        await self.tell(kind="message", delivered_by=os.getpid(), took=took, **seen)

    async def room_token(self, message: dict[str, Any]) -> None:
        """One of many, from the assistant."""
        seen = {key: value for key, value in message.items() if key != "type"}
        await self.tell(kind="token", delivered_by=os.getpid(), **seen)


class FiguresConsumer(Socket):
    """Tells the page once a second how the layer is."""

    async def connect(self) -> None:
        await self.accept()
        await self.channel_layer.group_add("figures", self.channel_name)
        await self.ask("supervisor", {"type": "tell"})
        self.trips: list[float] = []
        self.telling = asyncio.create_task(self.tell_figures())

    async def disconnect(self, code: int) -> None:
        self.telling.cancel()
        await self.channel_layer.group_discard("figures", self.channel_name)

    async def tell_figures(self) -> None:
        before = None
        while True:
            counts = await self.channel_layer.global_statistics()
            now = time.monotonic()
            if before:
                then, count = before
                await self.tell(
                    kind="figures",
                    rate=round((counts["messages_count"] - count) / (now - then)),
                    round_trip=statistics.median(self.trips) if self.trips else None,
                    used=counts["bytes_used"],
                    total=counts["bytes_total"],
                )
            before = now, counts["messages_count"]
            self.trips = []
            await self.ping()
            await asyncio.sleep(EVERY)

    async def ping(self) -> None:
        """To the assistant's process; `figures_pong` is what comes back."""
        ping = {"type": "figures.ping", "reply": self.channel_name}
        await self.ask("assistant", {**ping, "sent_at": time.monotonic_ns()})

    async def figures_pong(self, message: dict[str, Any]) -> None:
        self.trips.append(round((time.monotonic_ns() - message["sent_at"]) / 1e6, 3))
        if len(self.trips) < TRIPS:
            await self.ping()

    async def figures_processes(self, message: dict[str, Any]) -> None:
        """From the supervisor: which processes there are, and what has happened to one."""
        await self.tell(**{**message, "type": "figures", "kind": "processes"})


def understood(frame: str | None) -> dict[str, str]:
    """Name and text, or what to do, out of what a browser sent; empty if that is something else."""
    try:
        said = json.loads(frame or "")
        if "do" in said:
            return {"do": said["do"]} if said["do"] in ("kill", "stream") else {}
        name, text = said["name"].strip(), said["text"].strip()
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    if not text or len(text) > MAX_TEXT or len(name) > MAX_NAME:
        return {}
    return {"name": name or "Anonymous", "text": text}
