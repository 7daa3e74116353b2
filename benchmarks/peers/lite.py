"""channels-lite on SQLite, with aiosqlite, which is the faster of its two layers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..place import Place
from .base import CAPACITY, Layer, Peer, Resources

#: What its README recommends, and no waiting for a disk.
PRAGMAS = (
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA cache_size=10000;"
    "PRAGMA temp_store=MEMORY; PRAGMA mmap_size=268435456; PRAGMA busy_timeout=30000;"
)
_MIGRATE = """
import sys
import django
from django.conf import settings
from django.core.management import call_command
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    INSTALLED_APPS=["channels_lite"],
)
django.setup()
call_command("migrate", verbosity=0)
"""


def make_database(directory: str) -> str:
    """An empty database with its tables; ``""`` if that fails."""
    path = os.path.join(directory, "template.sqlite3")
    done = subprocess.run(
        [sys.executable, "-c", _MIGRATE, path], capture_output=True, timeout=60, check=False
    )
    return "" if done.returncode else path


def _database(place: Place) -> str:
    return os.path.join(place.directory, "lite.sqlite3")


def _prepare(place: Place) -> None:
    shutil.copyfile(place.database, _database(place))


def _open(place: Place, **options: Any) -> Layer:
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            DATABASES={
                "default": {
                    "ENGINE": "django.db.backends.sqlite3",
                    "NAME": _database(place),
                    "OPTIONS": {"init_command": PRAGMAS},
                }
            }
        )
    from channels_lite.layers.aio import AIOSQLiteChannelLayer

    ours = {
        "database": "default",
        "capacity": CAPACITY,
        # It counts what is queued at every send otherwise.
        "enforce_capacity": False,
        # It looks every 100 ms unless told otherwise.
        "polling_interval": 0.001,
    }
    layer: Layer = AIOSQLiteChannelLayer(**{**ours, **options})
    return layer


async def _close(layer: Any) -> None:
    await layer.close()


def _used(place: Place, layer: Any) -> int:
    return sum(path.stat().st_size for path in Path(place.directory).glob("lite.sqlite3*"))


def _unavailable(resources: Resources) -> str | None:
    return None if resources.database else "its database could not be made"


def peer() -> Peer:
    """channels_lite.layers.aio.AIOSQLiteChannelLayer."""
    return Peer(
        name="channels-lite",
        open=_open,
        close=_close,
        unavailable=_unavailable,
        imports="from channels_lite.layers.aio import AIOSQLiteChannelLayer",
        prepare=_prepare,
        used=_used,
        most_prefilled=1_000,
        # Each would need a connection, or look by itself.
        most_waiting=0,
        most_members=1_000,
    )
