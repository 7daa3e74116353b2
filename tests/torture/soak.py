"""Processes that use one store while they are killed, stopped and continued at random.

Every process keeps a ledger outside the store (`ledgers`). In the end these must agree:

* an acknowledged message arrived, or a reader that was killed may have taken it just then;
* none arrived twice, and what one producer sent to one channel arrived in that order;
* a steady member of a group got all that was sent to it, once and in order.

And meanwhile, and between:

* messages kept arriving at the consumers, and none of a pair that waits for each other was
  left asleep;
* the dead left no membership, no process slot, no queue and no memory, for longer than
  seconds.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines import open_engine
from asgi_ipc.engines.shm.engine import SharedMemoryEngine

from .ledgers import CHANNELS, GOT, GROUPS, Books, Death, Ledger
from .remains import await_clean, in_use
from .soak_workers import KILLABLE, PAIR, STEADY, Part, Setting, Worker
from .standstill import Standstill, turns

ENGINES = ("posix", "sysv", "mmap")
#: Seconds without progress that are a fault, as `Standstill` counts them.
STALL = 5.0
#: Seconds without progress after which nobody is stopped or killed until there is some.
#: Who is stopped inside the store rightly holds up all others, and on a busy machine who is
#: killed soon gets nothing done; so a standstill is a fault only if peace does not end it.
PEACE = 1.0
#: Seconds in which who is told to stop stops.
STOPPED = 20.0
#: Bytes that a store in use for longer may take more, as handles are never given back.
SLACK = 64 * 1024


class Running(NamedTuple):
    """A process: its part, its number, and since when."""

    part: Part
    me: int
    born: float


class Report(NamedTuple):
    """What a soak has done and found."""

    engine: str
    seconds: float
    kills: int
    stops: int
    sent: int
    received: int
    lost: int
    quiet: int
    slowest: float
    recoveries: int
    faults: list[str]

    def __str__(self) -> str:
        text = (
            f"{self.engine}: {self.seconds:.0f} s, {self.kills} kills, {self.stops} stops, "
            f"{self.sent} messages sent, {self.received} received, {self.lost} lost with killed "
            f"readers, {self.recoveries} recoveries, quiet pair: {self.quiet} messages, slowest "
            f"{self.slowest * 1000:.0f} ms"
        )
        return "\n".join([text, *(f"  FAULT: {fault}" for fault in self.faults)])


class Soak:
    """The supervisor of one soak."""

    def __init__(self, engine: str, seconds: float, seed: int) -> None:
        self.engine = engine
        self.seconds = seconds
        self.dice = random.Random(seed)
        # Where it is certain to be fast; a ledger is written to with each message.
        where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="asgi_ipc-soak-", dir=where))
        options: dict[str, Any] = {
            "prefix": "soak",
            "engine": engine,
            "engine_options": {"directory": str(self.folder / "store")},
            # Room for all channels at capacity: no group message is dropped for want of it.
            "channel_memory": 16 << 20,
            "group_memory": 1 << 20,
            "expiry": 3600,
            "capacity": 200,
            # Process-specific channels: none is dropped while its reader is stopped.
            "channel_capacity": {"specific.*": 1_000_000},
        }
        self.setting = Setting(self.folder, options)
        self.workers: dict[int, Running] = {}
        #: Who is stopped, until when.
        self.stopped: dict[int, float] = {}
        self.numbers = 0
        self.kills = self.stops = 0
        self.deaths: list[Death] = []
        #: Bytes in the ledgers of consumers that were killed.
        self.consumed = 0
        self.consumers = Standstill()
        self.pair = Standstill()
        self.faults: list[str] = []

    # Processes.

    def start(self, part: Part) -> None:
        self.numbers += 1
        me = self.numbers
        born = time.monotonic()
        child = os.fork()
        if child:
            self.workers[child] = Running(part, me, born)
            return
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            worker = Worker(self.setting, me, part.reads)
            getattr(worker, part.role)()
            status = 0
        except BaseException:
            (self.folder / f"{me}.error").write_text(f"{part.role}: {traceback.format_exc()}")
        finally:
            os._exit(status)

    def kill(self, child: int) -> None:
        part, me, born = self.workers.pop(child)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.stopped.pop(child, None)
        self.kills += 1
        if part.reads:
            self.deaths.append(Death(me, part.receives, born, time.monotonic()))
            self.consumed += self.written(me)

    def pick(self, among: Callable[[Part], bool]) -> int | None:
        found = [child for child, (part, _, _) in self.workers.items() if among(part)]
        return self.dice.choice(found) if found else None

    def written(self, me: int) -> int:
        """Bytes in a ledger."""
        try:
            return os.stat(self.folder / f"{me}.ledger").st_size
        except FileNotFoundError:
            return 0  # It was not there for long enough.

    # The soak.

    def run(self) -> Report:
        began = time.monotonic()
        try:
            for part in STEADY:
                self.start(part)
            self.await_member()
            for part in KILLABLE:
                self.start(part)
            going = self.torment(self.seconds * 0.4)
            first = self.calm()
            if going:
                for part in KILLABLE:
                    self.start(part)
                self.torment(self.seconds * 0.6)
                second = self.calm()
                if second > first + SLACK:
                    self.faults.append(f"bytes in use went from {first} to {second}")
            return self.finish(time.monotonic() - began)
        finally:
            for child in list(self.workers):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            self.open().destroy()
            shutil.rmtree(self.folder, ignore_errors=True)

    def await_member(self) -> None:
        """The steady member has joined all groups, and said who it is."""
        steady = [me for part, me, _ in self.workers.values() if part.role == "stay"]
        for _ in turns(STOPPED, 0.01):
            if all(self.written(me) >= GROUPS * Ledger.LINE for me in steady):
                return
        self.faults.append("the steady member does not join")

    def torment(self, seconds: float) -> bool:
        """Kill, stop and continue, as long as there is progress; False if it came to an end."""
        self.consumers, self.pair = Standstill(), Standstill()
        before = time.monotonic()
        until = before + seconds
        while True:
            now = time.monotonic()
            self.look(0.0 if self.stopped else now - before)
            before = now
            peace = max(self.consumers.seconds, self.pair.seconds) > PEACE
            if self.stands_still():
                return False
            # A standstill is seen to its end.
            if now >= until and not peace:
                return True
            time.sleep(self.dice.uniform(0, 0.01))
            for child, when in list(self.stopped.items()):
                if now >= when:
                    os.kill(child, signal.SIGCONT)
                    del self.stopped[child]
            if not peace:
                self.harm_one(now)
            self.reap()

    def harm_one(self, now: float) -> None:
        if self.dice.random() < 0.9:
            victim = self.pick(lambda part: part not in STEADY)
            if victim is not None:
                part = self.workers[victim].part
                self.kill(victim)
                self.start(part)
        elif len(self.stopped) < 2:
            victim = self.pick(lambda part: part not in PAIR)
            if victim is not None and victim not in self.stopped:
                os.kill(victim, signal.SIGSTOP)
                # Now and then for longer than any of our timeouts.
                longest = 2.5 if self.dice.random() < 0.05 else 0.1
                self.stopped[victim] = now + self.dice.uniform(0, longest)
                self.stops += 1

    def look(self, seconds: float) -> None:
        """See what has been done since the last look, during which so many seconds count."""
        read = self.consumed
        exchanged = 0
        for part, me, _ in self.workers.values():
            if part.reads:
                read += self.written(me)
            elif part in PAIR:
                exchanged += self.written(me)
        self.consumers.look(read, seconds)
        self.pair.look(exchanged, seconds)

    def stands_still(self) -> bool:
        """Whether there was no progress for too long, which is a fault."""
        if self.consumers.seconds > STALL:
            self.faults.append(f"no message arrived for {STALL} s, with nobody stopped or killed")
            return True
        if self.pair.seconds > STALL and self.consumers.seconds < PEACE:
            self.faults.append(
                f"a wake-up was lost: of two that wait for each other none woke for {STALL} s, "
                "while others got messages and nobody was stopped or killed"
            )
            # They would wait for ever.
            for child, (part, _, _) in list(self.workers.items()):
                if part in PAIR:
                    self.kill(child)
            return True
        return False

    def reap(self) -> None:
        """Nobody may end by himself."""
        for child, (part, me, _) in list(self.workers.items()):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                del self.workers[child]
                self.stopped.pop(child, None)
                error = self.folder / f"{me}.error"
                told = error.read_text() if error.exists() else f"{part.role} ended: {status}"
                self.faults.append(told)
                self.start(part)

    def calm(self) -> int:
        """End what may be killed; the store must be as clean as if they had never been."""
        for child in self.stopped:
            os.kill(child, signal.SIGCONT)
        self.stopped.clear()
        for child, (part, _, _) in list(self.workers.items()):
            if part not in STEADY:
                self.kill(child)
        engine = self.open()
        try:
            self.drain(engine)
            alive = {
                bytes.fromhex(prefix.read_text()[:28])
                for part, me, _ in self.workers.values()
                for prefix in self.folder.glob(f"{me}.prefix")
                if part.role == "stay"
            }
            self.faults += await_clean(engine, alive, len(self.workers) + 1)
            return in_use(engine)
        finally:
            engine.close()

    def open(self) -> SharedMemoryEngine:
        options = self.setting.options
        engine = open_engine(
            self.engine,
            options["prefix"],
            channel_memory=options["channel_memory"],
            group_memory=options["group_memory"],
            engine_options=options["engine_options"],
        )
        assert isinstance(engine, SharedMemoryEngine)
        return engine

    def drain(self, engine: SharedMemoryEngine) -> None:
        """Read what is left, as one more consumer."""
        layer = SyncIPCChannelLayer(
            **{**self.setting.options, "engine": engine, "engine_options": None}
        )
        self.numbers += 1
        ledger = Ledger(self.folder / f"{self.numbers}.ledger")
        names = [f"channel{n}" for n in range(CHANNELS)]
        while True:
            name, message = layer.receive(names)
            if name is None or message is None:
                break
            ledger.note(GOT, int(name[7:]), message["p"], message["n"])
        ledger.close()
        layer.close()

    def finish(self, seconds: float) -> Report:
        """Stop the steady ones, and compare the ledgers."""
        steady = {me for part, me, _ in self.workers.values() if part.role == "stay"}
        for child in self.workers:
            os.kill(child, signal.SIGTERM)
        for _ in turns(STOPPED, 0.01):
            for child in list(self.workers):
                if os.waitpid(child, os.WNOHANG)[0]:
                    del self.workers[child]
            if not self.workers:
                break
        for child, (part, _, _) in list(self.workers.items()):
            what = "a wake-up was lost: " if part in PAIR else ""
            self.faults.append(f"{what}{part.role} does not stop")
            self.kill(child)
        for path in self.folder.glob("*.error"):
            self.faults.append(path.read_text())
        books = Books(self.folder)
        lost, faults = books.channels(self.deaths)
        self.faults += faults + books.groups(steady)
        quiet = books.quiet()
        engine = self.open()
        recoveries = engine.statistics()["recoveries"]
        engine.destroy()
        if (self.folder / "store" / "soak").exists():
            self.faults.append("destroy left " + str(os.listdir(self.folder / "store" / "soak")))
        return Report(
            self.engine,
            seconds,
            self.kills,
            self.stops,
            len(books.sent),
            books.received,
            lost,
            len(quiet),
            max(quiet, default=0.0),
            recoveries,
            self.faults,
        )


def soak(engine: str, seconds: float, seed: int = 0) -> Report:
    """Run one soak."""
    return Soak(engine, seconds, seed).run()


def main(arguments: list[str]) -> int:
    """Called by ``python -m tests.torture soak``."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture soak", description=__doc__)
    parser.add_argument("--engine", choices=(*ENGINES, "all"), default="all")
    parser.add_argument("--seconds", type=float, default=60, help="for each engine")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    failed = False
    for engine in ENGINES if options.engine == "all" else (options.engine,):
        report = soak(engine, options.seconds, seed)
        sys.stdout.write(f"{report} (seed {seed})\n")
        sys.stdout.flush()
        failed = failed or bool(report.faults)
    return int(failed)
