"""A layer whose store is read, and the values that a text has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asgi_ipc import SyncIPCChannelLayer


@pytest.fixture
def layer() -> Iterator[SyncIPCChannelLayer]:
    with SyncIPCChannelLayer("site", engine="memory") as made:
        yield made
        made.destroy()


def values_of(text: str) -> dict[str, float]:
    """The value of each series."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
