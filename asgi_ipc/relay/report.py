"""What a relay says of itself, in the store: for people, and for the relay that comes next (R7).

The report is one record, replaced about once a second. A report that is older than `STALE` is that
of a relay that has ended, was killed, or is stopped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from ..engines.base import Engine, Popped, Record
from ..policy.expiry import LONGEST
from .way_out import RELAY, STATE

#: Format of the report.
_VERSION = 1
#: Nanoseconds.
STALE = 5 * 1_000_000_000
_FOREVER = LONGEST * 1_000_000_000


class Report(NamedTuple):
    """A report as it was read."""

    #: Nanoseconds since it was written.
    age: int
    #: Whether a process holds the role of the relay.
    is_held: bool
    #: Whatever the relay wrote; see `Relay.report`.
    content: dict[str, Any]

    @property
    def state(self) -> str:
        """Return what the relay does: ``connected``, ``connecting``, ``away``, or not even that."""
        if not self.is_held:
            return "none"
        if self.age > STALE:
            return "stopped"
        return str(self.content.get("state", "unknown"))


def write(engine: Engine, content: dict[str, Any]) -> None:
    """Replace the report. It counts as no message."""
    packed = msgpack.packb({**content, "v": _VERSION, "at": engine.clock()}, use_bin_type=True)
    deadline = engine.clock() + _FOREVER
    if engine.pop(STATE, 100):
        engine.restore(STATE, Popped(packed, deadline))
    else:
        engine.push([Record(STATE, packed, deadline, 1)])


def read(engine: Engine) -> Report | None:
    """Return the last report; None if there is none that this version reads."""
    records = engine.look(STATE, 1)
    content = _unpacked(records[-1].payload) if records else None
    if content is None:
        return None
    return Report(max(0, engine.clock() - content["at"]), engine.is_held(RELAY), content)


def _unpacked(payload: bytes) -> dict[str, Any] | None:
    try:
        content = msgpack.unpackb(payload, raw=False, strict_map_key=False)
    except Exception:  # Whatever it is, it is no report.
        return None
    if not isinstance(content, dict) or content.get("v") != _VERSION:
        return None
    return content if isinstance(content.get("at"), int) else None


__all__ = ["STALE", "Report", "read", "write"]
