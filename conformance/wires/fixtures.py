"""The fixture of the suite for wires: ``wires``, for each wire under test."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from typing import Any

import pytest

# By the full names: the plug-in is the installed package's, wherever this file lies.
from asgi_ipc.conformance.fixtures import WATCHDOG
from asgi_ipc.conformance.plugin import chosen, require, wire_options

from asgi_ipc.relay.wire_choice import find_wire

from .case import Line, MemoryLine, ProxyLine, WireCase
from .servers import SERVERS, Server


@pytest.fixture(scope="session")
def conformance_wire(request: pytest.FixtureRequest) -> str:
    """The wire under test; the plug-in gives each test its own."""
    require(request.config)
    raise NotImplementedError("the plug-in has not parametrized this test")


@pytest.fixture(scope="session")
def wire_servers() -> Iterator[dict[str, Server]]:
    """The servers of this run, by the names of wires; filled when they are first needed."""
    servers: dict[str, Server] = {}
    try:
        yield servers
    finally:
        for server in servers.values():
            server.end()


@pytest.fixture
def wires(
    request: pytest.FixtureRequest,
    conformance_wire: str,
    wire_servers: dict[str, Server],
    real_stderr: int,
) -> Iterator[WireCase]:
    """One wire under test, with a line to its server and a prefix of its own."""
    factory: Any = find_wire(conformance_wire)
    needs = {name for mark in request.node.iter_markers("needs") for name in mark.args}
    if "queues" in needs and not factory.capabilities.queues:
        pytest.skip(f"{conformance_wire} declares no queues")
    server = None
    (url,) = chosen(request.config, "--wire-url")[:1] or [""]
    if not url and conformance_wire in SERVERS:
        missing = SERVERS[conformance_wire].missing()
        if missing:
            pytest.skip(f"{conformance_wire} can't be tested here: {missing}")
        if conformance_wire not in wire_servers:
            wire_servers[conformance_wire] = SERVERS[conformance_wire]()
        server = wire_servers[conformance_wire]
        url = server.url
    in_memory = not url or url.startswith("memory:")
    line: Line = MemoryLine() if in_memory else ProxyLine(url)
    if "network" in needs and in_memory:
        pytest.skip(f"{conformance_wire} uses no network")
    if "server" in needs and server is None:
        pytest.skip(f"the suite has not started the server of {conformance_wire}")
    faulthandler.dump_traceback_later(WATCHDOG, exit=True, file=real_stderr)
    try:
        yield WireCase(conformance_wire, factory, line, server, dict(wire_options(request.config)))
    finally:
        faulthandler.cancel_dump_traceback_later()


__all__ = ["conformance_wire", "wire_servers", "wires"]
