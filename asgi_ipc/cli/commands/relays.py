"""``relays``: which machines are joined, and how their relays fare."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from ..arguments import as_json, on_store
from ..choice import StoreChoice
from ..inspecting import inspected
from ..output import Column, age, count, size, table, write, write_json

if TYPE_CHECKING:
    from ...layers.relays import RelayInfo

#: Keys of a report that are for the next relay, or told otherwise.
_OWN = {"peers", "contact"}
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
    (the server says no), stopped (the process holds its lock, and does not run), unknown (there is
    no room for its report), or none.

    Exit status: 1 if something needs a person: this machine is not connected, dropped messages or
    lost three connections in the last 10 minutes, shares its store with a copy, or its processes
    have different options.
    """
    from ...layers.relays import relay_of

    with inspected(store) as engine:
        info = relay_of(engine)
    if info is None:
        if as_json:
            write_json({"state": "none"})
        else:
            write("no process has relayed for this store")
        return 1
    if as_json:
        write_json(as_dict(info))
    else:
        for each in info.problems:
            write(f"! {each}")
        if info.content:
            _show(as_dict(info))
        else:
            write(f"relay of this machine: {info}")
    return 1 if info.problems else 0


def as_dict(info: RelayInfo) -> dict[str, Any]:
    """Return a relay as ``--json`` prints it: seconds, bytes, and hexadecimal digits."""
    about = {
        key: value.hex() if isinstance(value, bytes) else value
        for key, value in info.content.items()
        if key not in _OWN
    }
    about.update(
        state=info.state,
        age=info.age,
        contact_age=info.contact_age,
        lag=info.lag,
        waiting=info.waiting,
        waiting_bytes=info.waiting_bytes,
        differs=list(info.differs),
        problems=list(info.problems),
        machines=[each._asdict() for each in info.machines],
    )
    return about


def _show(about: dict[str, Any]) -> None:
    from ...relay.frames import SHARDS

    which = "process of its own" if about["dedicated"] else "thread of a site's process"
    rates, counts = about["rates"], about["counts"]
    write(f"relay of this machine: {about['state']}")
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
    # An empty queue keeps some room for the next messages.
    waiting = about["waiting_bytes"] if about["waiting"] else 0
    write(
        f"  lag {lag}; waiting: {count(about['waiting'])} messages, {size(waiting)}"
        f" of {size(about['backlog'])}; hears {count(about['shards'])} of"
        f" {count(SHARDS)} shards"
    )
    dropped = [
        f"{count(number)} {name.removeprefix('dropped_').replace('_', ' ')}"
        for name, number in sorted(counts.items())
        if name.startswith("dropped_")
    ]
    write(
        f"  lost connections {count(counts.get('disconnects', 0))};"
        f" relays killed {count(counts.get('kills', 0))};"
        f" gaps {count(counts.get('gaps', 0))}; dropped: {', '.join(dropped) or 'none'}"
    )
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
