"""A watchdog for each test of delivery, and both ways of a message within a process."""

from __future__ import annotations

from tests.tools.doubles import watchdog, way, without_loopback

__all__ = ["watchdog", "way", "without_loopback"]
