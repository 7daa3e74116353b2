"""The relay: joins the store of its machine to those of other machines, over a wire.

One process of each machine runs it, in a thread or as a process of its own. It takes from the way
out what its machine's processes send to others (`way_out`), publishes it as frames (`frames`), and
delivers what it hears to members and channels of its own machine. Tests cite these clauses:

Messages
  R1   A `group_send` reaches each member on each machine at most once, and none that it excludes.
       Memberships stay on the machine of their channel; each machine delivers what it hears to its
       own members.
  R2   A `send` to a process-specific channel of another machine arrives there, as does a
       `group_add` or `group_discard` of such a channel. If no machine has it, it is dropped and
       counted.
  R3   What one sender sends to one channel arrives in order, messages to the channel and to groups
       together: there is one way out, one publishing and one subscribing connection.
  R4   The remaining lifetime of a message travels with it; no clocks are compared. A message whose
       lifetime is over is not passed on. On another machine it lives for an hour at most, or for
       that machine's own ``expiry`` if that is longer.
  R5   Nothing is delivered twice. A frame whose outcome is unknown is not sent again; a frame of a
       former term, or with a sequence that was heard before, is dropped. Sequences that are missing
       are counted as gaps, at the latest with the next beat of their machine; in a shard that is
       newly heard, from the first frame or from some ten seconds later on. They go on from term to
       term; what a killed relay took since its last report is counted by the next one. With keys,
       no frame is acted on that was sealed before this relay began to ask for proof.
  R6   A machine hears only the shards in which it has groups. A new group is reachable from other
       machines once the server has confirmed the subscription, which follows `group_add` at once.

Machines
  R7   A machine has at most one relay at a time: a role of the store, which the kernel frees with
       its holder. Another process that may relay takes it, with a higher term and the former
       relay's counts: at once if the former relay ends in order, as that wakes it, and within two
       seconds in any case.
  R8   The server may be away, slow or frozen: no `send` or `group_send` waits for it or fails for
       it. The way out is bounded in bytes; the oldest is dropped, counted and logged. The relay
       says once that the server is away, and connects again with growing pauses.
  R9   A flush empties the stores of all machines that answer, together with what is under way
       between them, and raises an error that names the machines that did not answer in time.
  R10  Whatever bytes are heard, the relay goes on: what is no frame, or no message, is dropped and
       counted. Nothing is logged for each frame. An error of the relay's own is logged once; if it
       ends the relay, the same process begins another term after a pause that grows.
  R11  A relay writes the newest format that all machines read, and reads the one before it.

Shared channels
  R12  With ``relay_channels`` the messages of some ordinary channels lie on the server, in order,
       with capacity, and with expiry by the server's clock. Any machine's `receive` takes them,
       each once; a relay takes as many as receivers wait for. `send` raises `ChannelFull` by the
       last known length, or if the way out is full, and never asks the server. A message that was
       taken for a receiver that is killed or cancelled meanwhile is back on the server, behind the
       others of its channel, within two seconds of its arrival on the machine or of the receiver's
       end, whichever is later, while the relay is connected; it keeps its lifetime.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any

from ..engines.base import NODE_BYTES, Record
from ..exceptions import ChannelFull, StoreCorrupt, StoreUnavailable, WireError, WireRefused
from . import report, way_out
from .agreement import Agreement
from .counts import DISCONNECTS, INTERVAL, KILLS, Counts
from .ending import FAREWELL, first_of
from .flushes import BARRIER, PATIENCE, FlushesFromAfar, OwnFlushes
from .frames import ALL, LIMIT, Kind, RelayFrame, is_topic, machine_topic
from .inbound import Inbound
from .machine import Machine
from .options import RelayOptions
from .outbound import BATCH, Outbound
from .peers import EXPECTED, Peers, checked_sequences
from .report_writer import ReportWriter
from .shards import Shards
from .store_bell import StoreBell
from .texts import clause, printable
from .way_out import (
    DEDICATED,
    DROPPED,
    FLUSH_ALL,
    NEW_GROUP,
    NO_ROOM,
    NOTICES,
    OUT,
    RELAY,
    WAITS,
    Backlog,
)
from .wire import Wire
from .work import Work

_log = logging.getLogger("asgi_ipc")

#: Seconds between two beats, reports, and looks at the store.
BEAT = 1.0
#: Seconds before the first, and the longest, pause between two connections.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 4.0
#: Seconds for which messages wait, after an outage, for other machines that had it as well: what is
#: published before they have subscribed again is lost to them.
TOGETHER = 5.0
#: Seconds after which a relay that is connected has heard all machines that are there.
SETTLED = 1.5
#: Seconds between two looks whether other machines are back.
_LOOK = 0.02
#: Seconds between two hellos of one connection.
_ASK = 10.0
#: Seconds between two beats that others have hurried.
_HURRIED = 0.05
#: Seconds after which it is told that the beats of this machine do not come back.
_UNHEARD = 10.0
#: Things that wait to be published beside the regular work.
_MOST_TASKS = 100
#: Characters of what a server says that are shown.
_ERROR = 500


class Relay:
    """One term of a machine's relay. The caller holds the role `RELAY` (R7).

    Made and used in one event loop. A relay that is ``dedicated`` has a process of its own, and
    does not step back for another.
    """

    def __init__(self, machine: Machine, options: RelayOptions, dedicated: bool = False) -> None:
        self.machine, self.options, self.dedicated = machine, options, dedicated
        self.engine = machine.engine
        self.node = self.engine.identity[:NODE_BYTES]
        self.host = printable(socket.gethostname(), 100).encode("ascii")
        self.peers, self.counts = Peers(options.sealer is not None), Counts(options.shown)
        #: What had expired on the way out at the last look, as the engine counts it.
        self._seen_expired = 0
        self.term, sequences = self._take_over()

        #: ``connecting``, ``connected``, ``away``, ``refused`` or ``ended``.
        self.state = "connecting"
        #: Why the store could not be used any more; empty if it could.
        self.lost_store = ""
        self._error = ""
        #: What the log said last of an outage that is not over.
        self._told = ""
        #: When the log last said so, and that an outage is over.
        self._told_at = self._back_at = float("-inf")
        self._wire: Wire | None = None
        self._began, self._connected_at = time.time(), 0.0
        #: When a beat of this machine last came back.
        self._heard_at = 0.0
        #: When the server was last known to be there, on the engine's clock; None if it never was.
        self._contact: int | None = None
        #: Nanoseconds from publishing a beat to hearing it; None if that is unknown.
        self.lag: int | None = None
        #: Set to publish the next beat at once.
        self._hurry = asyncio.Event()

        self._reports = ReportWriter(self.engine, options.shown, self.report, self._note_failure)
        self._backlog = Backlog(self.engine, options.backlog)
        self._agreement = Agreement(self.engine, options.used, dedicated)
        self._own_flushes = OwnFlushes(self.peers, self._answer_flush)
        self._flushes_from_afar = FlushesFromAfar()
        self.shards = Shards(self.engine, self.peers)
        self.work = Work(machine, options, self.term, self.counts, self._tell_of_work)
        self._notices = StoreBell(self.engine)
        try:
            self.outbound = Outbound(
                machine,
                options,
                self.term,
                self.host,
                self.peers,
                self.counts,
                self._knows_all,
                push_work=self.work.push,
                took=self._reports.write_soon,
            )
        except BaseException:  # Too many open files.
            self._notices.close()
            raise
        # Sequences go on, so that others count as gaps what they missed around the takeover (R5).
        self.outbound.sequences.update(sequences)
        self.inbound = Inbound(
            machine,
            options,
            self.term,
            self.peers,
            self.counts,
            act=self._act_on,
            joined=self.shards.want,
            learned=self._reports.write_soon,
            heard_copy=self._copy_was_heard,
            is_settled=self._knows_all,
        )

        #: Records taken off the way out whose fate the report tells.
        self._taken = 0
        #: How many flushes the engine had counted at the last look.
        self._seen_flushes = self.engine.flushes
        #: When a copy of this store was last heard, on the engine's clock; 0 if none was.
        self._copy_at = 0
        #: It was logged that an error was met that no relay should meet.
        self._has_failed = False
        #: Kept from being collected while they run.
        self._tasks: set[asyncio.Task[None]] = set()

    def _take_over(self) -> tuple[int, dict[bytes, int]]:
        """Go on with the counts of the machine's former relay, and what it knew of others (R7).

        Return the new term, and the last sequence that was published on each topic.
        """
        term = max(1, self.engine.clock())
        former = report.read(self.engine)
        if former is None:
            return term, {}
        counts, peers, before = (former.content.get(key) for key in ("counts", "peers", "term"))
        if isinstance(counts, dict):
            self.counts.learn(counts, former.content.get("past"), former.age / 1e9)
        taken, expired = (former.content.get(key) for key in ("taken", "expired"))
        if isinstance(expired, int) and expired <= self.engine.statistics(OUT)["expired"]:
            self._seen_expired = expired  # The former relay has counted them.
        if former.content.get("state") != "ended":
            self.counts.add(KILLS)
            if isinstance(taken, int):
                # What became of the records it took since its last report is unknown.
                unknown = self.engine.statistics(OUT)["popped"] - taken
                self.counts.dropped("relay killed", max(0, unknown))
        if isinstance(peers, list):
            self.peers.learn(
                [each for each in peers if isinstance(each, dict)], self.engine.clock()
            )
        machines = set(map(machine_topic, self.peers.known))
        sequences = {
            topic: number
            for topic, number in checked_sequences(former.content.get("published")).items()
            # Machines come and go, and those that are gone must not fill the reports.
            if is_topic(topic) and (len(topic) <= NODE_BYTES or topic in machines)
        }
        if isinstance(before, int) and before < LIMIT - 1:
            term = max(term, before + 1)  # The clock may stand still between two terms.
        return term, sequences

    # ---- life

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until ``stop`` is set, the role is another's, or the store is closed or removed.

        Goes on while the server is away. Raises `StoreCorrupt`, `Differs`, and any error that no
        relay should meet (R10).
        """
        try:
            await first_of(
                stop.wait(),
                self._keep_house(),
                self._keep_reading_notices(),
                self._keep_connected(),
            )
        except StoreUnavailable as error:
            self.lost_store = clause(str(error))
        except StoreCorrupt:
            raise
        except Exception as error:
            self.counts.add("failures")
            self._error = printable(f"failed: {type(error).__name__}: {error}", _ERROR)
            raise
        finally:
            for task in self._tasks:
                task.cancel()
            await self._farewell()

    async def _farewell(self) -> None:
        """Close all that is open, and publish a goodbye, so that no machine waits for this one."""
        wire, self._wire = self._wire, None
        self.state = "ended"
        # The descriptors are closed whatever fails: one relay follows another in this process.
        with contextlib.ExitStack() as last:
            last.callback(self._notices.close)
            last.callback(self.outbound.close)
            if wire is not None:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(self.outbound.say(wire, Kind.BYE), FAREWELL)
                await self._close(wire)
            self.counts.warn(ending=True)
            with contextlib.suppress(StoreUnavailable, StoreCorrupt, ChannelFull):
                self.shards.tell_nothing()
                self._reports.write_last()

    @staticmethod
    async def _close(wire: Wire) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(wire.close(), FAREWELL)

    # ---- the regular work

    async def _keep_house(self) -> None:
        """Keep the bounds and write the report, once a second; return once the role is lost."""
        while self.engine.hold(RELAY):
            if not self.dedicated and self.engine.is_held(DEDICATED):
                return
            self._put_back_after_flush()
            for each in self._agreement.new_differences():
                _log.warning(
                    "relay %s: a process of the site has other options than this relay: %s",
                    self.options.shown,
                    each,
                )
            self.counts.dropped("way out full", self._backlog.trim())
            self.peers.forget(self.engine.clock())
            self._own_flushes.end_finished()
            self.counts.warn()
            self.counts.measure_rates()
            self._reports.write()
            # Their wake-up may have been lost.
            self._notices.wake()
            self.outbound.wake()
            await asyncio.sleep(BEAT)

    def _put_back_after_flush(self) -> None:
        """Put back what a flush has taken from the store: the shards that this relay hears."""
        flushes = self.engine.flushes
        if flushes != self._seen_flushes:
            self._seen_flushes, self._seen_expired = flushes, 0
            if self.state == "connected":
                self.shards.tell()

    def _note_failure(self, what: str, error: Exception) -> None:
        """Count an error that no relay should meet, and log the first one (R10)."""
        self.counts.add("failures")
        if not self._has_failed:
            self._has_failed = True
            _log.error("relay %s: %s", self.options.shown, what, exc_info=error)

    def report(self) -> dict[str, Any]:
        """Return what this relay says of itself (`report`)."""
        waiting = self.engine.statistics(OUT)
        if self.state == "connected":
            self._contact = self.engine.clock()
        expired = waiting["expired"]
        self.counts.dropped("expired", max(0, expired - self._seen_expired))
        self._seen_expired = expired
        if not self.outbound.publishing.locked() and not self.work.is_pushing:
            self._taken = waiting["popped"]
        return {
            "url": printable(self.options.shown, _ERROR),
            "host": self.host.decode("ascii"),
            "node": self.node,
            "pid": os.getpid(),
            "identity": self.engine.identity,
            "dedicated": self.dedicated,
            "term": self.term,
            "began": self._began,
            "state": self.state,
            "error": self._error or self._unheard_warning() or self._copy_warning(),
            "refused": self._reason(self.work.refused),
            "refused_at": self.work.refused_at,
            "lag": None if self._unheard_warning() else self.lag,
            "shards": len(self.shards.heard),
            "waiting": waiting["pending"],
            "waiting_bytes": waiting["bytes"],
            "backlog": self.options.backlog,
            "sealed": self.options.sealer is not None,
            "used": self.options.used.packed(),
            "differs": self._agreement.differences,
            "contact": self._contact,
            "counts": dict(self.counts.all),
            "lately": self.counts.lately(),
            "past": self.counts.past(),
            "rates": self.counts.rates,
            "peers": self.peers.to_report(),
            "published": dict(self.outbound.sequences),
            "taken": self._taken,
            "expired": self._seen_expired,
        }

    # ---- the connection

    async def _keep_connected(self) -> None:
        """Connect, and connect again with growing pauses (R8)."""
        pause = SHORTEST_PAUSE
        while True:
            wire = self.options.wire()
            try:
                await self._serve(wire)
            except (WireError, OSError) as error:
                # OSError: this process has too many open files. A server that takes connections and
                # soon ends them is not back, although a beat was heard.
                lasted = time.monotonic() - self._connected_at
                if self.lag is not None and lasted > LONGEST_PAUSE:
                    pause = SHORTEST_PAUSE
                if self.state == "connected":
                    self.counts.add(DISCONNECTS)
                self._error = printable(str(error), _ERROR)
                state = "refused" if isinstance(error, WireRefused) else "away"
                # Nor at each turn of one that is away and refuses by turns.
                if not self._told or (
                    self._told != state and time.monotonic() - self._told_at >= INTERVAL
                ):
                    self._told, self._told_at = state, time.monotonic()
                    # Most wires name themselves.
                    which = f"relay {self.options.shown}: "
                    _log.warning(
                        "%s%s; this machine goes on by itself, and the relay tries again",
                        which,
                        clause(self._error.removeprefix(which)),
                    )
                # After the warning: a reader of the report may look for it in the log.
                self.state = state
                self._reports.write()
            finally:
                # If the relay ends while connected, `_farewell` says goodbye on this wire.
                if self.state != "connected":
                    self._wire, self.lag = None, None
                    self.shards.tell_nothing()
                    await self._close(wire)
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _serve(self, wire: Wire) -> None:
        """Serve one connection until it is lost, and raise why."""
        shares = self.options.shares is not None
        await wire.start(self.inbound.hear, self.work.ready if shares else None)
        topics = [ALL, machine_topic(self.node), *await self.shards.begin()]
        # Before the server confirms: what is missed from now on is a gap.
        self.peers.hears_only(topics)
        await wire.subscribe(topics)
        self.outbound.begin()
        since = self.engine.clock()
        await self.outbound.say(wire, Kind.HELLO)
        had_outage = bool(self._error)
        if not had_outage:
            _log.info("relay %s: connected", self.options.shown)
        self.state, self._error, self._wire = "connected", "", wire
        self._connected_at = time.monotonic()
        self.shards.tell()
        self._reports.write()
        shared: tuple[Awaitable[None], ...] = ()
        if shares:
            work = self.work
            shared = (
                work.keep_taking(wire),
                work.keep_checking_full(wire),
                work.keep_giving_back(wire),
            )
        await first_of(
            self._pass_on(wire, since, had_outage),
            self._until_lost(wire),
            self._keep_beating(wire),
            self.shards.keep_subscribing(wire),
            self.shards.keep_unsubscribing(wire),
            *shared,
        )

    async def _pass_on(self, wire: Wire, since: int, had_outage: bool) -> None:
        """Publish what is on the way out, once the other machines are ready for it.

        After an outage they may have to connect again; with keys, this machine has to prove that it
        is there.
        """
        until = time.monotonic()
        if had_outage:
            until += TOGETHER
        elif self.options.sealer is not None:
            until += SETTLED
        while time.monotonic() < until and not self.peers.are_back(since):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        await self.outbound.pump(wire)

    @staticmethod
    async def _until_lost(wire: Wire) -> None:
        """Wait until the wire is lost, and raise why."""
        raise await wire.lost()

    async def _keep_beating(self, wire: Wire) -> None:
        """Publish beats: this machine is there, and has published so much (R5). Without end.

        One in `BEAT` seconds, or earlier if `_hurry` is set. A hello has others tell all that they
        have published, so that it is known where to count from on shards that are new.
        """
        asks_at = 0.0
        while True:
            await self.outbound.say(wire, Kind.BEAT)
            if self.shards.has_new and time.monotonic() >= asks_at:
                self.shards.has_new, asks_at = False, time.monotonic() + _ASK
                await self.outbound.say(wire, Kind.HELLO)
            await asyncio.sleep(_HURRIED)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), BEAT - _HURRIED)
            self._hurry.clear()

    def _knows_all(self) -> bool:
        """Return whether this relay is connected for so long that it has heard all machines."""
        return self.state == "connected" and time.monotonic() - self._connected_at > SETTLED

    # ---- notices, and what other relays say

    async def _keep_reading_notices(self) -> None:
        """Act on the notices of this machine's processes, as they come, without end."""
        while True:
            records = self.engine.pop(NOTICES, BATCH, self._notices.bell)
            for record in records:
                what, content = record.payload[:1], record.payload[1:]
                if what == NEW_GROUP:
                    self.shards.want(content)
                elif what == DROPPED:
                    self.counts.dropped("way out full", way_out.unpack_count(content))
                elif what == NO_ROOM:
                    self.counts.dropped("no room in the store", way_out.unpack_count(content))
                elif what == WAITS:
                    self.work.wake()
                elif what == FLUSH_ALL and self._own_flushes.ask(content):
                    self._start(self._flush_all_machines(content))
            if len(records) < BATCH:
                await self._notices.wait()

    def _act_on(self, frame: RelayFrame) -> None:
        """Act on a frame that a relay publishes for relays; this one's own are its beats alone."""
        if frame.node == self.node:
            lag = self.outbound.beat_heard(frame.sequence)
            if lag is None:
                return
            self.lag, self._heard_at = lag, time.monotonic()
            # Not at each turn of a server that comes and goes.
            if self._told and time.monotonic() - self._back_at >= INTERVAL:
                self._told, self._back_at = "", time.monotonic()
                _log.warning("relay %s: connected again", self.options.shown)
        elif frame.kind in (Kind.HELLO, Kind.BEAT):
            if frame.kind is Kind.HELLO:
                self.outbound.tell_all()
            if frame.kind is Kind.HELLO or self.peers.to_answer:
                self._hurry.set()
        elif frame.kind is Kind.WORK:
            if self.options.shares is not None:
                self.work.wake()
        elif frame.kind is Kind.FLUSH:
            self._flush_for(frame.name, frame.node)
        elif frame.kind is Kind.FLUSHED:
            self._own_flushes.confirmed(frame.name, frame.node)

    def _unheard_warning(self) -> str:
        """Return what people should know if beats of this machine do not come back to it."""
        silence = time.monotonic() - max(self._connected_at, self._heard_at)
        if self.state != "connected" or silence < _UNHEARD:
            return ""
        return (
            f"what this machine publishes has not come back to it for {silence:.0f} seconds, so"
            " others may not hear it: the server is overloaded, or several servers share its name"
        )

    def _copy_warning(self) -> str:
        """Return what people should know of a copy of this store; empty if none was heard."""
        if not self._copy_at or self.engine.clock() - self._copy_at > EXPECTED:
            return ""
        return (
            "another machine uses a copy of this store's files, or frames are forged; messages of"
            " one of the two are dropped as late: give one a store of its own ('asgi-ipc remove')"
        )

    def _copy_was_heard(self) -> None:
        self._copy_at = self.engine.clock()

    def _tell_of_work(self, name: bytes) -> None:
        """Tell other machines that a shared queue has a message, which no receiver here takes."""
        self._tell_others(Kind.WORK, [name])

    def _tell_others(self, kind: Kind, names: list[bytes]) -> None:
        """Publish something soon, unless too much waits for a slow server already.

        No other machine relies on it: it looks at the queues once a second, or waits no longer for
        a flush.
        """
        if self._wire is not None and len(self._tasks) < _MOST_TASKS:
            self._start(self._say_each(self._wire, kind, names))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the regular work, and log its errors.

        Errors of the store are left to the regular work, which meets them as well.
        """

        async def guarded() -> None:
            try:
                await coroutine
            except (StoreUnavailable, StoreCorrupt, ChannelFull):
                pass
            except Exception as error:
                self._note_failure("something could not be done", error)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- flushes

    async def _flush_all_machines(self, number: bytes) -> None:
        """Have all machines flush, as a process of this one asks (R9)."""
        until = time.monotonic() + PATIENCE
        while self.state == "connecting" and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        if self.state == "connected" and not self._knows_all():
            await asyncio.sleep(SETTLED - (time.monotonic() - self._connected_at))
        self._flush_here({number: b""})
        wire = self._wire
        if wire is None:
            self._own_flushes.fail(number, self._reason(self._error or "the server is away"))
            return
        clears = self.options.shares is not None
        self._own_flushes.begin(number, clears)
        try:
            await self.outbound.say(wire, Kind.FLUSH, number)
        except WireError as error:
            self._own_flushes.fail(number, self._reason(error))
            return
        self._own_flushes.end_finished()
        if clears:
            # Other machines may confirm before, or although, the server refuses this.
            try:
                await wire.clear()
            except WireError as error:
                self._own_flushes.cleared(number, self._reason(error))
            else:
                self._own_flushes.cleared(number)

    def _reason(self, error: object) -> str:
        """Return what a wire says, without its name, as the end of a clause."""
        words = str(error).removeprefix(f"relay {self.options.shown}: ")
        return clause(printable(words, _ERROR))

    def _answer_flush(self, number: bytes, missing: str) -> None:
        deadline = self.engine.clock() + way_out.NOTICE_LIFE
        self.engine.push([Record(way_out.ANSWER + number, b"=" + missing.encode(), deadline, 1)])

    async def _say_each(self, wire: Wire, kind: Kind, names: list[bytes]) -> None:
        with contextlib.suppress(WireError):
            for name in names:
                await self.outbound.say(wire, kind, name)

    def _flush_for(self, number: bytes, asked_by: bytes) -> None:
        """Flush for another machine; of many that ask for it, once for all.

        Raises `NoFrame` for what is none, or too much.
        """
        wait = self._flushes_from_afar.ask(number, asked_by)
        if wait:
            self._start(self._flush_for_others_in(wait))
        elif wait is not None:
            # Before the next frame is heard, which may have been sent after the flush.
            self._flush_for_others()

    async def _flush_for_others_in(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._flush_for_others()

    def _flush_for_others(self) -> None:
        """Carry out the flushes that other machines have asked for, and confirm them."""
        flushes = self._flushes_from_afar.take()
        self._flush_here(flushes)
        self._tell_others(Kind.FLUSHED, list(flushes))

    def _flush_here(self, flushes: Mapping[bytes, bytes]) -> None:
        """Empty this machine's store for flushes, each with the machine that asked for it."""
        self.machine.flush()
        self.peers.begin_flush(flushes, self.engine.clock() + BARRIER)
        self._put_back_after_flush()
        self._reports.write()


__all__ = ["BEAT", "Relay"]
