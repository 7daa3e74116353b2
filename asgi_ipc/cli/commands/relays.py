"""``relays``: which machines are joined, and how their relays fare."""

from __future__ import annotations

import time
from typing import Any

import click

from ..arguments import as_json, on_store
from ..choice import StoreChoice
from ..inspecting import inspected
from ..output import Column, age, count, size, table, write, write_json

_COLUMNS = [
    Column("MACHINE"),
    Column("STATE"),
    Column("HEARD", True),
    Column("FRAMES", True),
    Column("BYTES", True),
    Column("GAPS", True),
    Column("NODE", False, True),
]


@click.command("relays")
@on_store
@as_json
def command(store: StoreChoice, as_json: bool) -> int:
    """Show this machine's relay, and the machines that it has heard.

    The state of the relay is connected, connecting, away (the server can't be reached), refused
    (the server says no), stopped (the process holds its lock, and does not run), or none.

    Exit status: 1 if this machine is not connected, or another one uses a copy of its store.
    """
    from ...relay.report import read

    with inspected(store) as engine:
        report = read(engine)
        now = engine.clock()
        has_relay = engine.capabilities.roles and report is not None
    if report is None or not has_relay:
        if as_json:
            write_json({"state": "none"})
        else:
            write("no process has relayed for this store")
        return 1
    about = as_dict(report.content, report.state, report.age, now)
    if as_json:
        write_json(about)
    else:
        _show(about)
    return 0 if report.state == "connected" and not about["error"] else 1


def as_dict(content: dict[str, Any], state: str, age_ns: int, now: int) -> dict[str, Any]:
    """Return a report as ``--json`` prints it: seconds, bytes, and hexadecimal digits."""
    about = {
        key: value.hex() if isinstance(value, bytes) else value
        for key, value in content.items()
        # The others are for the next relay alone.
        if key not in ("v", "at", "peers", "lag", "published", "taken")
    }
    lag = content.get("lag")
    about.update(
        state=state,
        age=age_ns / 1e9,
        lag=None if lag is None else lag / 1e9,
        machines=[_machine(each, now) for each in content.get("peers", [])],
    )
    return about


def _machine(peer: dict[str, Any], now: int) -> dict[str, Any]:
    from ...relay.peers import EXPECTED

    silent = max(0, now - peer["heard_at"])
    state = "left" if peer["left"] else "silent" if silent > EXPECTED // 10 else "heard"
    late_at = peer.get("late_at", 0)
    if late_at and now - late_at <= EXPECTED // 10:
        state = "late"
    return {
        "host": peer["host"],
        "node": peer["node"].hex(),
        "state": state,
        "heard_age": silent / 1e9,
        "term": peer["term"],
        "frames": peer["frames"],
        "bytes": peer["bytes"],
        "gaps": peer["gaps"],
    }


def _show(about: dict[str, Any]) -> None:
    from ...relay.frames import SHARDS

    which = "process of its own" if about["dedicated"] else "thread of a site's process"
    rates, counts = about["rates"], about["counts"]
    write(f"relay of this machine: {about['state']}")
    if about["error"]:
        write(f"  {about['error']}")
    write(f"  server {about['url']}, {'sealed' if about['sealed'] else 'not sealed'}")
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["began"]))
    write(f"  process {about['pid']} on {about['host']}, a {which}, since {began}")
    for way, name in (("out", "sent"), ("in", "heard")):
        write(
            f"  {name}: {count(counts.get(f'frames_{way}', 0))} frames,"
            f" {rates.get(f'frames_{way}', 0.0):,.1f} a second;"
            f" {size(counts.get(f'bytes_{way}', 0))},"
            f" {size(round(rates.get(f'bytes_{way}', 0.0)))} a second"
        )
    lag = "unknown" if about["lag"] is None else f"{1000 * about['lag']:.1f} ms"
    write(
        f"  lag {lag}; waiting: {count(about['waiting'])} messages, {size(about['waiting_bytes'])}"
        f" of {size(about['backlog'])}; hears {count(about['shards'])} of"
        f" {count(SHARDS)} shards"
    )
    dropped = [
        f"{count(number)} {name.removeprefix('dropped_').replace('_', ' ')}"
        for name, number in sorted(counts.items())
        if name.startswith("dropped_")
    ]
    write(f"  gaps {count(counts.get('gaps', 0))}; dropped: {', '.join(dropped) or 'none'}")
    if not about["machines"]:
        write("no other machine was heard")
        return
    write()
    rows = [
        [
            each["host"] or "?",
            each["state"],
            f"{age(each['heard_age'])} ago",
            count(each["frames"]),
            size(each["bytes"]),
            count(each["gaps"]),
            each["node"],
        ]
        for each in sorted(about["machines"], key=lambda each: (each["heard_age"], each["node"]))
    ]
    table(_COLUMNS, rows)


__all__ = ["as_dict", "command"]
