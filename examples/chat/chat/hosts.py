"""Which WebSockets the site accepts: those that a page of its own opens.

Django compares the Host header with ALLOWED_HOSTS for pages, but WebSockets do not pass its
middleware. A page of another site can open a WebSocket to this one, and with a name that leads
here it can even be asked for under that name; the browser says so in Origin and Host.
"""

from typing import Any

from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.http.request import split_domain_port, validate_host


class SameOrigin:
    """Passes a WebSocket on if its Host is the site's, and its Origin is that host and port."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        application = self.application if accepted(scope["headers"]) else WebsocketDenier()
        return await application(scope, receive, send)


def accepted(headers: list[tuple[bytes, bytes]]) -> bool:
    hosts, origins = (
        [value.decode("latin-1").lower() for name, value in headers if name == wanted]
        for wanted in (b"host", b"origin")
    )
    if len(hosts) != 1 or len(origins) != 1:
        return False
    domain, _ = split_domain_port(hosts[0])
    return validate_host(domain, settings.ALLOWED_HOSTS) and origins[0] in (
        f"http://{hosts[0]}",
        f"https://{hosts[0]}",
    )
