"""What a process of a round shares with the others, and writes down for the judge."""

from __future__ import annotations

import itertools
import mmap
import os
import threading
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from asgi_ipc import ChannelFull, IPCChannelLayer, StoreUnavailable

from ..ledgers import GOT, SENT, TRIED, Ledger
from .plan import CHANNELS, GROUPS, OWN, Plan

#: What a line of a ledger says, besides `ledgers.TRIED`, `SENT` and `GOT`: a channel was made on
#: a queue; it is given up; its reader joined a group; a flush, closing or removal has ended; an
#: exception may have cost a receiver messages; a queue's counts of drops.
#: and a message that was read only when all had ended, though somebody had waited for it.
#: And how many sends have failed that a call in the middle of another had to leave for later.
OPENED, LEFT, MEMBER, EMPTIED, CHANCE, OVERFLOWED, REFUSED, FULL, STRANDED, LATER = b"OXMECVRFZA"

#: What counts for the whole store, where the number of a queue is asked for.
STORE = 7
#: The stages of a round, in its first byte: all work; senders stop; all stops.
RUN, DRAIN, FINISH = range(3)
#: What stands behind each fault that a process tells.
END = "\x1e"
#: Numbers of forked children begin here.
CHILDREN = 1000
#: Own channels that a sender chooses from: the newest.
_KNOWN = 24


class Interruption(Exception):
    """What the signal handlers of a round raise."""


class World:
    """A process of a round. A forked child has one of its own, with the same folder."""

    def __init__(self, folder: Path, plan: Plan, index: int, layers: list[IPCChannelLayer]) -> None:
        self.folder, self.plan, self.index, self.layers = folder, plan, index, layers
        self.process = os.getpid()
        with (folder / "stage").open("r+b") as file:
            self._stage = mmap.mmap(file.fileno(), 1)
        #: How many closings and removals have begun here.
        self.closings = 0
        #: In a forked child, when it has done enough.
        self.until = float("inf")
        #: Own channels by number, in the order in which they were made; of all processes where
        #: they share the store.
        self.names: dict[int, str] = {}
        self._names_read = 0
        #: Numbers of the own channels that were made here, and of their queues.
        self.own: dict[str, int] = {}
        self.queues: dict[str, int] = {}
        self._counted: dict[tuple[int, int], int] = {}
        #: Own channels that the habitat of a thread has made; and those that one has left to
        #: the lasting one, when it ended.
        self.open: defaultdict[int, dict[int, tuple[IPCChannelLayer, str]]] = defaultdict(dict)
        self.inherited: deque[tuple[int, IPCChannelLayer, str]] = deque()
        self._slots = itertools.count()

    @property
    def stage(self) -> int:
        """Which stage the round has reached, for this process."""
        if self.until < time.monotonic():
            return FINISH
        return self._stage[0]

    def number(self) -> int:
        """A number that nothing in this round has had."""
        descriptor = os.open(self.folder / "numbers", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, b".")
            return OWN + os.lseek(descriptor, 0, os.SEEK_CUR)
        finally:
            os.close(descriptor)

    def notes(self, *path: object) -> Notes:
        """A ledger for an actor, and its dice."""
        return Notes(self, self.plan.dice(self.index, *path, next(self._slots)))

    def fault(self, text: str) -> None:
        """Tell the judge what ought not to have happened."""
        line = f"process {self.index}: {text}{END}".encode()
        with (self.folder / "faults").open("ab", buffering=0) as file:
            file.write(line)

    # Own channels

    def publish(self, where: int, name: str) -> None:
        """Let all senders know a channel."""
        self.names[where] = name
        if self.plan.engine != "memory":
            with (self.folder / "names").open("ab", buffering=0) as file:
                file.write(f"{where} {name}\n".encode())

    def known(self) -> list[tuple[int, str]]:
        """The newest own channels, of other processes too."""
        try:
            # Several threads may read the same lines.
            start = self._names_read
            with (self.folder / "names").open("rb") as file:
                file.seek(start)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._names_read = start + len(whole)
            for line in whole.decode().splitlines():
                where, name = line.split()
                self.names[int(where)] = name
        except FileNotFoundError:
            pass  # None has been made yet.
        # In one step, as other threads and finalizers publish meanwhile.
        return list(self.names.copy().items())[-_KNOWN:]

    def reader(self, dice: Random, layer: IPCChannelLayer) -> IPCChannelLayer:
        """A layer that may receive on the own channels of another: it shares the engine."""
        if not self.plan.has("twins"):
            return dice.choice(self.layers)
        return layer if layer is self.layers[-1] else dice.choice(self.layers[:-1])

    def bequeath(self) -> None:
        """Leave the own channels of this thread's habitat to the lasting one."""
        for where, (layer, name) in self.open.pop(threading.get_ident(), {}).items():
            self.inherited.append((where, layer, name))

    def target(self, dice: Random) -> tuple[int, str]:
        """Where to send something."""
        known = self.known() if dice.random() < 0.6 else []
        if known:
            return dice.choice(known)
        # A forked child's groups are empty where it has a store of its own.
        if dice.random() < 0.2 and (self.index < CHILDREN or self.plan.engine != "memory"):
            group = dice.choice(GROUPS)
            return group, f"group{group}"
        where = dice.randrange(CHANNELS)
        return where, f"channel{where}"

    # Errors

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close or remove the store here; receivers may be told so from now on."""
        self.closings += 1
        yield

    def is_documented(self, error: BaseException, receiving: bool = False) -> bool:
        """Whether a public call may raise this now."""
        if isinstance(error, Interruption):
            return (
                self.plan.has("handlers") and threading.current_thread() is threading.main_thread()
            )
        closed = self.closings > 0 or self.plan.has("destroy")
        if isinstance(error, StoreUnavailable):
            return closed
        # The process is another one to a store that it has opened again.
        return (
            receiving and closed and isinstance(error, ValueError) and "can't receive" in str(error)
        )


class Notes:
    """An actor's ledger."""

    def __init__(self, world: World, dice: Random) -> None:
        self.world, self.dice = world, dice
        self.me = self.producer = world.number()
        self._ledger = Ledger(world.folder / f"{self.me}.ledger")
        self._numbers = itertools.count()

    def close(self) -> None:
        """Give the file back."""
        self._ledger.close()

    def note(self, what: int, where: int, number: int = 0, producer: int | None = None) -> None:
        """Write a line."""
        self._ledger.note(what, where, self.me if producer is None else producer, number)

    def message(self, where: int) -> dict[str, Any]:
        """A new message, noted as tried."""
        number = next(self._numbers)
        self._ledger.note(TRIED, where, self.producer, number)
        return {
            "w": where,
            "p": self.producer,
            "n": number,
            "x": bytes(self.dice.choice((0, 9, 500))),
        }

    def sent(self, message: dict[str, Any]) -> None:
        """Note that a message was accepted."""
        self._ledger.note(SENT, message["w"], message["p"], message["n"])

    def full(self, where: int) -> None:
        """Note that a message to a channel was refused."""
        self._ledger.note(FULL, where, self.me, 0)

    def got(self, where: int, message: dict[str, Any]) -> None:
        """Note a message that arrived on a channel, and that it was meant for it."""
        self._ledger.note(GOT, where, message["p"], message["n"])
        if message["w"] != where and message["w"] not in GROUPS:
            self.world.fault(f"on channel {where} came a message for {message['w']}")

    def failed(self, call: str, error: BaseException, receives: int = -1) -> None:
        """Judge an error that a public call has raised; ``receives``: on which channel."""
        if isinstance(error, Interruption) and receives >= 0:
            self.note(CHANCE, receives)
        if not self.world.is_documented(error, receives >= 0):
            told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self.world.fault(f"{call} raised what is not documented for it: {told}")

    # Calls that several actors make

    def begin(self, layer: IPCChannelLayer, name: str, publish: bool = True) -> int:
        """Note a new own channel, before anything is sent to it; its number."""
        world = self.world
        where, queue = world.number(), name.partition("!")[0] + "!"
        if queue not in world.queues:
            world.queues[queue] = world.number()
        self.note(OPENED, where, world.queues[queue])
        world.own[name] = where
        world.open[threading.get_ident()][where] = layer, name
        if publish:
            world.publish(where, name)
        return where

    def left(self, where: int) -> None:
        """Note that an own channel has come to its end, with the store that it was made in."""
        self.note(LEFT, where)
        self.world.open[threading.get_ident()].pop(where, None)

    def send(self, layer: IPCChannelLayer, where: int, name: str) -> None:
        """Send one message with the synchronous surface; full channels are passed over."""
        message = self.message(where)
        try:
            if where in GROUPS:
                layer.sync.group_send(name, message)
            else:
                layer.sync.send(name, message)
            self.sent(message)
        except ChannelFull:
            self.full(where)
        except Exception as error:
            self.failed("send", error)

    def count(self) -> None:
        """Note what this process has dropped since the last time."""
        world = self.world
        # Those with an engine of their own have buffers of their own.
        readers = [world.layers[0], *(world.layers[-1:] if world.plan.has("twins") else ())]
        dropped = 0
        try:
            for queue, number in list(world.queues.items()):
                counts = [layer.sync.channel_statistics(queue) for layer in readers]
                overflowed = sum(int(each["overflow_count"]) for each in counts)
                dropped += overflowed
                self._count(OVERFLOWED, number, overflowed)
                self._count(REFUSED, number, int(counts[0]["channel_full_count"]))
            if world.plan.has("finalizers"):
                every = [layer.sync.global_statistics() for layer in world.layers]
                total = sum(int(each["overflow_count"]) for each in every)
                self._count(LATER, world.index, max(0, total - len(world.layers) * dropped))
                # An engine forgets what it counted for a channel that nobody uses.
                # Of each store for itself: a forked child has one of its own on this engine.
                store = world.index if world.plan.engine == "memory" else 0
                self._count(REFUSED, STORE, int(every[0]["channel_full_count"]), store)
        except Exception as error:
            self.failed("statistics", error)

    def _count(self, what: int, queue: int, count: int, producer: int | None = None) -> None:
        if self.world._counted.get((what, queue), 0) != count:
            self.world._counted[what, queue] = count
            self.note(what, queue, count, producer)
