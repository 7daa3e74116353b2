"""Shared channels: ordinary channels whose messages lie on the server, for any machine (R12).

Processes of this machine leave messages to shared channels on the way out, and a member in the
table `WAITING` for each receiver that waits on one. The relay puts the messages on the server's
queues, and takes from there as many as receivers wait for here. Of a channel that is full on the
server it leaves a member in the table `FULL`, by which senders know.

A receiver may be killed or cancelled while a message that was taken for it is on its way. What lies
in the store for longer than `GRACE` and exceeds the receivers that wait goes back to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from ..encoding.names import channel_name
from ..engines.base import NODE_BYTES, Members, Popped
from ..exceptions import ChannelFull, StoreCorrupt, StoreUnavailable, WireError, WireRefused
from .counts import INTERVAL, Counts
from .ending import until_answered
from .frames import Kind, NoFrame, RelayFrame, pack, queue_binding, unpack
from .machine import Machine
from .options import RelayOptions
from .way_out import FULL, WAITING, read, receiver_channel, receiver_process, unpack_work
from .wire import Wire

_log = logging.getLogger("asgi_ipc")

#: Seconds between two looks at queues and receivers, in case that a wake-up was lost.
LOOK = 1.0
#: Seconds between two looks whether a full channel has room again.
LOOK_FULL = 0.25
#: Seconds between two looks at messages that were taken, and for which one may lie in the store
#: before it goes back if no receiver waits for it.
LOOK_TAKEN, GRACE = 0.5, 0.5
#: Nanoseconds that a channel counts as full without a new look.
_FULL_FOR = 5 * 1_000_000_000
#: Capacity for a message that was on the server before.
_ANY = (1 << 31) - 1
#: Most messages that are taken at once.
_MOST = 64
#: Seconds between two looks at queues that became ready, and how many are looked at then: each may
#: be told to all machines.
_READY, _MOST_READY = 0.02, 20


def is_name(name: bytes) -> bool:
    """Return whether an ordinary channel may have that name."""
    try:
        return not channel_name(name.decode("ascii")).specific
    except (TypeError, ValueError):
        return False


class Work:
    """The shared channels of a machine, in one term of its relay."""

    def __init__(
        self,
        machine: Machine,
        options: RelayOptions,
        term: int,
        counts: Counts,
        tell_others: Callable[[bytes], None],
    ) -> None:
        self._machine, self._options, self._term, self._counts = machine, options, term, counts
        self._engine = machine.engine
        self._node = machine.engine.identity[:NODE_BYTES]
        #: Called with a channel for which other machines may have receivers.
        self._tell_others = tell_others
        self._woken = asyncio.Event()
        self._waiting: Members | None = None
        self._full: dict[bytes, int] = {}
        #: Whether messages are on their way to the server's queues.
        self.is_pushing = False
        #: Queues that became ready since the last look at them, and the timer of the next.
        self._ready: set[bytes] = set()
        self._ready_later: asyncio.TimerHandle | None = None
        #: Channels of which messages may lie in the store.
        self._taken: set[bytes] = set()
        #: What the server said when it refused a command last, and when; for the report.
        self.refused = ""
        self.refused_at: int | None = None
        #: When the log may say again that the server refuses commands.
        self._tells_at = 0.0

    # ---- to the server

    async def push(self, wire: Wire, records: Sequence[Popped]) -> None:
        """Put messages on the server's queues, in order. Raises as the wire."""
        self.is_pushing = True
        pushing = asyncio.gather(
            *(self._push(wire, record) for record in records), return_exceptions=True
        )
        try:
            results = await until_answered(pushing)
        finally:
            self.is_pushing = False
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _push(self, wire: Wire, record: Popped) -> None:
        try:
            _, name, rest = read(record.payload)
            if not is_name(name):
                raise ValueError("no shared channel")
            capacity, body = unpack_work(rest)
            frame = self._packed(name, body, record.deadline - self._engine.clock())
        except ValueError:
            self._counts.dropped("not a record")
            return
        lifetime = (record.deadline - self._engine.clock()) / 1e9
        if lifetime <= 0:
            self._counts.dropped("expired")
            return
        if len(frame) > wire.frame_limit:
            self._counts.dropped("too large for the server")
            return
        try:
            pushed = await wire.push(name, frame, lifetime, capacity)
        except WireRefused as error:
            self._counts.dropped("refused by the server")
            self._note_refusal(error)
            return
        except (WireError, asyncio.CancelledError):
            self._counts.dropped("outcome unknown")
            raise
        if pushed.refused is None:
            self._counts.add("shared_out")
        elif pushed.refused == "no room":
            self._counts.dropped("server out of memory")
        else:
            self._counts.dropped("shared channel full")
        if pushed.refused is not None or pushed.length >= capacity:
            self._full[name] = capacity
            self._mark_full(name)

    def _packed(self, name: bytes, body: bytes, lifetime: int) -> bytes:
        frame = RelayFrame(
            Kind.WORK, self._node, self._term, 1, max(0, lifetime), name, body,
            self._options.formats[1],
        )  # fmt: skip
        options = self._options
        bound_to = queue_binding(options.prefix, name)
        return pack(frame, options.formats[0], options.sealer, bound_to)

    def _mark_full(self, name: bytes) -> None:
        engine = self._engine
        # If the store has no room, senders learn of that themselves.
        with contextlib.suppress(ChannelFull):
            engine.put(FULL, name, engine.clock() + _FULL_FOR, engine.identity)

    async def keep_checking_full(self, wire: Wire) -> None:
        """Find out when full channels have room again, without end. Raises as the wire."""
        while True:
            await asyncio.sleep(LOOK_FULL)
            for name, capacity in list(self._full.items()):
                try:
                    length = await wire.length(name)
                except WireRefused as error:
                    self._note_refusal(error)
                    length = capacity
                if length < capacity:
                    del self._full[name]
                    self._engine.remove(FULL, name)
                else:
                    self._mark_full(name)

    # ---- from the server

    def wake(self) -> None:
        """Have `keep_taking` look for receivers and messages now."""
        self._woken.set()

    def ready(self, name: bytes) -> None:
        """Hear from the wire that a queue has a message; or from another program that it has."""
        shares = self._options.shares
        if shares is None or not is_name(name) or not shares(name.decode("ascii")):
            self._counts.dropped("no frame")
        elif self._ready_later is not None:
            # Those passed over are looked at within a second, as after a wake-up that was lost.
            if len(self._ready) < _MOST_READY:
                self._ready.add(name)
        else:
            self._ready_later = asyncio.get_running_loop().call_later(_READY, self._look_at_ready)
            self._act_on_ready({name})

    def _look_at_ready(self) -> None:
        """Act on all queues that became ready in the last `_READY` seconds, at once."""
        self._ready_later = None
        if self._ready:
            ready, self._ready = self._ready, set()
            self._ready_later = asyncio.get_running_loop().call_later(_READY, self._look_at_ready)
            with contextlib.suppress(StoreUnavailable, StoreCorrupt):  # The regular work meets it.
                self._act_on_ready(ready)

    def _act_on_ready(self, names: set[bytes]) -> None:
        missing = self._missing()
        for name in names:
            if missing.get(name, 0) > 0:
                self._woken.set()
            else:
                self._tell_others(name)

    async def keep_taking(self, wire: Wire) -> None:
        """Take messages for the receivers that wait here, without end. Raises as the wire."""
        while True:
            found = 0
            for name, number in self._missing().items():
                if number > 0:
                    found += await until_answered(self._pop(wire, name, min(number, _MOST)))
            if not found:
                # All queues are empty for which a receiver waits, and the wire is armed on them.
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), LOOK)
                self._woken.clear()

    async def _pop(self, wire: Wire, name: bytes, limit: int) -> int:
        """Take messages and deliver them; return how many."""
        try:
            frames = await wire.pop(name, limit)
        except WireRefused as error:
            self._note_refusal(error)
            return 0
        for frame in frames:
            self._deliver(name, frame)
        return len(frames)

    def _note_refusal(self, error: WireRefused) -> None:
        """Note and log that the server refuses commands for queues; all else goes on."""
        self.refused, self.refused_at = str(error), self._engine.clock()
        now = time.monotonic()
        if now >= self._tells_at:
            self._tells_at = now + INTERVAL
            _log.warning("%s; shared channels do not work until it is mended", error)

    def _missing(self) -> Counter[bytes]:
        """Return for each channel how many receivers wait for which no message is here yet."""
        self._waiting = self._engine.members(WAITING, self._waiting)
        wanted = Counter(map(receiver_channel, self._waiting.names))
        for name in list(wanted):
            if not is_name(name):
                del wanted[name]
            elif self._engine.peek(name):
                wanted[name] -= self._engine.statistics(name)["pending"]
        return wanted

    def _deliver(self, name: bytes, data: bytes) -> None:
        try:
            options, bound_to = self._options, queue_binding(self._options.prefix, name)
            frame = unpack(data, *options.formats, options.sealer, bound_to)
            channel = channel_name(frame.name.decode("ascii"))
            if frame.kind is not Kind.WORK or frame.name != name or channel.specific:
                raise NoFrame("no frame")
            self._machine.check(frame.payload)
        except NoFrame as error:
            self._counts.dropped(error.reason)
            return
        except (TypeError, ValueError, StoreCorrupt):
            self._counts.dropped("no message")
            return
        deadline = self._engine.clock() + frame.lifetime
        self._taken.add(name)
        try:
            self._machine.deliver_work(name, frame.payload, deadline)
        except ChannelFull:
            self._counts.dropped("no room in the store")
        except StoreUnavailable:
            self._counts.dropped("store unavailable")
            raise
        else:
            self._counts.add("shared_in")

    # ---- back to the server

    async def keep_giving_back(self, wire: Wire) -> None:
        """Give back what was taken for receivers that have gone, without end. Raises as the wire.

        Also what a former relay of this machine had taken.
        """
        self._taken.update(self._channels_with_messages_here())
        while True:
            await asyncio.sleep(LOOK_TAKEN)
            for name in list(self._taken):
                counts = self._engine.statistics(name)
                if not counts["pending"]:
                    self._taken.discard(name)
                elif counts["oldest_age"] >= GRACE * 1e9:
                    surplus = counts["pending"] - self._receivers(name)
                    while surplus > 0 and await until_answered(self._push_back(wire, name)):
                        surplus -= 1

    def _channels_with_messages_here(self) -> list[bytes]:
        """Return the shared channels of which messages lie in the store."""
        shares = self._options.shares
        return [
            queue.name
            for queue in self._engine.queues()
            if queue.pending
            and not queue.owner
            and is_name(queue.name)
            and shares is not None
            and shares(queue.name.decode("ascii"))
        ]

    def _receivers(self, name: bytes) -> int:
        """Count the receivers that wait on a channel; forget those whose process has died."""
        engine = self._engine
        flushes = engine.flushes
        # In this order: a process opens the store before it waits.
        self._waiting = engine.members(WAITING, self._waiting)
        alive = {each.identity for each in engine.processes()}
        waiting = [each for each in self._waiting.names if receiver_channel(each) == name]
        if engine.identity not in alive or engine.flushes != flushes:
            return len(waiting)  # The store was replaced meanwhile, so not all were listed.
        dead = [
            each for each in waiting if (receiver_process(each) or engine.identity) not in alive
        ]
        for member in dead:
            engine.remove(WAITING, member)
        return len(waiting) - len(dead)

    async def _push_back(self, wire: Wire, name: bytes) -> bool:
        """Put the oldest message that lies in the store at the end of its queue on the server.

        Return whether that could be done.
        """
        for record in self._engine.pop(name):
            lifetime = record.deadline - self._engine.clock()
            frame = self._packed(name, record.payload, lifetime)
            try:
                pushed = await wire.push(name, frame, lifetime / 1e9, _ANY)
            except WireRefused as error:
                self._note_refusal(error)
                self._engine.restore(name, record)
                return False
            except (WireError, asyncio.CancelledError):
                self._counts.dropped("outcome unknown")
                raise
            if pushed.refused is None:
                self._counts.add("shared_back")
                return True
            self._engine.restore(name, record)  # The server has no room. It is tried again.
        return False


__all__ = ["GRACE", "LOOK", "LOOK_TAKEN", "Work"]
