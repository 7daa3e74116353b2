"""channels_postgres: its layer is ours, and its server's database is not asked for."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import django
import psycopg
from django.conf import settings

from .layer import AnyLayer, stores_of_its_own

_DATABASE = {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}
settings.configure(
    DATABASES={"default": _DATABASE, "channels_postgres": _DATABASE},
    INSTALLED_APPS=["channels_postgres"],
)
django.setup()

import channels_postgres.core  # noqa: E402 - after the set-up


class _NoServer:
    """The connection by which each of their tests stops the listener of their layer."""

    @classmethod
    async def connect(cls, *_: Any, **__: Any) -> _NoServer:
        """Connect to nothing."""
        return cls()

    async def __aenter__(self) -> _NoServer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    async def execute(self, *_: Any) -> None:
        """Do nothing."""


psycopg.AsyncConnection = _NoServer  # type: ignore[misc, assignment]
channels_postgres.core.PostgresChannelLayer = AnyLayer

__all__ = ["stores_of_its_own"]
