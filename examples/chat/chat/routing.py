"""Who handles what: browsers' WebSockets, and the channel that the assistant reads."""

from channels.routing import ChannelNameRouter, URLRouter
from django.urls import re_path

from chat.assistant import Assistant
from chat.consumers import FiguresConsumer, RoomConsumer

websockets = URLRouter(
    [
        re_path(r"^ws/room/(?P<room>[A-Za-z0-9_-]{1,40})/$", RoomConsumer.as_asgi()),
        re_path(r"^ws/figures/$", FiguresConsumer.as_asgi()),
    ]
)
channels = ChannelNameRouter({"assistant": Assistant.as_asgi()})
