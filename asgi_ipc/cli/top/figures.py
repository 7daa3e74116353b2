"""The figures above the tables: rates, what there is now, and both memories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..output import age, count, size
from .look import Look

#: Statistics whose sum is what came in, went out, or was dropped.
_IN = ("messages_count", "passed_directly_count")
_OUT = ("received_count", "restored_count", "passed_directly_count")
_DROPPED = (
    "channel_full_count",
    "expired_count",
    "orphaned_count",
    "buffer_expired_count",
    "buffer_overflow_count",
)
_BARS = " ▁▂▃▄▅▆▇█"


class Rates(NamedTuple):
    """Messages a second between two looks."""

    came: float
    went: float
    dropped: float


def rates(before: Look | None, now: Look) -> Rates | None:
    """Return the rates between two looks; None if they are not of one store."""
    if before is None or before.store != now.store or now.taken <= before.taken:
        return None
    seconds = now.taken - before.taken

    def rate(names: Sequence[str]) -> float:
        grown = sum(now.statistics.get(each, 0) - before.statistics.get(each, 0) for each in names)
        return max(0.0, grown / seconds)

    return Rates(rate(_IN), rate(_OUT), rate(_DROPPED))


def dropped(look: Look) -> int:
    """Return how many messages were ever dropped."""
    return int(sum(look.statistics.get(each, 0) for each in _DROPPED))


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the last values as a line of bars."""
    shown = list(values)[-width:] if width > 0 else []
    most = max(shown, default=0.0)
    if not most:
        return ""
    return "".join(_BARS[min(8, round(8 * each / most))] for each in shown)


def state(look: Look) -> str:
    """Return what there is now, in words."""
    values = look.statistics
    pending = f"{_count(values, 'messages_pending')} pending"
    if values.get("messages_pending"):
        pending += f", oldest {age(values['messages_max_age'])}"
    parts = [
        pending,
        f"{_count(values, 'held_count')} held ({size(values.get('held_bytes', 0))})",
        _counted(values, "channels_count", "channel", "channels"),
        _counted(values, "memberships_count", "membership", "memberships"),
        _counted(values, "processes_count", "process", "processes"),
    ]
    if look.relay:
        parts.append(f"relay {look.relay}")
    return " · ".join(parts)


def _count(values: dict[str, float], name: str) -> str:
    return count(int(values.get(name, 0)))


def _counted(values: dict[str, float], name: str, one: str, many: str) -> str:
    return f"{_count(values, name)} {one if values.get(name) == 1 else many}"


class Memory(NamedTuple):
    """One memory of the store, for people."""

    title: str
    #: From 0 to 1.
    used: float
    reserved: float
    text: str


def memories(look: Look, width: int) -> list[Memory]:
    """Return both memories; with the sizes in words that fit into so many columns."""
    values = look.statistics
    found = []
    for title, kind in (("messages", "channel"), ("memberships", "group")):
        used, reserved, total = (
            values.get(f"{kind}_bytes_{each}", 0) for each in ("used", "reserved", "total")
        )
        if not total:
            continue
        text = f"{100 * used / total:.1f}% of {size(total)}"
        if width >= 80:
            text = f"{size(used)} used, {size(reserved)} reserved, {text}"
        found.append(Memory(title, used / total, reserved / total, text))
    return found


__all__ = ["Memory", "Rates", "dropped", "memories", "rates", "sparkline", "state"]
