"""The ASGI application that uvicorn and `runworker` load."""

import os

from channels.routing import ProtocolTypeRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
http = get_asgi_application()  # Sets Django up; what needs that is imported after it.

from chat import routing  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": AllowedHostsOriginValidator(routing.websockets),
        "channel": routing.channels,
    }
)
