"""The ASGI application that uvicorn and `runworker` load."""

import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
http = get_asgi_application()  # Sets Django up; what needs that is imported after it.

from chat import routing  # noqa: E402
from chat.hosts import SameOrigin  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": SameOrigin(routing.websockets),
        "channel": routing.channels,
    }
)
