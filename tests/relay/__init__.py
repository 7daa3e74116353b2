"""Tests of asgi_ipc.relay."""
