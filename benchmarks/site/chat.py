"""The site that is measured: what a client may ask of its connection, and the ASGI application.

A client sends a command as JSON, and gets text frames: ``r`` and the answer as JSON, or ``m``,
a message's number, when it was sent, and padding. Two applications obey the same commands: a
consumer of Channels, with or without the mixin of `asgi_ipc.django.consumers`, and a bare ASGI
function that has nothing between server and layer.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import django
from django.conf import settings

#: The ordinary channel that the process of `runworker` reads.
WORK = "site-work"
#: Bytes of a message's text, unless a command says otherwise.
_USUAL = 100
_Send = Callable[[str], Awaitable[None]]


def configure() -> None:
    """Set Django up as the environment says; ``SITE`` holds what `benchmarks.site.layers` made."""
    made = json.loads(os.environ["SITE"])
    settings.configure(
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["channels", *made["apps"]],
        DATABASES=made["databases"],
        CHANNEL_LAYERS={"default": made["layer"]},
        USE_TZ=True,
    )
    django.setup()


class Commands:
    """What one client can have done; each method is a command, its arguments the JSON's."""

    def __init__(self, layer: Any, channel: str, reply: _Send) -> None:
        self._layer, self._channel, self._reply = layer, channel, reply

    async def obey(self, text: str) -> None:
        """Carry out a command, and answer if it has an answer."""
        asked = json.loads(text)
        try:
            answer = await getattr(self, asked.pop("do"))(**asked)
        except Exception as error:
            # Told to the load generator, which gives the measure up.
            answer = {"error": f"{type(error).__name__}: {error}"}
        if answer is not None:
            await self._reply("r" + json.dumps(answer))

    async def join(self, room: str) -> Any:
        """Join a room."""
        await self._layer.group_add(room, self._channel)
        return {"channel": self._channel}

    async def say(self, room: str, number: int) -> None:
        """Say one thing to a room."""
        await self._layer.group_send(room, _said(number))

    async def flood(self, room: str, first: int, count: int, gap: float = 0.0) -> Any:
        """Say many things one after the other, as an answer that comes word by word."""
        for number in range(first, first + count):
            await self._layer.group_send(room, _said(number))
            if gap:
                await asyncio.sleep(gap)
        return {}

    async def flood_from_thread(self, room: str, first: int, count: int) -> Any:
        """The same from a plain thread; how long a call takes."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[float] = loop.create_future()

        def work() -> None:
            try:
                send, began = _group_send_now(self._layer), time.perf_counter()
                for number in range(first, first + count):
                    send(room, _said(number))
                took = time.perf_counter() - began
            except Exception as error:
                loop.call_soon_threadsafe(done.set_exception, error)
            else:
                loop.call_soon_threadsafe(done.set_result, took / count)

        threading.Thread(target=work, daemon=True).start()
        return {"each": await done}

    async def tell(self, channels: list[str], first: int) -> Any:
        """Send one message to each of some clients' channels; how many were refused."""
        from channels.exceptions import ChannelFull

        refused = 0
        for number, channel in enumerate(channels, first):
            try:
                await self._layer.send(channel, _said(number))
            except ChannelFull:
                refused += 1
        return {"refused": refused}

    async def block(self, seconds: float, times: int) -> Any:
        """Let nothing else run on this worker's event loop, again and again."""
        for _ in range(times):
            time.sleep(seconds)  # noqa: ASYNC251 - that is what it is for
            await asyncio.sleep(0.005)
        return {}

    async def work(self, number: int) -> None:
        """Have the worker process say something to this client."""
        message = {**_said(number), "type": "work.ask", "channel": self._channel}
        await self._layer.send(WORK, message)


def _said(number: int) -> dict[str, Any]:
    return {"type": "said", "number": number, "at": time.monotonic(), "text": "x" * _USUAL}


def _frame(message: dict[str, Any]) -> str:
    return f"m{message['number']} {message['at']} {message['text']}"


def _group_send_now(layer: Any) -> Callable[[str, dict[str, Any]], Any]:
    """How synchronous code says something on this layer."""
    # Of its class, since channels_redis' pubsub makes attributes up for a running event loop.
    if hasattr(type(layer), "sync"):
        send: Callable[[str, dict[str, Any]], Any] = layer.sync.group_send
        return send
    from asgiref.sync import async_to_sync

    return async_to_sync(layer.group_send)


def consumer(mixin: bool) -> Any:
    """The ASGI application that sites write."""
    from channels.generic.websocket import AsyncWebsocketConsumer

    from asgi_ipc.django.consumers import DirectDispatchMixin

    class Chat(*((DirectDispatchMixin,) if mixin else ()), AsyncWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            self.commands = Commands(
                self.channel_layer, self.channel_name, partial(AsyncWebsocketConsumer.send, self)
            )
            await self.accept()

        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            await self.commands.obey(text_data)

        async def said(self, message: dict[str, Any]) -> None:
            await self.send(_frame(message))

    return Chat.as_asgi()


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """The same without Channels: what is left is the server's cost and the layer's."""
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    channel = await layer.new_channel()

    async def reply(text: str) -> None:
        await send({"type": "websocket.send", "text": text})

    async def listen() -> None:
        while True:
            await reply(_frame(await layer.receive(channel)))

    await receive()
    await send({"type": "websocket.accept"})
    commands, listening = Commands(layer, channel, reply), asyncio.create_task(listen())
    try:
        while (event := await receive())["type"] == "websocket.receive":
            await commands.obey(event["text"])
    finally:
        listening.cancel()


def worker() -> None:
    """What `manage.py runworker` does, with a consumer that answers."""
    from channels.consumer import AsyncConsumer
    from channels.layers import get_channel_layer
    from channels.routing import ChannelNameRouter
    from channels.worker import Worker

    class Answer(AsyncConsumer):  # type: ignore[misc]
        async def work_ask(self, message: dict[str, Any]) -> None:
            await self.channel_layer.send(message["channel"], {**message, "type": "said"})

    router = ChannelNameRouter({WORK: Answer.as_asgi()})
    Worker(channels=[WORK], channel_layer=get_channel_layer(), application=router).run()


def application() -> Any:
    """What uvicorn serves (``--factory``)."""
    configure()
    variant = json.loads(os.environ["SITE"])["variant"]
    chat = bare if variant == "bare" else consumer(variant == "mixin")

    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await chat(scope, receive, send)
        else:
            # Asked once, to see that the worker is there.
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    return site


if __name__ == "__main__":
    configure()
    worker()
