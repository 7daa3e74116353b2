"""Hear the shards in which this machine has groups, and no others (R6)."""

from __future__ import annotations

import asyncio
import contextlib

from ..encoding.names import is_internal
from ..engines.base import Engine
from ..exceptions import ChannelFull
from ..policy.expiry import LONGEST
from .frames import shard_of, shard_topic
from .peers import Peers
from .way_out import HEARD, pack_shards
from .wire import Wire

#: Seconds between two looks at all tables, for shards without groups.
LOOK_FOR_UNUSED = 30.0
#: Tables between two turns of the event loop.
_SLICE = 256
_FOREVER = LONGEST * 1_000_000_000


class Shards:
    """The shards that are heard, on one connection at a time.

    A process that adds a member looks at the table `HEARD` afterwards, and leaves a notice if the
    shard is not there. The relay takes a shard out of that table before it looks whether there are
    groups. So at least one of the two learns of a new group.
    """

    def __init__(self, engine: Engine, peers: Peers) -> None:
        self._engine, self._peers = engine, peers
        self.heard: set[int] = set()
        #: Whether others have still to tell their sequences on shards that are new.
        self.has_new = False
        self._to_hear: set[int] = set()
        self._is_wanted, self._busy = asyncio.Event(), asyncio.Lock()

    async def begin(self) -> list[bytes]:
        """Return the topics to hear on a new connection."""
        self._to_hear.clear()
        self.heard, self.has_new = await self._with_groups(), False
        return [shard_topic(shard) for shard in self.heard]

    def want(self, group: bytes) -> None:
        """Hear a group's shard soon, even if it is heard now: it may just be left."""
        self._to_hear.add(shard_of(group))
        self._is_wanted.set()

    async def keep_subscribing(self, wire: Wire) -> None:
        """Subscribe to new shards as they are wanted, without end. Raises as the wire."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            async with self._busy:
                new, self._to_hear = self._to_hear - self.heard, set()
                if new:
                    topics = [shard_topic(shard) for shard in new]
                    await wire.subscribe(topics)
                    # No earlier: what was published before is not missed.
                    self._peers.hears(topics)
                    self.heard |= new
                    self.has_new = True
                    self.tell()

    async def keep_unsubscribing(self, wire: Wire) -> None:
        """Unsubscribe from unused shards every `LOOK_FOR_UNUSED` seconds, without end.

        Raises as the wire.
        """
        while True:
            await asyncio.sleep(LOOK_FOR_UNUSED)
            await self.unsubscribe_unused(wire)

    async def unsubscribe_unused(self, wire: Wire) -> None:
        """Unsubscribe once from the shards in which there are no groups. Raises as the wire."""
        async with self._busy:
            unused = self.heard - await self._with_groups()
            if not unused:
                return
            self._tell(self.heard - unused)
            unused -= await self._with_groups()
            topics = [shard_topic(shard) for shard in unused]
            if topics:
                # Before the server confirms: a beat that comes with that tells what was not heard.
                self._peers.hears_no_more(topics)
                await wire.unsubscribe(topics)
                self.heard -= unused
            self.tell()

    async def _with_groups(self) -> set[int]:
        """Return the shards in which there are groups, with suspended members too."""
        found = set()
        for number, table in enumerate(self._engine.tables()):
            if table.members and not is_internal(table.name):
                # The table of the suspended is named after the group, behind an exclamation mark.
                found.add(shard_of(table.name.removeprefix(b"!")))
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        return found

    # What the processes of this machine are told

    def tell(self) -> None:
        """Tell them what is heard."""
        self._tell(self.heard)

    def tell_nothing(self) -> None:
        """Tell them that nothing is heard."""
        self._tell(set())

    def _tell(self, shards: set[int]) -> None:
        engine, member = self._engine, pack_shards(shards)
        there = engine.members(HEARD).names
        if shards and member not in there:
            # Without room in the store they are told nothing, and leave a notice for each group.
            with contextlib.suppress(ChannelFull):
                engine.put(HEARD, member, engine.clock() + _FOREVER, engine.identity)
        for other in there:
            if other != member or not shards:
                engine.remove(HEARD, other)


__all__ = ["LOOK_FOR_UNUSED", "Shards"]
