"""Our layer with the names and options of the layers that others' tests are about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.testing.stores import TemporaryStore, new_prefix, noted

#: Options that a layer with a server has in common with ours; the others name the server.
SHARED = ("expiry", "group_expiry", "capacity", "channel_capacity")
#: The prefixes of the stores of the current test.
_prefixes: dict[str, str] = {}


class AnyLayer(IPCChannelLayer):
    """Takes the options of a layer with a server, and drops those that name the server."""

    def __init__(self, *_: Any, prefix: str = "asgi", **options: Any) -> None:
        kept = {name: options[name] for name in SHARED if name in options}
        super().__init__(_prefixes.setdefault(prefix, new_prefix(prefix)), **kept)


@pytest.fixture(autouse=True)
def stores_of_its_own() -> Iterator[None]:
    """Each test's layers have stores of their own, which are removed."""
    _prefixes.clear()
    yield
    with noted([TemporaryStore.of({"prefix": prefix}) for prefix in _prefixes.values()]):
        pass
