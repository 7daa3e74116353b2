"""The commands on stores, ``check`` and ``doctor``, for tests outside `tests/cli`."""

from __future__ import annotations

import pytest

from asgi_ipc.cli.check import check, remove
from asgi_ipc.cli.doctor.engines import look_at_store
from asgi_ipc.cli.lock_files import header_of, location_of

__all__ = [
    "check",
    "expect_version",
    "header_of",
    "location_of",
    "look_at_store",
    "remove",
    "restart",
]


def expect_version(patch: pytest.MonkeyPatch, version: int) -> None:
    """Let the commands be those of a release with another format of stores."""
    patch.setattr("asgi_ipc.cli.check.VERSION", version)
    patch.setattr("asgi_ipc.cli.doctor.engines.VERSION", version)


def restart(patch: pytest.MonkeyPatch, boot_identity: bytes) -> None:
    """Let the doctor find that the system has been started anew."""
    patch.setattr("asgi_ipc.cli.doctor.engines.boot_identity", lambda: boot_identity)
