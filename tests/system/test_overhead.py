"""What a message and a membership cost in memory, measured on a store of each engine."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from asgi_ipc import StoreFull, SyncIPCChannelLayer
from tests.tools.messages import encode

MIB = 1024 * 1024


def make(engine: str, **options: Any) -> SyncIPCChannelLayer:
    # What expires makes room; so nothing does, however slow the machine.
    options = {"capacity": 10**6, "expiry": 3600, **options}
    return SyncIPCChannelLayer(f"overhead-{secrets.token_hex(6)}", engine=engine, **options)


@pytest.mark.parametrize("engine", ["posix", "sysv", "mmap"])
@pytest.mark.parametrize("size", [1, 64, 150, 155, 1_000, 10_000, 50_000])
def test_a_message_costs_at_most_50_bytes_beside_its_own(engine: str, size: int) -> None:
    layer = make(engine, channel_memory=16 * MIB)
    try:
        message = {"type": "x" * size}
        layer.send("c", message)
        count = max(100, 2 * MIB // (size + 100))
        before = layer.global_statistics()["bytes_used"]
        for _ in range(count):
            layer.send("c", message)
        cost = (layer.global_statistics()["bytes_used"] - before) / count
        # A message that reaches into a further extent of 64 KiB has a piece there.
        assert cost - len(encode(message)) <= 50 + 24 * size / 65_536
    finally:
        layer.destroy()


@pytest.mark.parametrize("engine", ["posix", "sysv", "mmap"])
@pytest.mark.parametrize("size", [150, 1_000, 50_000])
def test_a_store_takes_as_many_messages_as_that_says(engine: str, size: int) -> None:
    """Not only by the store's own count: until it is full."""
    layer = make(engine, channel_memory=8 * MIB)
    try:
        message, count = {"type": "x" * size}, 0
        try:
            while True:
                layer.send(f"c.{count % 8}", message)  # One may not have it all.
                count += 1
        except StoreFull:
            pass
        # A sixteenth is kept for handles, and one extent for cleaning.
        assert count * (len(encode(message)) + 50) >= 0.9 * 8 * MIB
    finally:
        layer.destroy()


@pytest.mark.parametrize("engine", ["posix", "sysv", "mmap"])
@pytest.mark.parametrize("groups", [1, 100])
def test_a_mebibyte_holds_at_least_8000_memberships(engine: str, groups: int) -> None:
    layer = make(engine, group_memory=MIB)
    try:
        for number in range(8_000):
            layer.group_add(
                f"group-{number % groups:014}",
                f"specific.{secrets.token_hex(16)}!{secrets.token_hex(16)}",
            )
        counts = layer.global_statistics()
        assert counts["memberships_count"] == 8_000
    finally:
        layer.destroy()
