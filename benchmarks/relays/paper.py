"""What up to 50 machines would cost, on paper: ``python -m benchmarks.relays.paper --help``.

Computed from what `growth` and `frames` have measured. A broadcast costs its relay, the server once
and again for each machine that hears it, and the relays of these; a beat, which each relay says
each second to all, costs the server the same. A machine hears a broadcast if it has members of the
group, or another group in the same shard; without subscriptions to shards each would hear all.

With few messages each wakes a relay and the server, as `growth` measures it; with many they are
handled in bulk, as `frames` does, which is many times cheaper. So how much is carried at most is
between the two. The most that a server carries is a whole core, as it uses no more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from asgi_ipc.relay.frames import SHARDS

from .. import outcome, report
from ..messages import USUAL
from ..results import Results
from .machines import OURS
from .questions.growth import EVERYWHERE, QUIET, SIZES, variant

#: Numbers of machines, and a network's bytes a second: 1 Gbit/s.
MACHINES, _NETWORK = (2, 4, 8, 16, 32, 50), 125e6


class Line(NamedTuple):
    """What grows evenly with a number: a fixed part, and one for each."""

    fixed: float
    each: float

    def at(self, number: float) -> float:
        """The value for a number."""
        return self.fixed + self.each * number


class Costs(NamedTuple):
    """What was measured: seconds of a core and bytes, for a second or for a broadcast."""

    #: A relay for a second, by other machines that are there.
    relay_quiet: Line
    #: All relays for a broadcast, by machines that hear it beside its own.
    relays: Line
    #: The server for a second.
    server_quiet: float
    #: The server for a broadcast, by machines that hear it.
    server: Line
    #: Bytes of a broadcast to the server; and from it, by machines that hear it.
    to_server: float
    from_server: Line
    #: Bytes of a beat to the server; and from it to each machine.
    beat_to_server: float
    beat_from_server: float
    #: What relays and server take of that when they have much to do.
    relays_in_bulk: float = 1.0
    server_in_bulk: float = 1.0

    def in_bulk(self) -> Costs:
        """What broadcasts cost when there are many."""
        relays, server = (
            Line(line.fixed * part, line.each * part)
            for line, part in (
                (self.relays, self.relays_in_bulk),
                (self.server, self.server_in_bulk),
            )
        )
        return self._replace(relays=relays, server=server)


class Site(NamedTuple):
    """What a site does."""

    #: Broadcasts of each machine a second.
    rate: float
    #: Groups with members on each machine, and machines on which a group has members.
    groups: int
    on: int


class Load(NamedTuple):
    """What it takes: shares of a core, and of a second of the network."""

    relay: float
    server: float
    network: float


def costs(results: Results) -> Costs | None:
    """What a run has measured; None if it has not asked all that is needed."""

    def growth(what: str, number: str) -> float:
        return results.median("growth", what, OURS, number) or 0.0

    def more(machines: int, where: str, number: str) -> float:
        """For a broadcast."""
        busy, quiet = variant(machines, where), variant(machines, QUIET)
        return (growth(busy, number) - growth(quiet, number)) / growth(busy, "broadcasts/s")

    if not all(growth(variant(*size), "broadcasts/s") for size in SIZES):
        return None
    heard = [machines if where == EVERYWHERE else 2 for machines, where in SIZES]
    relays = _line(
        [number - 1 for number in heard],
        [more(*size, "relay CPU %") / 100 * size[0] for size in SIZES],
    )
    server = _line(heard, [more(*size, "server CPU %") / 100 for size in SIZES])
    counts = sorted({machines for machines, _ in SIZES})
    quiet = {name: [growth(variant(n, QUIET), name) for n in counts] for name in _QUIET}
    told = Costs(
        _line([n - 1 for n in counts], [each / 100 for each in quiet["relay CPU %"]]),
        relays,
        statistics.mean(
            max(0.0, each / 100 - n * server.at(n))
            for n, each in zip(counts, quiet["server CPU %"], strict=True)
        ),
        server,
        1e3 * statistics.mean(more(*size, "server gets kB/s") for size in SIZES),
        _line(heard, [1e3 * more(*size, "server sends kB/s") for size in SIZES]),
        *(
            1e3 * statistics.mean(x / n**power for n, x in zip(counts, quiet[name], strict=True))
            for name, power in (("server gets kB/s", 1), ("server sends kB/s", 2))
        ),
    )
    return told._replace(
        relays_in_bulk=_part(results, ("relay out, CPU µs each", "relay in, CPU µs each"), relays),
        server_in_bulk=_part(results, ("server, CPU µs each",), server),
    )


_QUIET = ("relay CPU %", "server CPU %", "server gets kB/s", "server sends kB/s")


def _line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    slope, fixed = statistics.linear_regression(xs, ys)
    # Less than nothing is what is too little to be measured.
    return Line(max(0.0, fixed), max(0.0, slope))


def _part(results: Results, numbers: Sequence[str], alone: Line) -> float:
    """How much a message costs in bulk of what it costs alone, heard by one machine."""
    found = [results.median("frames", f"{USUAL} bytes", OURS, number) for number in numbers]
    known = [each for each in found if each is not None]
    return sum(known) / 1e6 / alone.at(1) if len(known) == len(numbers) and alone.at(1) else 1.0


def heard_by(machines: int, site: Site, subscribes: bool) -> float:
    """How many machines hear a broadcast, those with members and those with its shard."""
    on = min(site.on, machines)
    share = 1 - (1 - 1 / SHARDS) ** site.groups if subscribes else 1.0
    return on + (machines - on) * share


def load(told: Costs, machines: int, site: Site, subscribes: bool = True) -> Load:
    """What so many machines take."""
    heard, rate = heard_by(machines, site, subscribes), machines * site.rate
    sent = rate * told.from_server.at(heard) + machines**2 * told.beat_from_server
    return Load(
        told.relay_quiet.at(machines - 1) + site.rate * told.relays.at(heard - 1),
        told.server_quiet + rate * told.server.at(heard) + machines * told.server.at(machines),
        sent / _NETWORK,
    )


def most(told: Costs, machines: int, site: Site, subscribes: bool = True) -> Load:
    """With how many broadcasts of each machine a second a relay, the server and the network are
    full."""
    nothing, one = (
        load(told, machines, site._replace(rate=rate), subscribes) for rate in (0.0, 1.0)
    )
    return Load(*(max(0.0, 1 - a) / max(b - a, 1e-12) for a, b in zip(nothing, one, strict=True)))


def show(console: Console, told: Costs, site: Site) -> None:
    """What 2 to 50 machines take, with subscriptions to shards and without."""
    console.print(
        f"\n[bold]On paper[/]: each machine broadcasts {site.rate:,.0f} times a second, to groups"
        f" with members on {site.on} machines; machines that hear each, how much of a core a relay"
        " and the server take and of 1 Gbit/s what the server sends, and how many broadcasts of"
        " each machine a second fill them up, from when each comes alone to when they come in bulk",
        highlight=False,
    )
    for title, groups, subscribes in (
        (f"{site.groups:,} groups on each machine", site.groups, True),
        (f"{50 * site.groups:,} groups on each machine", 50 * site.groups, True),
        ("Without subscriptions: every machine hears every group", site.groups, False),
    ):
        console.print(f"[bold]{title}[/]", highlight=False)
        console.print(_table(told, site._replace(groups=groups), subscribes))
    console.print(
        f"From: a broadcast alone takes {_micro(told.relays.fixed)} µs of its relay,"
        f" {_micro(told.relays.each)} of each other that hears it, and {_micro(told.server.fixed)}"
        f" of the server and {_micro(told.server.each)} for each that hears it; in bulk relays take"
        f" {report.short(told.relays_in_bulk)} of that and the server"
        f" {report.short(told.server_in_bulk)}; {report.short(told.to_server)} bytes to the server,"
        f" {report.short(told.from_server.each)} from it to each machine",
        highlight=False,
    )


def _table(told: Costs, site: Site, subscribes: bool) -> Table:
    table = Table(show_edge=False)
    for name in ("machines", "heard by", "relay %", "server %", "network %"):
        table.add_column(name, justify="right")
    for name in ("relay full at", "server full at", "network full at", "first full in bulk"):
        table.add_column(name, justify="right")
    for machines in MACHINES:
        alone = most(told, machines, site, subscribes)
        bulk = most(told.in_bulk(), machines, site, subscribes)
        table.add_row(
            str(machines),
            report.short(heard_by(machines, site, subscribes)),
            *(report.short(100 * each) for each in load(told, machines, site, subscribes)),
            *(
                " to ".join(dict.fromkeys(map(report.short, both)))
                for both in zip(alone, bulk, strict=True)
            ),
            min(Load._fields, key=lambda name: float(getattr(bulk, name))),
        )
    return table


def _micro(seconds: float) -> str:
    return report.short(seconds * 1e6)


def main(arguments: Sequence[str]) -> int:
    """Compute from a run's file; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relays.paper", description=__doc__)
    parser.add_argument("--results", default="build/bench-relays/results.json", help="of a run")
    parser.add_argument("--rate", type=float, default=SITE.rate, help="broadcasts of a machine/s")
    parser.add_argument("--groups", type=int, default=SITE.groups, help="groups on a machine")
    parser.add_argument("--on", type=int, default=SITE.on, help="machines with members of a group")
    options = parser.parse_args(arguments)
    with open(options.results, encoding="utf-8") as file:
        told = costs(Results.of_json(json.load(file)))
    console = outcome.begin()
    if told is None:
        console.print(f"{options.results} has no answers of {OURS} to growth")
        return 2
    show(console, told, Site(options.rate, options.groups, options.on))
    return 0


#: What is shown at the end of a run.
SITE = Site(100.0, 20, 2)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
