"""Give the tests of wires their fixtures. The rest is in the conftest above."""

from __future__ import annotations

from asgi_ipc.conformance.wires.fixtures import conformance_wire, wire_servers, wires

__all__ = ["conformance_wire", "wire_servers", "wires"]
