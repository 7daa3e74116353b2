"""A room whose members hear what is said, also after the store was flushed or replaced."""

import os
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.dispatch import receiver
from django.urls import path

from asgi_ipc.django.signals import store_lost

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
http = get_asgi_application()


@receiver(store_lost)
def tell(prefix: str, **_: Any) -> None:
    """Tell of it, as a site would send an alarm."""
    print(f"signal: store {prefix} lost what it held", flush=True)  # noqa: T201


class Room(AsyncJsonWebsocketConsumer):
    """A member of the group "room"."""

    async def connect(self) -> None:
        # First, so that no loss goes unnoticed between the two.
        self.channel_layer.on_store_lost(self.join)
        await self.join()
        await self.accept()

    async def join(self) -> None:
        """Join the room, or join it again."""
        await self.channel_layer.group_add("room", self.channel_name)

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("room", self.channel_name)

    async def receive_json(self, content: Any, **_: Any) -> None:
        await self.channel_layer.group_send("room", {"type": "said", "content": content})

    async def said(self, event: dict[str, Any]) -> None:
        """Pass on what was said."""
        await self.send_json(event["content"])


application = ProtocolTypeRouter({"http": http, "websocket": URLRouter([path("", Room.as_asgi())])})
