"""The relay of a store as people and programs want to see it: its state, and what needs a person.

For engines whose ``capabilities.inspects`` is true. Times are seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..engines.base import Engine
from ..relay import agreement, report
from ..relay.counts import DISCONNECTS, DROPPED, KILLS, LATELY
from ..relay.peers import EXPECTED
from ..relay.way_out import DEDICATED, OUT, RELAY, SETTINGS

#: All that another machine's state may be; `MachineInfo`.
MACHINE_STATES = ("heard", "silent", "left", "late")
#: All that a relay's state may be.
STATES = (
    "connected",
    "connecting",
    "away",
    "refused",
    "stopped",
    "unknown",
    "none",
)
#: Another machine is silent if it was not heard for so many nanoseconds, and did not say goodbye.
_SILENT = EXPECTED // 10
#: Reasons for which frames are dropped where everything is as it should be. Some servers, such as
#: uvicorn, end their processes by a signal.
_HARMLESS = {"late", "flushed", "no_machine", "not_yet_proven", "relay_killed"}
#: So many lost connections in `LATELY` seconds need a person; a server's restart is one.
_FLAPS = 3
#: So many killed relays do. Where a server ends its processes by a signal, each that relays is one.
_MANY_KILLS = 20
_COPY = "from_a_copy_of_this_store"
#: What is read of a report, and of another machine in it, with what stands for a field that is
#: missing or of another type: another version may have written it, or anything that may open the
#: store.
_FIELDS: Mapping[str, Any] = {
    "url": "?", "host": "?", "node": b"", "pid": 0, "identity": b"", "dedicated": False,
    "term": 0, "began": 0.0, "error": "", "refused": "", "refused_at": 0, "shards": 0,
    "backlog": 0, "sealed": False,
}  # fmt: skip
_OF_MACHINE: Mapping[str, Any] = {
    "host": "", "node": b"", "since": 0, "heard_at": 0, "left": False, "late_at": 0,
    "term": 0, "frames": 0, "bytes": 0, "gaps": 0,
}  # fmt: skip
#: A time in seconds that is too late to be one.
_NO_TIME = 1 << 33


class MachineInfo(NamedTuple):
    """Another machine."""

    host: str
    node: str
    #: ``heard``, ``silent``, ``left``, or ``late``: its frames are of a former term.
    state: str
    heard_age: float
    term: int
    frames: int
    bytes: int
    #: Frames that it published and this machine missed.
    gaps: int


class RelayInfo(NamedTuple):
    """The relay of this machine."""

    #: One of `STATES`.
    state: str
    #: What the relay reports; empty if it has not reported.
    content: Mapping[str, Any]
    #: Seconds since its report, and since the server was there; None if that is unknown.
    age: float | None
    contact_age: float | None
    #: From publishing to hearing.
    lag: float | None
    #: Messages that wait for the server, and their bytes.
    waiting: int
    waiting_bytes: int
    machines: tuple[MachineInfo, ...]
    #: How the options of other processes of the site differ from those of the relay.
    differs: tuple[str, ...]
    #: What needs a person, in sentences; nothing if all is well.
    problems: tuple[str, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """Its counts by name."""
        counts: Mapping[str, int] = self.content.get("counts", {})
        return counts

    def machines_in(self, state: str) -> int:
        """Count the machines in a state."""
        return sum(each.state == state for each in self.machines)

    def __str__(self) -> str:
        """In one line."""
        text = self.state
        if self.state != "connected" and self.contact_age is not None:
            text += f" for {self.contact_age:.0f} s"
        if self.waiting:
            text += f", {self.waiting:,} messages wait for the server"
        return text


def relay_of(engine: Engine) -> RelayInfo | None:
    """Return what there is to know of the relay; None if the site has none.

    Waits for the store's lock.
    """
    if not engine.capabilities.roles:
        return None
    found = report.read(engine)
    is_held = engine.is_held(RELAY)
    members = engine.members(SETTINGS)
    if found is None and not is_held and not members.names:
        return None
    now = engine.clock()
    content = _readable(found.content) if found is not None else {}
    state = found.state if found is not None else "unknown" if is_held else "none"
    out = engine.statistics(OUT)
    info = RelayInfo(
        state=state if state in STATES else "unknown",
        content=content,
        age=found.age / 1e9 if found is not None else None,
        contact_age=_seconds(content.get("contact"), now),
        lag=_seconds(0, content.get("lag")),
        waiting=out["pending"],
        waiting_bytes=out.get("bytes", 0),
        machines=_machines(content.get("peers", ()), now),
        differs=_differences(engine),
        problems=(),
    )
    return info._replace(problems=tuple(_problems(info, now, engine.is_held(DEDICATED))))


def used_by_relay(engine: Engine) -> agreement.Noted | None:
    """Return what the relay that runs uses, or else a process that may relay; None if unknown."""
    found = report.read(engine) if engine.is_held(RELAY) else None
    mine = agreement.of_report(found.content) if found is not None else None
    return mine or next(iter(agreement.noted_by_others(engine)), None)


def _readable(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what is read of a report, each field of its type."""
    read = _fields(_FIELDS, content)
    if not 0 <= read["began"] < _NO_TIME:
        read["began"] = 0.0
    for name in ("counts", "lately"):
        read[name] = _numbers(content.get(name), int)
    read["rates"] = _numbers(content.get("rates"), float)
    for name in ("lag", "contact"):
        value = content.get(name)
        read[name] = value if type(value) is int else None
    peers = content.get("peers")
    read["peers"] = [
        _fields(_OF_MACHINE, each)
        for each in (peers if isinstance(peers, list) else ())
        if isinstance(each, Mapping)
    ]
    return read


def _fields(fields: Mapping[str, Any], given: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        name: given[name] if type(given.get(name)) is type(other) else other
        for name, other in fields.items()
    }


def _numbers(given: object, kind: type[float]) -> dict[str, Any]:
    """Return the numbers of a kind by name."""
    return {
        name: value
        for name, value in (given.items() if isinstance(given, Mapping) else ())
        if isinstance(name, str) and type(value) is kind and 0 <= value < 1 << 64
    }


def _seconds(at: int | None, now: int | None) -> float | None:
    return None if at is None or now is None else max(0, now - at) / 1e9


def _machines(peers: Iterable[Mapping[str, Any]], now: int) -> tuple[MachineInfo, ...]:
    """Return the machines. A silent one has left if its host went on with a new store.

    A machine that crashed and has booted again does so.
    """
    found = [(_machine(each, now), each) for each in peers]
    heard = [peer for info, peer in found if info.state == "heard" and peer["host"]]

    def is_replaced(old: Mapping[str, Any]) -> bool:
        return any(
            new["host"] == old["host"] and new["since"] > old["heard_at"] > 0 for new in heard
        )

    return tuple(
        info._replace(state="left") if info.state == "silent" and is_replaced(peer) else info
        for info, peer in found
    )


def _machine(peer: Mapping[str, Any], now: int) -> MachineInfo:
    silent = max(0, now - peer["heard_at"])
    state = "left" if peer["left"] else "silent" if silent > _SILENT else "heard"
    late_at = peer["late_at"]
    if late_at and now - late_at <= _SILENT:
        state = "late"
    return MachineInfo(
        peer["host"],
        peer["node"].hex(),
        state,
        silent / 1e9,
        *(peer[key] for key in ("term", "frames", "bytes", "gaps")),
    )


def _differences(engine: Engine) -> tuple[str, ...]:
    """Compare the processes with the relay, or with one another if there is none."""
    mine, others = used_by_relay(engine), agreement.noted_by_others(engine)
    found = [] if mine is None else [agreement.differences(mine, each) for each in others]
    return tuple(dict.fromkeys(each for one in found for each in one))


def _problems(info: RelayInfo, now: int, is_dedicated: bool) -> Iterator[str]:
    content = info.content
    pid, error = content.get("pid", "?"), str(content.get("error", ""))
    error = error.removeprefix(f"relay {content.get('url')}: ")
    since = "" if info.contact_age is None else f" for {info.contact_age:.0f} seconds"
    if info.state == "none":
        yield (
            "no process of this machine relays: start the site, one of whose processes relays once"
            " it has WebSockets, or 'asgi-ipc relay'; their log says why it ends"
        )
    elif info.state == "stopped":
        yield (
            f"process {pid} is the relay, and does not run: 'kill -CONT {pid}' continues it, and"
            f" after 'kill -KILL {pid}' another process relays"
        )
    elif info.state == "unknown":
        yield (
            "a process relays, and there is no room for its report, as both memories are full:"
            " 'groups' and 'channels --sort bytes' show by what"
        )
    elif info.state == "refused":
        yield f"the server refuses this machine{since}: {error}"
    elif info.state != "connected":
        yield f"the server has not been reached{since}: {error or 'it is still connecting'}"
    minutes = round(LATELY / 60)
    lately = content.get("lately", {})
    dropped = {
        name.removeprefix(DROPPED): count
        for name, count in lately.items()
        if name.startswith(DROPPED)
    }
    if dropped.pop(_COPY, 0):
        yield (
            f"another machine has used a copy of this machine's store in the last {minutes}"
            " minutes: remove the copy there ('remove'), and give each machine a store of its own"
        )
    elif error and info.state == "connected":
        yield error
    refused_age = _seconds(content.get("refused_at"), now)
    if info.state == "connected" and refused_age is not None and refused_age < LATELY:
        yield (
            f"the server refused commands for shared channels, last {refused_age:.0f} seconds ago:"
            f" {content['refused']}"
        )
    lost = [
        f"{count:,} {reason.replace('_', ' ')}"
        for reason, count in sorted(dropped.items())
        if reason not in _HARMLESS
    ]
    if lost:
        yield (
            f"dropped in the last {minutes} minutes: {', '.join(lost)}; docs/relays.md explains the"
            " reasons"
        )
    disconnects = lately.get(DISCONNECTS, 0)
    if disconnects >= _FLAPS:
        yield (
            f"the connection to the server was lost {disconnects:,} times in the last {minutes}"
            " minutes; meanwhile this machine misses what others send: look at the network and the"
            " server's log"
        )
    kills = lately.get(KILLS, 0)
    if kills >= _MANY_KILLS:
        yield (
            f"processes that relay were killed {kills:,} times in the last {minutes} minutes; their"
            " log, that of what starts them and the kernel's may say by whom"
        )
    if info.differs:
        which = "dedicated relay" if is_dedicated else "relay"
        yield (
            f"processes of the site differ from the {which}, which was started with other options:"
            f" {'; '.join(info.differs)}; restart those that have the old ones"
        )


__all__ = [
    "DROPPED",
    "MACHINE_STATES",
    "STATES",
    "MachineInfo",
    "RelayInfo",
    "relay_of",
    "used_by_relay",
]
