"""The background worker: hears every room, answers what starts with "/", and streams tokens.

It runs in a process of its own (`manage.py runworker assistant`) and has no connection to
any browser; all it knows and says goes through the channel layer.
"""

import asyncio
import os
import random
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from channels.consumer import AsyncConsumer

from asgi_ipc.django.consumers import DirectDispatchMixin

#: Rooms, and names in one, that are remembered: visitors choose both.
MOST = 1000
#: Tokens of a stream, the seconds between two, and streams at a time.
TOKENS = 500
PAUSE = 0.004
STREAMS = 4
PROSE = (
    "Each word here is a message of its own. The assistant's process sends it to the room, and"
    " the layer hands it to every process that serves somebody in the room. No server stands in"
    " between: the processes share memory, and wake each other when there is something to read."
    " Kill a process now and watch the other side: its words keep coming, in order, one by one. "
)
HELP = "I know /stats, /roll (or /roll 2d20) and /help."


@dataclass
class Room:
    """What the assistant remembers of a room."""

    messages: int = 0
    names: set[str] = field(default_factory=set)


class Assistant(DirectDispatchMixin, AsyncConsumer):
    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.streams: set[asyncio.Task[None]] = set()

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
                "sent_at": time.monotonic_ns(),
                "name": "assistant",
                "text": answer,
                "sent_by": os.getpid(),
            },
        )

    async def room_stream(self, message: dict[str, Any]) -> None:
        if len(self.streams) < STREAMS:
            stream = asyncio.create_task(self.stream(message["room"]))
            self.streams.add(stream)
            stream.add_done_callback(self.streams.discard)

    async def stream(self, room: str) -> None:
        """Send tokens to a room, as a language model would."""
        name, words = uuid.uuid4().hex, PROSE.split()
        for number in range(TOKENS):
            token = {"type": "room.token", "id": name, "number": number, "of": TOKENS}
            token["text"] = words[number % len(words)] + " "
            await self.channel_layer.group_send(f"room.{room}", {**token, "sent_by": os.getpid()})
            await asyncio.sleep(PAUSE)

    async def figures_ping(self, message: dict[str, Any]) -> None:
        """How long it takes to another process and back."""
        pong = {"type": "figures.pong", "sent_at": message["sent_at"]}
        await self.channel_layer.send(message["reply"], pong)

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
