"""Processes that use one store while they are killed, stopped and continued at random.

Every process keeps a ledger, a file that it appends to before and after what it does, and
that outlives it. In the end the ledgers must agree with each other:

* an acknowledged message arrived, or was the one that a killed reader had just taken;
* none arrived twice, and what one producer sent to one channel arrived in that order;
* a steady member of a group got all that was sent to it, once and in order;
* nothing stood still for long while nobody was stopped;
* the dead left no membership, no FIFO, no process slot and no memory;
* a waiter in a quiet pair was woken by its bell and not by its regular look.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from asgi_ipc import ChannelFull, IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.engines import open_engine
from asgi_ipc.store.check import check
from asgi_ipc.store.engine import SharedMemoryEngine
from asgi_ipc.store.layout import LANES, Q_GONE, Q_OWNER, Q_PUSHED, Q_WORDS, WORD

ENGINES = ("posix", "sysv", "mmap")
CHANNELS = 6
GROUPS = 3
#: Seconds without any message arriving, with nobody stopped, that count as standing still.
STALL = 30.0
#: A quiet waiter that took longer was not woken, but looked by itself.
LATE = 0.9
#: Seconds that messages to groups live.
FORGOTTEN = 6
#: Bytes that a store in use for longer may take more, as handles are never given back.
SLACK = 64 * 1024

#: What a line of a ledger says.
TRIED, SENT, GOT, JOINED, LEFT = b"TSGJL"
_LINE = struct.Struct("<BBxxIQd")
_SIZES = (10, 10, 10, 200, 3_000, 20_000)


class Line(NamedTuple):
    """One line of a ledger: what was done, on which channel or group, whose, which, when."""

    what: int
    where: int
    producer: int
    number: int
    at: float


class Ledger:
    """One process's file. What was appended stays when it is killed."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: int, where: int, producer: int, number: int) -> None:
        os.write(self._descriptor, _LINE.pack(what, where, producer, number, time.monotonic()))

    @staticmethod
    def read(path: Path) -> Iterator[Line]:
        data = path.read_bytes()
        return (Line(*fields) for fields in _LINE.iter_unpack(data[: len(data) // 24 * 24]))


class Setting(NamedTuple):
    """What all processes of a soak share."""

    folder: Path
    options: dict[str, Any]


def _message(producer: int, number: int, dice: random.Random) -> dict[str, Any]:
    return {"p": producer, "n": number, "x": bytes(dice.choice(_SIZES))}


# ---- What a process does until it is killed, or told to stop by SIGTERM.


class Worker:
    """One process; ``me`` is a number that none had before."""

    def __init__(self, setting: Setting, me: int) -> None:
        self.setting = setting
        self.me = me
        self.dice = random.Random(me)
        self.ledger = Ledger(setting.folder / f"{me}.ledger")
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def layer(self) -> IPCChannelLayer:
        return IPCChannelLayer(**self.setting.options)

    def sync_layer(self) -> SyncIPCChannelLayer:
        return SyncIPCChannelLayer(**self.setting.options)

    # Producers.

    def produce(self) -> None:
        layer = self.sync_layer()
        for number in range(1 << 40):
            if self.stopping:
                return
            where = self.dice.randrange(CHANNELS)
            self.ledger.note(TRIED, where, self.me, number)
            while not self.stopping:
                try:
                    layer.send(f"channel{where}", _message(self.me, number, self.dice))
                    self.ledger.note(SENT, where, self.me, number)
                    break
                except ChannelFull:
                    time.sleep(0.002)
            if self.dice.random() < 0.1:
                time.sleep(self.dice.uniform(0, 0.005))

    def produce_async(self) -> None:
        asyncio.run(self._produce_async())

    async def _produce_async(self) -> None:
        layer = self.layer()
        for number in range(1 << 40):
            if self.stopping:
                return
            where = self.dice.randrange(CHANNELS)
            self.ledger.note(TRIED, where, self.me, number)
            while not self.stopping:
                try:
                    await layer.send(f"channel{where}", _message(self.me, number, self.dice))
                    self.ledger.note(SENT, where, self.me, number)
                    break
                except ChannelFull:
                    await asyncio.sleep(0.002)
            if self.dice.random() < 0.1:
                await asyncio.sleep(self.dice.uniform(0, 0.005))

    # Consumers of ordinary channels.

    def consume(self) -> None:
        layer = self.sync_layer()
        names = [f"channel{n}" for n in self.dice.sample(range(CHANNELS), 3)]
        while not self.stopping:
            name, message = layer.receive(names, block=True, timeout=self.dice.uniform(0, 0.3))
            if name is not None and message is not None:
                self.ledger.note(GOT, int(name[7:]), message["p"], message["n"])

    def consume_async(self) -> None:
        asyncio.run(self._consume_async())

    async def _consume_async(self) -> None:
        layer = self.layer()

        async def consume(where: int, patient: bool) -> None:
            while not self.stopping:
                timeout = 0.5 if patient else self.dice.uniform(0, 0.01)
                try:
                    message = await asyncio.wait_for(layer.receive(f"channel{where}"), timeout)
                except asyncio.TimeoutError:
                    continue
                self.ledger.note(GOT, where, message["p"], message["n"])

        where = self.dice.sample(range(CHANNELS), 3)
        await asyncio.gather(*(consume(n, index > 0) for index, n in enumerate(where)))

    # Groups.

    def group_send(self) -> None:
        # Sent to a member that has just been forgotten, a message stays until it expires.
        layer = SyncIPCChannelLayer(**{**self.setting.options, "expiry": FORGOTTEN})
        for number in range(1 << 40):
            if self.stopping:
                return
            where = self.dice.randrange(GROUPS)
            self.ledger.note(TRIED, CHANNELS + where, self.me, number)
            layer.send_group(f"group{where}", _message(self.me, number, self.dice))
            self.ledger.note(SENT, CHANNELS + where, self.me, number)
            time.sleep(self.dice.uniform(0, 0.01))

    def stay(self) -> None:
        """A steady member: joins all groups, and leaves when told to stop."""
        asyncio.run(self._member(steady=True))

    def come_and_go(self) -> None:
        asyncio.run(self._member(steady=False))

    async def _member(self, steady: bool) -> None:
        layer = self.layer()

        async def member(where: int) -> None:
            while not self.stopping:
                name = await layer.new_channel()
                await layer.group_add(f"group{where}", name)
                (self.setting.folder / f"{self.me}.prefix").write_text(layer.client_prefix)
                self.ledger.note(JOINED, CHANNELS + where, self.me, 0)
                until = time.monotonic() + (1e9 if steady else self.dice.uniform(0, 0.2))
                while time.monotonic() < until and not self.stopping:
                    with contextlib.suppress(asyncio.TimeoutError):
                        message = await asyncio.wait_for(layer.receive(name), 0.1)
                        self.ledger.note(GOT, CHANNELS + where, message["p"], message["n"])
                if steady:
                    # What was sent before the end is there by now.
                    with contextlib.suppress(asyncio.TimeoutError):
                        while True:
                            message = await asyncio.wait_for(layer.receive(name), 1.5)
                            self.ledger.note(GOT, CHANNELS + where, message["p"], message["n"])
                self.ledger.note(LEFT, CHANNELS + where, self.me, 0)
                await layer.group_discard(f"group{where}", name)

        await asyncio.gather(*(member(where) for where in range(GROUPS)))

    # The quiet pair: never killed, never stopped.

    def knock(self) -> None:
        layer = self.sync_layer()
        for number in range(1 << 40):
            if self.stopping:
                return
            self.ledger.note(SENT, 255, self.me, number)
            layer.send("quiet", {"n": number, "p": self.me})
            time.sleep(self.dice.uniform(0.01, 0.05))

    def listen(self) -> None:
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        layer = self.layer()
        while not self.stopping:
            with contextlib.suppress(asyncio.TimeoutError):
                message = await asyncio.wait_for(layer.receive("quiet"), 5)
                self.ledger.note(GOT, 255, message["p"], message["n"])


KILLABLE = (
    "produce",
    "produce",
    "produce_async",
    "consume",
    "consume",
    "consume_async",
    "consume_async",
    "group_send",
    "come_and_go",
)
CONSUMERS = {"consume", "consume_async"}
STEADY = ("stay", "knock", "listen")
#: Those of which a stop shows in nothing but time.
NEVER_STOPPED = {"knock", "listen"}


class Report(NamedTuple):
    """What a soak has done and found."""

    engine: str
    seconds: float
    kills: int
    stops: int
    sent: int
    received: int
    lost: int
    slowest: float
    late: int
    knocks: int
    recoveries: int
    faults: list[str]

    def __str__(self) -> str:
        text = (
            f"{self.engine}: {self.seconds:.0f} s, {self.kills} kills, {self.stops} stops, "
            f"{self.sent} messages sent, {self.received} received, {self.lost} lost with killed "
            f"readers, {self.recoveries} recoveries, quiet pair: {self.knocks} messages, slowest "
            f"{self.slowest * 1000:.0f} ms, {self.late} not woken"
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
        self.workers: dict[int, tuple[str, int]] = {}
        self.stopped: dict[int, float] = {}
        self.numbers = 0
        self.kills = self.stops = 0
        self.killed: dict[int, str] = {}
        self.faults: list[str] = []

    # Processes.

    def start(self, role: str) -> None:
        self.numbers += 1
        me = self.numbers
        child = os.fork()
        if child:
            self.workers[child] = role, me
            return
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            worker = Worker(self.setting, me)
            getattr(worker, role)()
            status = 0
        except BaseException:
            (self.folder / f"{me}.error").write_text(f"{role}: {traceback.format_exc()}")
        finally:
            os._exit(status)

    def kill(self, child: int) -> None:
        role, me = self.workers.pop(child)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.stopped.pop(child, None)
        self.killed[me] = role
        self.kills += 1

    def pick(self, among: Callable[[str], bool]) -> int | None:
        found = [child for child, (role, _) in self.workers.items() if among(role)]
        return self.dice.choice(found) if found else None

    # The soak.

    def run(self) -> Report:
        began = time.monotonic()
        try:
            for role in (*STEADY, *KILLABLE):
                self.start(role)
            self.torment(began + self.seconds * 0.4)
            first = self.calm()
            for role in KILLABLE:
                self.start(role)
            self.torment(began + self.seconds)
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

    def torment(self, until: float) -> None:
        """Kill, stop and continue, and see that messages keep arriving."""
        arrived, since = self.progress(), time.monotonic()
        look = 0.0
        while (now := time.monotonic()) < until:
            time.sleep(self.dice.uniform(0, 0.01))
            for child, when in list(self.stopped.items()):
                if now >= when:
                    os.kill(child, signal.SIGCONT)
                    del self.stopped[child]
                    since = now
            if self.dice.random() < 0.9:
                victim = self.pick(lambda role: role not in STEADY)
                if victim is not None:
                    role = self.workers[victim][0]
                    self.kill(victim)
                    self.start(role)
            elif len(self.stopped) < 2:
                victim = self.pick(lambda role: role not in NEVER_STOPPED)
                if victim is not None and victim not in self.stopped:
                    os.kill(victim, signal.SIGSTOP)
                    # Now and then for longer than any of our timeouts.
                    longest = 2.5 if self.dice.random() < 0.05 else 0.1
                    self.stopped[victim] = now + self.dice.uniform(0, longest)
                    self.stops += 1
            self.reap()
            if now >= look:
                look = now + 0.5
                seen = self.progress()
                if seen != arrived or self.stopped:
                    arrived, since = seen, now
                elif now > since + STALL:
                    self.faults.append(f"no message arrived for {STALL} s")
                    return

    def progress(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("*.ledger"))

    def reap(self) -> None:
        """Nobody may end by himself."""
        for child, (role, me) in list(self.workers.items()):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                del self.workers[child]
                self.stopped.pop(child, None)
                error = self.folder / f"{me}.error"
                told = error.read_text() if error.exists() else f"{role} ended: status {status}"
                self.faults.append(told)
                self.start(role)

    def calm(self) -> int:
        """End what may be killed; the store must be as clean as if they had never been."""
        for child in self.stopped:
            os.kill(child, signal.SIGCONT)
        self.stopped.clear()
        for child, (role, _) in list(self.workers.items()):
            if role not in STEADY:
                self.kill(child)
        engine = self.open()
        try:
            self.drain(engine)
            self.await_clean(engine)
            return self.in_use(engine)
        finally:
            engine.close()

    def in_use(self, engine: SharedMemoryEngine) -> int:
        """Bytes in use, without lanes: the queues of the steady ones may just have some."""
        used = 0
        for region in (engine._channels, engine._groups):
            with region as heap:
                used += heap.usage()[0] - heap.words[LANES] * heap.geometry.extent_words * WORD
        return used

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
        layer.close()

    def await_clean(self, engine: SharedMemoryEngine) -> None:
        """Within seconds nothing is left of the dead."""
        alive = {
            bytes.fromhex((self.folder / f"{me}.prefix").read_text()[:28])
            for role, me in self.workers.values()
            if role == "stay"
        }
        until = time.monotonic() + FORGOTTEN + 60
        while True:
            left = self.remains(engine, alive)
            if not left:
                return
            if time.monotonic() > until:
                self.faults += left
                return
            time.sleep(0.1)

    def remains(self, engine: SharedMemoryEngine, alive: set[bytes]) -> list[str]:
        left = []
        with engine._channels:
            # As when room is needed.
            engine._queues.upkeep.sweep(engine.clock(), everything=True)
        for number in range(GROUPS):
            for member in engine.members(b"group%d" % number).names:
                if not any(identity in member for identity in alive):
                    left.append(f"membership of the dead: {member!r}")
        counts = engine.statistics()
        # The steady ones, and this process.
        if counts["processes"] > len(self.workers) + 1:
            left.append(f"{counts['processes']} slots for {len(self.workers) + 1} processes")
        # What the steady ones wait on, and what they are just being sent.
        if counts["queues"] > len(STEADY) + 1 or counts["pending"] > 5:
            left.append(
                f"{counts['queues']} queues with {counts['pending']} messages: "
                f"{self.queues(engine)}, alive {alive}"
            )
        for region in (engine._channels, engine._groups):
            with region as heap:
                left += [str(fault) for fault in check(heap)]
        return left

    def queues(self, engine: SharedMemoryEngine) -> list[tuple[bytes, int, int]]:
        """Name, messages and owner of each queue."""
        index = engine._queues._index
        with engine._channels as heap:
            found = []
            for first in range(heap.geometry.buckets):
                for handle in index.chain(heap.geometry.hash_table + first):
                    address = heap.address(handle)
                    found.append(
                        (
                            heap.payload(address, Q_WORDS),
                            heap.words[address + Q_PUSHED] - heap.words[address + Q_GONE],
                            heap.words[address + Q_OWNER],
                        )
                    )
            return found

    # The ledgers.

    def finish(self, seconds: float) -> Report:
        for child, (role, _) in list(self.workers.items()):
            os.kill(child, signal.SIGTERM)
            until = time.monotonic() + 120
            while not os.waitpid(child, os.WNOHANG)[0]:
                if time.monotonic() > until:
                    self.faults.append(f"{role} does not stop")
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    break
                time.sleep(0.01)
        steady = {me for role, me in self.workers.values() if role == "stay"}
        self.workers.clear()
        for path in self.folder.glob("*.error"):
            self.faults.append(path.read_text())
        tried, sent, got, lines = self.read()
        lost = self.compare(tried, sent, got)
        self.compare_groups(sent, steady, lines)
        slow = self.quiet(lines)
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
            len(sent),
            sum(len(each) for each in got.values()),
            lost,
            max(slow, default=0.0),
            sum(1 for each in slow if each > LATE),
            len(slow),
            recoveries,
            self.faults,
        )

    def read(
        self,
    ) -> tuple[set[Any], dict[Any, float], dict[int, list[Any]], dict[int, list[Line]]]:
        tried: set[Any] = set()
        sent: dict[Any, float] = {}
        got: dict[int, list[Any]] = {}
        lines: dict[int, list[Line]] = {}
        for path in self.folder.glob("*.ledger"):
            me = int(path.stem)
            got[me] = []
            lines[me] = list(Ledger.read(path))
            for line in lines[me]:
                key = (line.where, line.producer, line.number)
                if line.what == TRIED:
                    tried.add(key)
                elif line.what == SENT:
                    sent[key] = line.at
                elif line.what == GOT:
                    got[me].append(key)
        return tried, sent, got, lines

    def compare(self, tried: set[Any], sent: dict[Any, float], got: dict[int, list[Any]]) -> int:
        """Ordinary channels: nothing lost, doubled, mixed up or made up."""
        seen: collections.Counter[Any] = collections.Counter()
        for me, keys in got.items():
            last: dict[tuple[int, int], int] = {}
            for where, producer, number in keys:
                if number <= last.get((where, producer), -1):
                    self.faults.append(f"{me} got {where, producer, number} out of order")
                last[where, producer] = number
            seen.update(key for key in keys if key[0] < CHANNELS)
        twice = [key for key, times in seen.items() if times > 1]
        if twice:
            self.faults.append(f"{len(twice)} messages arrived twice: {twice[:5]}")
        if seen.keys() - tried:
            self.faults.append(f"messages that nobody sent: {list(seen.keys() - tried)[:5]}")
        lost = {key for key in sent if key[0] < CHANNELS} - seen.keys()
        readers = sum(1 for role in self.killed.values() if role in CONSUMERS)
        if len(lost) > readers:
            self.faults.append(
                f"{len(lost)} acknowledged messages lost, with {readers} readers killed"
            )
        return len(lost)

    def compare_groups(
        self, sent: dict[Any, float], steady: set[int], lines: dict[int, list[Line]]
    ) -> None:
        """A steady member got each group message that was sent while it was one, once."""
        for me in steady:
            joined = {line.where: line.at for line in lines[me] if line.what == JOINED}
            left = {line.where: line.at for line in lines[me] if line.what == LEFT}
            arrived = [
                (line.where, line.producer, line.number) for line in lines[me] if line.what == GOT
            ]
            if len(set(arrived)) != len(arrived):
                self.faults.append(f"member {me} got a message twice")
            # Sent is noted after the sending, joined after the joining; a margin does for
            # the difference.
            due = {
                key
                for key, at in sent.items()
                if key[0] in joined and joined[key[0]] + 3 < at < left.get(key[0], 0)
            }
            missing = due - set(arrived)
            if missing:
                self.faults.append(
                    f"member {me} never got {len(missing)} of {len(due)}: {sorted(missing)[:3]}"
                )

    def quiet(self, lines: dict[int, list[Line]]) -> list[float]:
        """Seconds that each message of the quiet pair took."""
        began = {}
        for each in lines.values():
            began.update(
                {
                    (line.producer, line.number): line.at
                    for line in each
                    if line.where == 255 and line.what == SENT
                }
            )
        return [
            line.at - began[line.producer, line.number]
            for each in lines.values()
            for line in each
            if line.where == 255 and line.what == GOT
        ]


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
