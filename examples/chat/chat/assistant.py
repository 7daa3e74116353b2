"""The background worker: hears every room, answers what starts with "/".

It runs in a process of its own (`manage.py runworker assistant`) and has no connection to
any browser; all it knows and says goes through the channel layer.
"""

import os
import random
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from channels.consumer import AsyncConsumer

#: Rooms, and names in one, that are remembered: visitors choose both.
MOST = 1000
HELP = "I know /stats, /roll (or /roll 2d20) and /help."


@dataclass
class Room:
    """What the assistant remembers of a room."""

    messages: int = 0
    names: set[str] = field(default_factory=set)


class Assistant(AsyncConsumer):
    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}

    async def room_heard(self, message: dict[str, Any]) -> None:
        name, text = message["room"], message["text"]
        # The room that was quiet for longest is forgotten first.
        room = self.rooms.pop(name, None) or Room()
        if len(self.rooms) >= MOST:
            del self.rooms[next(iter(self.rooms))]
        self.rooms[name] = room
        if not text.startswith("/"):
            room.messages += 1
            if len(room.names) < MOST:
                room.names.add(message["name"])
            return
        command, _, argument = text[1:].partition(" ")
        if command == "stats":
            answer = await self.stats(name, room)
        elif command == "roll":
            answer = roll(argument.strip(), message["name"])
        else:
            answer = HELP
        await self.channel_layer.group_send(
            f"room.{name}",
            {
                "type": "room.message",
                "room": name,
                "id": uuid.uuid4().hex,
                "time": time.time(),
                "name": "assistant",
                "text": answer,
                "sent_by": os.getpid(),
            },
        )

    async def stats(self, name: str, room: Room) -> str:
        # `group_channels` is asgi_ipc's own; the channel layer specification has no such call.
        windows = len(await self.channel_layer.group_channels(f"room.{name}"))
        said = f"{count(room.messages, 'message')} from {count(len(room.names), 'person')}"
        return f"{name}: {said} so far, {count(windows, 'window')} open."


def roll(dice: str, name: str) -> str:
    """`2d20` is two dice of twenty sides; nothing is one of six."""
    match = re.fullmatch(r"([1-9]\d?)?d([1-9]\d{0,3})", dice or "1d6")
    if match is None:
        return f"I can't roll {dice[:20]!r}. {HELP}"
    thrown = [random.randint(1, int(match[2])) for _ in range(int(match[1] or 1))]
    total = f" = {sum(thrown)}" if len(thrown) > 1 else ""
    return f"{name} rolled {' + '.join(map(str, thrown))}{total}."


def count(number: int, noun: str) -> str:
    plural = "people" if noun == "person" else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
