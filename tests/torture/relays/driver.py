"""Runs the torture of relays, one trouble after the other, and prints what came of it."""

from __future__ import annotations

import argparse
import random
import sys
from typing import NamedTuple

import pytest
from asgi_ipc.conformance.wires.servers import Nats, Redis

from .judge import Between, Books, told_by
from .places import MACHINES
from .plants import PLANTS
from .site import Site
from .troubles import BLOWS, Strength, deal

#: Seconds of an outage, and of the wire's timeout, which is shorter than half of it.
LONG, SHORT = Strength(10.0, 1.0, 3.0, 20), Strength(1.6, 0.5, 2.0, 10)
TIMEOUT, SHORT_TIMEOUT = 2.0, 0.6
#: Troubles of which machine 0 has a relay of its own.
MIXED, DEDICATED = "mixed", "dedicated"


class Report(NamedTuple):
    """What a run has done and found."""

    trouble: str
    wire: str
    blows: int
    kills: int
    breaks: int
    sent: int
    received: int
    between: list[Between]
    shared: tuple[int, int]
    overtaken: int
    #: Seconds after which all machines were joined again.
    passed: float
    drops: dict[str, int]
    faults: list[str]

    def __str__(self) -> str:
        sent, lost, gaps = (
            sum(getattr(each, name) for each in self.between) for name in ("sent", "lost", "gaps")
        )
        uncounted = sum(each.uncounted for each in self.between)
        drops = ", ".join(f"{count} {reason}" for reason, count in sorted(self.drops.items()))
        text = (
            f"{self.wire}, {self.trouble}: {self.blows} blows, {self.kills} relays killed,"
            f" {self.breaks} connections lost; {self.sent} messages sent, {self.received} received;"
            f" between machines {lost} of {sent} lost, {gaps} gaps, {uncounted} not counted;"
            f" on shared channels {self.shared[1]} of {self.shared[0]} lost, {self.overtaken}"
            f" overtaken; dropped: {drops or 'none'}; joined again after {self.passed:.1f} s"
        )
        return "\n".join([text, *(f"  FAULT: {fault}" for fault in self.faults[:20])])


def torment(
    trouble: str, wire: str, seconds: float, seed: int, short: bool = False, pause: float = 0.02
) -> Report:
    """Run one site with one trouble, or all of them."""
    roles = {machine: ["site"] * (1 if short else 2) for machine in range(MACHINES)}
    if trouble in (MIXED, DEDICATED):
        roles[0] = ["site", "dedicated"]
    if trouble == DEDICATED:
        roles = {machine: ["site", "dedicated"] for machine in roles}
    names = {MIXED: list(BLOWS), DEDICATED: ["kill", "stop-relay"]}.get(trouble, [trouble])
    random.Random(seed).shuffle(names)
    strength, timeout = (SHORT, SHORT_TIMEOUT) if short else (LONG, TIMEOUT)
    with Site(wire, timeout, pause, roles) as site:
        site.begin()
        site.pause(0.5)
        blows = deal(site, names, seconds, strength, seed)
        passed = site.await_passage()
        site.quieten()
        reports = {machine: site.report(machine) for machine in range(MACHINES)}
        site.end()
        site.read()
        told, harm = told_by(reports), site.harm()
        books = Books(site.lines)
        books.local()
        between = books.between(told, harm)
        shared = books.shared(told, harm)
        drops: dict[str, int] = {}
        for each in told.values():
            for reason, count in each.drops.items():
                drops[reason] = drops.get(reason, 0) + count
        return Report(
            trouble,
            wire,
            blows,
            sum(site.kills.values()),
            sum(each.breaks for each in harm.values()),
            len(books.sent),
            books.received,
            between,
            shared,
            books.overtaken,
            passed,
            drops,
            site.faults + books.faults,
        )


def plants(only: str) -> int:
    """Plant each fault, which must be found; return how many were not."""
    missed = 0
    for plant, trouble, expected in PLANTS:
        if only not in plant.__name__:
            continue
        found = ""
        for seed in range(3):
            with pytest.MonkeyPatch.context() as patch:
                plant(patch)
                faults = torment(trouble, "redis", 8 + 8 * seed, seed, short=True).faults
            found = next((fault for fault in faults if expected in fault), "")
            if found:
                break
        missed += not found
        sys.stdout.write(f"{plant.__name__}: {'found: ' + found if found else 'NOT FOUND'}\n")
        sys.stdout.flush()
    return missed


def main(arguments: list[str]) -> int:
    """Called by ``python -m tests.torture relays``."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture relays")
    troubles = [*BLOWS, DEDICATED, MIXED]
    parser.add_argument("--trouble", action="append", choices=troubles)
    parser.add_argument("--wire", action="append", choices=("redis", "nats"))
    parser.add_argument("--seconds", type=float, default=60, help="for each trouble and wire")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--short", action="store_true", help="with short outages and timeouts")
    parser.add_argument("--plants", action="store_true", help="plant faults, each to be found")
    parser.add_argument("--only", default="", help="plants with this in their name")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between messages")
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    if options.plants:
        return plants(options.only)
    failed = False
    for wire in options.wire or ("redis", "nats"):
        missing = {"redis": Redis, "nats": Nats}[wire].missing()
        if missing:
            sys.stdout.write(f"{wire}: {missing}\n")
            continue
        for trouble in options.trouble or troubles:
            report = torment(trouble, wire, options.seconds, seed, options.short, options.pause)
            sys.stdout.write(f"{report} (seed {seed})\n")
            sys.stdout.flush()
            failed = failed or bool(report.faults)
    return int(failed)
