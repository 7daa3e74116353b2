"""Publish what is on the way out of the store, and what the relay itself has to say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from ..encoding.names import channel_name
from ..engines.base import NODE_BYTES, Popped
from ..exceptions import WireLost, WireRefused
from . import way_out
from .agreement import UNSEALED, Differs
from .counts import Counts
from .ending import FAREWELL
from .frames import (
    ALL,
    MESSAGES,
    MOST_SEQUENCES,
    Beat,
    Kind,
    RelayFrame,
    binding,
    machine_topic,
    pack,
    pack_beats,
    room_for,
    shard_of,
    shard_topic,
    version_for,
)
from .machine import Machine
from .options import RelayOptions
from .peers import Peers
from .store_bell import StoreBell
from .way_out import OUT
from .wire import WINDOW, Frame, Wire

#: Records that are taken off the way out at once.
BATCH = 64
#: Beats of which it is remembered when they were published.
_UNHEARD = 100
#: Beats that tell a topic's sequence after the last frame on it.
_TOLD = 5
#: Nanoseconds between two beats that tell those of all topics: many machines may ask at once.
_ALL_EVERY = 500_000_000


class Outbound:
    """What this machine publishes in one term of its relay: one frame after the other (R3)."""

    def __init__(
        self,
        machine: Machine,
        options: RelayOptions,
        term: int,
        host: bytes,
        peers: Peers,
        counts: Counts,
        knows_all: Callable[[], bool],
        push_work: Callable[[Wire, Sequence[Popped]], Awaitable[None]],
        took: Callable[[], None],
    ) -> None:
        self._engine, self._options = machine.engine, options
        self._node, self._term, self._host = machine.engine.identity[:NODE_BYTES], term, host
        self._peers, self._counts, self._bell = peers, counts, StoreBell(machine.engine)
        #: Whether all machines that are there have been heard.
        self._knows_all = knows_all
        #: Puts messages on the server's queues.
        self._push_work = push_work
        #: Called after records were taken off the way out, once their fate is known.
        self._took = took
        #: Held while records of the way out are in hand, until their frames are on their way.
        self.publishing = asyncio.Lock()
        #: Set while `pump` has no records in hand.
        self._empty_handed = asyncio.Event()
        self._empty_handed.set()
        self._ends = False
        #: The last sequence of each topic.
        self.sequences: dict[bytes, int] = {}
        #: Topics whose sequence beats have to tell, with the number of beats.
        self._to_tell: dict[bytes, int] = {}
        #: Whether a beat has still to tell those of all topics, and as of when it may.
        self._tells_all, self._tells_all_from = False, 0
        #: When beats were published that have not been heard, on the engine's clock, by sequence.
        self._beats_at: dict[int, int] = {}

    def begin(self) -> None:
        """Begin on a new connection: the last beats may have been lost with the former one."""
        self._to_tell = dict.fromkeys(list(self.sequences)[-MOST_SEQUENCES:], _TOLD)
        self._tells_all, self._tells_all_from = True, 0
        self._beats_at.clear()

    def tell_all(self) -> None:
        """Have a beat tell all sequences soon, as a machine has begun to listen."""
        self._tells_all = True

    def beat_heard(self, sequence: int) -> int | None:
        """Return how long ago a beat was published that was heard now, in nanoseconds."""
        at = self._beats_at.get(sequence)
        if at is None:
            return None  # It is one of those that tell the rest of another.
        self._beats_at = {each: at for each, at in self._beats_at.items() if each > sequence}
        return self._engine.clock() - at

    def wake(self) -> None:
        """Have `pump` look at the way out, as a wake-up may have been lost."""
        self._bell.wake()

    def close(self) -> None:
        """Hear no more of the way out. May be called twice."""
        self._bell.close()

    async def pump(self, wire: Wire) -> None:
        """Publish what is on the way out, as it comes, without end. Raises as the wire.

        If it is cancelled, it first waits a moment until the records in hand are sent. Then it
        closes the wire, which so tells what was not sent (W8), and puts that back.
        """
        self._ends = False
        pumping = asyncio.ensure_future(self._pump(wire))
        try:
            await asyncio.shield(pumping)
        finally:
            self._ends = True
            try:
                if not pumping.done():
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._empty_handed.wait(), FAREWELL)
                    if not self._empty_handed.is_set():
                        await wire.close()
                        await asyncio.wait([pumping], timeout=FAREWELL)
            finally:
                pumping.cancel()
                await asyncio.gather(pumping, return_exceptions=True)

    async def _pump(self, wire: Wire) -> None:
        limit = 8
        while not self._ends:
            # Popped under the lock: one that is cancelled while it waits has taken no record.
            async with self.publishing:
                records = self._engine.pop(OUT, limit, self._bell.bell)
                self._refuse_unsealed(records)
                work = [each for each in records if way_out.is_work(each.payload)]
                self._empty_handed.clear()
                try:
                    await self._publish(wire, records)
                except BaseException:
                    for record in reversed(work):
                        self._engine.restore(OUT, record)
                    raise
                finally:
                    self._empty_handed.set()
            if work:
                await self._push_work(wire, work)
            if records:
                self._took()
            if len(records) < limit:
                await self._bell.wait()
            else:
                # Of large ones fewer are taken out of the store, where they count for its bound.
                size = sum(len(record.payload) for record in records) // len(records)
                limit = max(1, min(BATCH, WINDOW // max(1, size)))

    def _refuse_unsealed(self, records: Sequence[Popped]) -> None:
        """Put records back that must be sealed, if this relay can't. Raises `Differs` then."""
        if self._options.sealer is not None:
            return
        if any(way_out.must_be_sealed(each.payload) for each in records):
            for record in reversed(records):
                self._engine.restore(OUT, record)
            raise Differs(UNSEALED)

    async def say(self, wire: Wire, kind: Kind, name: bytes | None = None) -> None:
        """Publish something of the relay's own to all machines.

        Raises as the wire, and `WireRefused` if the server does not take frames of that size.
        """
        async with self.publishing:
            name = self._host if name is None else name
            payloads = [b""]
            if kind in (Kind.HELLO, Kind.BEAT):
                payloads = self._beats(kind, room_for(name, wire.frame_limit, self._options.sealer))
            frames = [Frame(ALL, self._packed(ALL, kind, name, each)) for each in payloads]
            longest = max(len(frame.payload) for frame in frames)
            if longest > wire.frame_limit:
                raise WireRefused(
                    f"relay {self._options.shown}: it takes {wire.frame_limit:,} bytes at once, and"
                    f" a relay needs {longest:,} to say that it is there; raise the server's limit"
                    " (NATS: max_payload)"
                )
            await wire.publish(frames)

    def _beats(self, kind: Kind, room: int) -> list[bytes]:
        """Return the payloads of a hello, or of a beat: of several if one has no room for it."""
        if kind is Kind.HELLO:
            return pack_beats(Beat(self._peers.nonce), room)
        now = self._engine.clock()
        self._beats_at[self.sequences.get(ALL, 0) + 1] = now
        if len(self._beats_at) > _UNHEARD:
            del self._beats_at[next(iter(self._beats_at))]
        told = self._sequences_to_tell()
        is_all = self._tells_all and now >= self._tells_all_from
        if is_all:
            self._tells_all, self._tells_all_from = False, now + _ALL_EVERY
            told = dict(list(self.sequences.items())[-MOST_SEQUENCES:])
        is_all = is_all and len(told) == len(self.sequences)
        beat = Beat(self._peers.asks, self._peers.take_answers(), told, is_all)
        return pack_beats(beat, room)

    async def _publish(self, wire: Wire, records: Sequence[Popped]) -> None:
        """Publish records, but no work. Call while `publishing`."""
        now = self._engine.clock()
        frames, sources = [], []
        for record in records:
            frame = None if way_out.is_work(record.payload) else self._frame(wire, record, now)
            if frame is not None:
                frames.append(frame)
                sources.append(record)
        if not frames:
            return
        try:
            await wire.publish(frames)
        except BaseException as error:
            unsent = min(len(frames), error.unsent) if isinstance(error, WireLost) else 0
            # What was certainly not sent is next again; the rest never is (R5).
            for _ in range(unsent):
                self.sequences[frames.pop().topic] -= 1
                self._engine.restore(OUT, sources.pop())
            self._counts.dropped("outcome unknown", len(frames))
            raise
        self._counts.add("frames_out", len(frames))
        self._counts.add("bytes_out", sum(len(frame.payload) for frame in frames))

    def _frame(self, wire: Wire, record: Popped, now: int) -> Frame | None:
        """Return the frame for a record of the way out; None if the record was dropped."""
        try:
            kind, name, payload = way_out.read(record.payload)
            if kind is Kind.GROUP:
                topic = shard_topic(shard_of(name))
            else:
                node = channel_name(name.decode("ascii")).owner[:NODE_BYTES]
                if not node:
                    raise ValueError("it is for a channel of no machine")
                if node not in self._peers.known and self._knows_all():
                    self._counts.dropped("no machine")
                    return None
                topic = machine_topic(node)
        except (TypeError, ValueError):
            self._counts.dropped("not a record")
            return None
        lifetime = record.deadline - now
        if lifetime <= 0:
            self._counts.dropped("expired")
            return None
        packed = self._packed(topic, kind, name, payload, lifetime)
        if len(packed) > wire.frame_limit:
            self.sequences[topic] -= 1
            self._counts.dropped("too large for the server")
            return None
        return Frame(topic, packed)

    def _packed(
        self, topic: bytes, kind: Kind, name: bytes, payload: bytes, lifetime: int = 0
    ) -> bytes:
        """Return a frame with the next sequence of its topic. Call while `publishing`."""
        sequence = self.sequences[topic] = self.sequences.get(topic, 0) + 1
        self._to_tell[topic] = _TOLD
        oldest, newest = self._options.formats
        # The oldest, if machines of all versions must read it.
        version = oldest
        if kind in MESSAGES:
            reads = (peer.reads for peer in self._peers.expected())
            version = version_for(reads, oldest, newest)
        frame = RelayFrame(kind, self._node, self._term, sequence, lifetime, name, payload, newest)
        return pack(frame, version, self._options.sealer, binding(self._options.prefix, topic))

    def _sequences_to_tell(self) -> dict[bytes, int]:
        told = {}
        for topic, times in list(self._to_tell.items())[:MOST_SEQUENCES]:
            told[topic] = self.sequences[topic]
            if times > 1:
                self._to_tell[topic] = times - 1
            else:
                del self._to_tell[topic]
        return told


__all__ = ["BATCH", "Outbound"]
