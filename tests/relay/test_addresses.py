"""Wires to a host that has several addresses."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from asgi_ipc.conformance.wires.servers import Nats, Redis, Server

from tests.tools.wires import in_loop, works


@contextlib.contextmanager
def swallowing(host: str, port: int) -> Iterator[None]:
    """An address at which attempts to connect get no answer."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):  # Its backlog is full.
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse what finds no room")
@pytest.mark.parametrize("kind", [Redis, Nats])
@in_loop
async def test_an_address_that_swallows_all_does_not_keep_a_wire_from_another(
    kind: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.missing():
        pytest.skip(kind.missing())
    server = kind()
    try:
        there = (socket.AF_INET, socket.SOCK_STREAM, 6, "")

        def resolve(*_: Any, **__: Any) -> list[Any]:
            return [(*there, (host, server.port)) for host in ("127.0.0.2", "127.0.0.1")]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        with swallowing("127.0.0.2", server.port):
            await works(server.url.replace("127.0.0.1", "site.internal"), timeout=2)
    finally:
        server.end()
