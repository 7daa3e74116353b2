"""What more machines cost: each relay, and the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...messages import message
from ...peers import Peer
from ...processes import Bench, Role
from ...questions.base import Answer, Case, Question
from ...settings import Settings
from ..machines import ServerUse, cpu_of, joined, relay_cpu_of, server_use
from ..members import Members, ticks

#: Broadcasts of all machines together, and their rate a second.
_BROADCASTS, _RATE = 1_200, 300
#: Seconds without a broadcast, for what machines cost that only are there.
_QUIET = 3.0
#: On how many machines each group has members: on all, and on the machine that broadcasts to it
#: and the next.
EVERYWHERE, PAIRS, QUIET = "groups on all", "groups on two", "quiet"
#: With two machines all is on two.
SIZES = [(2, EVERYWHERE), (4, EVERYWHERE), (8, EVERYWHERE), (4, PAIRS), (8, PAIRS)]


async def _machine(
    bench: Bench, number: int, machines: int, where: str, broadcasts: int, quiet: float
) -> dict[str, Any]:
    """One machine: its relay, and a process with a member of each of its groups."""
    layer: Any = bench.open(machine=number, relays=True)
    here = sorted({number, (number - 1) % machines}) if where == PAIRS else range(machines)
    channels = [await layer.new_channel() for _ in here]
    for group, channel in zip(here, channels, strict=True):
        await layer.group_add(f"room{group}", channel)
    members = Members(layer, channels)
    await joined(layer, machines - 1, groups=len(here))
    members.want(len(here) * broadcasts)

    def use() -> _Use:
        asked = server_use(bench) if number == 0 else None
        return _Use(time.monotonic(), cpu_of(layer), relay_cpu_of(layer), asked)

    await bench.sync()
    # What asking the server costs it.
    asking = use().until(use()).server
    quiet_from = use()
    await asyncio.sleep(quiet)
    quiet_to = use()
    await bench.sync()
    busy_from = use()
    # One machine after the other, in turn.
    await asyncio.sleep(number / _RATE)
    async for done in ticks(_RATE / machines):
        await layer.group_send(f"room{number}", message())
        if done == broadcasts:
            break
    await bench.sync()
    await members.have_it()
    await bench.sync()
    busy_to = use()
    await bench.sync()
    members.end()
    quiet_use = quiet_from.until(quiet_to, asking).a_second()
    busy_use = busy_from.until(busy_to, asking).a_second()
    missing = len(here) * broadcasts - members.count
    return {
        "quiet": {**quiet_use, "said": 0, "missing": 0},
        "busy": {**busy_use, "said": broadcasts, "missing": missing},
    }


class _Use(NamedTuple):
    """Seconds on the clock, and of CPU of a machine and of its relay; and the server's."""

    at: float
    machine: float
    relay: float | None
    server: ServerUse | None

    def until(self, later: _Use, without: ServerUse | None = None) -> _Use:
        """What was used until a later time, without some of it."""
        server = later.server
        if server is not None and self.server is not None:
            server = server.less(self.server)
            server = server.less(without) if without is not None else server
        relay = None
        if self.relay is not None and later.relay is not None:
            relay = later.relay - self.relay
        return _Use(later.at - self.at, later.machine - self.machine, relay, server)

    def a_second(self) -> dict[str, float]:
        """By name, of each second."""
        told = {"seconds": self.at, "machine": self.machine / self.at}
        if self.relay is not None:
            told["relay"] = self.relay / self.at
        if self.server is not None:
            told |= {f"server {name}": of / self.at for name, of in self.server._asdict().items()}
        return told


@dataclass(frozen=True)
class _Growth(Case):
    """Machines that are quiet at first, which is a variant of its own."""

    quiet: str = ""

    def answers(self, results: list[Any]) -> dict[str, Answer]:
        """What is reported of the quiet and of the busy time."""
        return {
            self.quiet: self.answer([each["quiet"] for each in results]),
            self.variant: self.answer([each["busy"] for each in results]),
        }


def _used(told: list[dict[str, float]]) -> Answer:
    first = told[0]
    answer: Answer = {"broadcasts/s": sum(each["said"] / each["seconds"] for each in told)}
    for what in ("machine", "relay"):
        if what in first:
            answer[f"{what} CPU %"] = 100 * sum(each[what] for each in told) / len(told)
    answer["server CPU %"] = 100 * first["server cpu"]
    answer["server gets kB/s"] = first["server heard"] / 1e3
    answer["server sends kB/s"] = first["server said"] / 1e3
    answer["not come"] = sum(each["missing"] for each in told)
    return answer


def variant(machines: int, where: str) -> str:
    """The name of a size."""
    return f"{machines} machines, {where}"


def _roles(machines: int, where: str, broadcasts: int, quiet: float) -> tuple[Role, ...]:
    params = {"machines": machines, "where": where, "broadcasts": broadcasts, "quiet": quiet}
    return tuple(Role(_machine, {"number": number, **params}) for number in range(machines))


def _cases(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    quiet, total = (0.2, 30) if settings.quick else (_QUIET, _BROADCASTS)
    return [
        _Growth(
            peer.name,
            variant(machines, where),
            _roles(machines, where, total // machines, quiet),
            _used,
            peer,
            quiet=variant(machines, QUIET),
        )
        for machines, where in settings.sizes(SIZES, [(3, PAIRS)])
        for peer in peers
    ]


QUESTIONS = [
    Question(
        "growth",
        f"{_RATE} broadcasts a second in all, from 2, 4 and 8 machines to groups with a member on"
        " each machine or on two; and none: how much of a core do a machine (its relay and the"
        " process with the members), its relay alone, and the server take, and what does the server"
        " get and send?",
        _cases,
    )
]
