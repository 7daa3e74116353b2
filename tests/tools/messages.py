"""Messages as the bytes that the default serializer makes of them."""

from __future__ import annotations

from asgi_ipc.encoding.codec import decode, encode

__all__ = ["decode", "encode"]
