"""For suites of consumers: a Django project in which Channels' layer in memory is ours."""

from __future__ import annotations

import os
from pathlib import Path

import channels.layers
import django
from django.conf import settings

from .layer import AnyLayer, stores_of_its_own

channels.layers.InMemoryChannelLayer = AnyLayer
settings.configure(
    SECRET_KEY="of a test",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path("db").absolute(),
            "TEST": {"NAME": str(Path(f"test-db-{os.getpid()}").absolute())},
        }
    },
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "channels",
        "tests.compat.adapters.app",
    ],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    ROOT_URLCONF="tests.compat.adapters.app.urls",
    USE_TZ=True,
)
django.setup()

__all__ = ["stores_of_its_own"]
