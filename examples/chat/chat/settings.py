"""Settings of the chat: no database, no sessions, no static files, one channel layer."""

import os
from typing import Any

DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
INSTALLED_APPS = ["channels", "chat"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",  # It is this one that refuses foreign hosts.
]
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
