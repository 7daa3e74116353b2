"""``processes``: which processes use a store, and what they wait for."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import click

from ...engines.base import COUNTERS, GAUGES
from ...engines.process_hints import parent_command
from ...layers.inspection import ProcessInfo, processes
from ..arguments import as_json, on_store, sort_and_limit
from ..choice import StoreChoice
from ..inspecting import inspected, shown_command
from ..output import Column, age, count, ordered, size, table, write, write_json

_COUNTS = ("fetched", *COUNTERS, *GAUGES)
_KEYS = ("identity", "pid", "command", "started", "joined_age", *_COUNTS)
_COLUMNS = [
    Column("PID", True),
    Column("STARTED"),
    Column("JOINED", True, True),
    Column("FETCHED", True, True),
    Column("BYPASSED", True, True),
    Column("DROPPED", True),
    Column("HELD", True),
    Column("HELD MEMORY", True, True),
    Column("WAITS FOR", True, True),
    Column("IDENTITY", False, True),
    Column("COMMAND", is_cut=True),
]


class _Process(NamedTuple):
    """A process, for `ordered`: all its counts are fields, by way of ``__getattr__``."""

    identity: str
    about: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.about[name]
        except KeyError:
            raise AttributeError(name) from None


@click.command("processes")
@on_store
@sort_and_limit(_KEYS, "joined_age")
@as_json
def command(store: StoreChoice, sort: str, limit: int | None, as_json: bool) -> int:
    """List the processes that use the store of PREFIX.

    PID and command line are hints: in another container the number means another process. Of a
    child of Python's multiprocessing, such as a worker of uvicorn, the parent's command line is
    shown. On a terminal a long one is cut in the middle. Of its messages, those FETCHED came
    through the store; those that BYPASSED the store went from one of its channels to another; those
    DROPPED were not read in time, or there was no room for them; and those HELD are still unread.
    """
    with inspected(store) as engine:
        found = [_Process(each.identity, as_dict(each)) for each in processes(engine)]
    rows = [each.about for each in ordered(found, sort, limit)]
    if as_json:
        write_json(rows)
    elif rows:
        table(_COLUMNS, [_row(each) for each in rows])
    else:
        write("no processes")
    return 0


def as_dict(each: ProcessInfo) -> dict[str, Any]:
    """Return a process as ``--json`` prints it."""
    about = each._asdict()
    about.update(waits_for=list(each.waits_for), started=each.started or None)
    about["parent_command"] = parent_command(each.pid, each.command)
    return {**{key: about[key] for key in about if key != "counts"}, **about["counts"]}


def _row(each: dict[str, Any]) -> list[str]:
    dropped = each["overflowed"] + each["buffer_expired"]
    return [
        str(each["pid"] or "?"),
        _started(each["started"]),
        age(each["joined_age"]),
        count(each["fetched"]),
        count(each["passed_directly"]),
        count(dropped),
        count(each["held"]),
        size(each["held_bytes"]),
        count(len(each["waits_for"])),
        each["identity"],
        shown_command(each["command"], each["parent_command"]),
    ]


def _started(seconds: float | None) -> str:
    """Return a time as that of the day, or as the day if it is more than a day ago."""
    if not seconds:
        return "?"
    is_recent = time.time() - seconds < 86400
    return time.strftime("%H:%M:%S" if is_recent else "%Y-%m-%d", time.localtime(seconds))


__all__ = ["as_dict", "command"]
