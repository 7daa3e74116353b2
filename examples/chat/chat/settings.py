"""Settings of the chat: no database, no sessions, no static files, one channel layer."""

import os
import secrets
from typing import Any

DEBUG = False
# Nothing here is signed, so each process may have a key of its own. Django asks for one when it
# reports an error: version 4.2 even answers a foreign host with status 500 without it.
SECRET_KEY = secrets.token_hex(32)
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
INSTALLED_APPS = ["channels", "chat"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",  # It is this one that refuses foreign hosts.
]
# Whether the page's buttons work: one kills a process. Only run.py switches them on, and it serves
# this machine alone.
DEMO = os.environ.get("CHAT_DEMO") == "1"
#: How many web processes there are, as far as run.py says.
WORKERS = int(os.environ.get("CHAT_WORKERS", "1"))
ROOT_URLCONF = "chat.urls"
ASGI_APPLICATION = "chat.asgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
]

# This is all that asgi_ipc needs. The engine and the prefix come from run.py, so that
# several chats can run on one machine; a site would write them down here.
CHANNEL_LAYERS: dict[str, Any] = {
    "default": {
        "BACKEND": "asgi_ipc.IPCChannelLayer",
        "CONFIG": {
            "engine": os.environ.get("ENGINE", "posix"),
            "prefix": os.environ.get("CHAT_PREFIX", "chat"),
        },
    },
}

# Joins this machine to others over a server: one more line of CONFIG. cluster.py sets it.
if os.environ.get("CHAT_RELAY"):
    CHANNEL_LAYERS["default"]["CONFIG"]["relay"] = os.environ["CHAT_RELAY"]
