"""One browser window in one room."""

import json
import os
import time
import uuid
from typing import Any

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncWebsocketConsumer

MAX_NAME = 40
MAX_TEXT = 2000


class RoomConsumer(AsyncWebsocketConsumer):
    """Passes what its browser says to the room's group, and what the group hears back."""

    async def connect(self) -> None:
        self.room: str = self.scope["url_route"]["kwargs"]["room"]
        self.group = f"room.{self.room}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.tell(kind="welcome", room=self.room, pid=os.getpid())

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        said = parse(text_data)
        if said is None:
            await self.tell(kind="notice", text="That was not understood.")
            return
        name, text = said
        message = {
            "type": "room.message",
            "room": self.room,
            "id": uuid.uuid4().hex,
            "time": time.time(),
            "name": name,
            "text": text,
            "sent_by": os.getpid(),
        }
        await self.channel_layer.group_send(self.group, message)
        # The assistant reads an ordinary channel. It may fall behind; then we say so.
        try:
            await self.channel_layer.send("assistant", {**message, "type": "room.heard"})
        except ChannelFull:
            await self.tell(kind="notice", text="The assistant is busy and missed that.")

    async def room_message(self, message: dict[str, Any]) -> None:
        """From the group; this method's name is the message's type."""
        seen = {key: value for key, value in message.items() if key != "type"}
        await self.tell(kind="message", delivered_by=os.getpid(), **seen)

    async def tell(self, **what: Any) -> None:
        await self.send(text_data=json.dumps(what))


def parse(frame: str | None) -> tuple[str, str] | None:
    """Name and text out of what a browser sent; None if it is not of our making."""
    try:
        said = json.loads(frame or "")
        name, text = said["name"].strip(), said["text"].strip()
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not text or len(text) > MAX_TEXT or len(name) > MAX_NAME:
        return None
    return name or "Anonymous", text
