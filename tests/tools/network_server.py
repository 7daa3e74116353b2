"""The server of `tests.tools.network_engine`: stores in memory, for clients on a TCP port.

    python -m tests.tools.network_server LEASE

It prints its port. A request is the identity of a process, a method and its arguments; an answer
is the result or an error, and what a process has to know anyway.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from collections import defaultdict
from typing import Any

import msgpack

from asgi_ipc.engines.base import NODE_BYTES, READER_GONE, Members, Popped, Record, Refused
from asgi_ipc.engines.memory import MemoryEngine

HEAD = struct.Struct("!I")


def packed(value: object) -> bytes:
    """A value with its length in front."""
    body = msgpack.packb(value)
    return HEAD.pack(len(body)) + bytes(body)


class Client:
    """What the server knows of a process."""

    def __init__(self) -> None:
        self.heard = time.monotonic()
        self.lapses = 0
        self.dead = False


class Store:
    """What processes of one prefix share."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.node = os.urandom(NODE_BYTES)
        self.base = 0
        self.engine: MemoryEngine | None = None
        self.clients: dict[bytes, Client] = {}
        self.queues: dict[bytes, bytes] = {}
        self.members: dict[tuple[bytes, bytes], bytes] = {}
        #: The bells armed on each queue, by the identity of the process and a number of its own.
        self.armed: defaultdict[bytes, list[tuple[bytes, int]]] = defaultdict(list)
        #: The connections on which processes hear of pushes.
        self.listeners: dict[bytes, asyncio.StreamWriter] = {}

    @property
    def flushes(self) -> int:
        """Grows with each flush, and each store in place of another."""
        return self.base + (self.engine.flushes if self.engine is not None else 0)

    def open(self, channel_memory: int, group_memory: int) -> bytes:
        """Make the store if it does not exist. Returns what all identities begin with."""
        if self.engine is None:
            self.sizes = channel_memory, group_memory
            self.engine = MemoryEngine(
                self.prefix, channel_memory=channel_memory, group_memory=group_memory
            )
        return self.node

    def do(self, identity: bytes, method: str, arguments: list[Any]) -> Any:
        """Carry out a request."""
        client = self.clients.setdefault(identity, Client())
        client.heard = time.monotonic()
        if client.dead:
            client.dead, client.lapses = False, client.lapses + 1
        if method == "open":
            return self.open(*arguments)
        if method == "beat":
            return None
        if method == "bye":
            self.remove_all_of(identity)
            del self.clients[identity]
            return None
        if self.engine is None:
            self.open(*self.sizes)
        return getattr(self, f"do_{method}")(*arguments)

    def do_push(self, records: list[list[Any]]) -> list[Refused]:
        assert self.engine is not None
        dead = {name for name, client in self.clients.items() if client.dead}
        live = [Record(*each) for each in records]
        refused = [
            Refused(at, False, READER_GONE)
            for at, each in enumerate(live)
            if each.owner and each.owner in dead
        ]
        gone = {each.position for each in refused}
        positions = [at for at in range(len(live)) if at not in gone]
        for each in self.engine.push([live[at] for at in positions]):
            refused.append(each._replace(position=positions[each.position]))
        refusals = {each.position for each in refused}
        for at in positions:
            if live[at].owner in self.clients:
                self.queues[live[at].queue] = live[at].owner
            if at not in refusals:
                self.signal(live[at].queue)
        return sorted(refused)

    def do_pop(
        self, queue: bytes, limit: int, identity: bytes = b"", bell: int = 0
    ) -> list[Popped]:
        assert self.engine is not None
        found = self.engine.pop(queue, limit)
        if bell and len(found) < limit and (identity, bell) not in self.armed[queue]:
            self.armed[queue].append((identity, bell))
        return found

    def do_disarm(self, queue: bytes, identity: bytes, bell: int) -> None:
        if (identity, bell) in self.armed[queue]:
            self.armed[queue].remove((identity, bell))
        else:
            self.signal_if_pending(queue)

    def signal(self, queue: bytes) -> None:
        """Report a push to the process whose bell was armed first."""
        while self.armed[queue]:
            identity, bell = self.armed[queue].pop(0)
            listener = self.listeners.get(identity)
            if listener is not None and not listener.is_closing():
                listener.write(packed([bell, queue]))
                return

    def signal_if_pending(self, queue: bytes) -> None:
        """Report a push that the process told before has not heard."""
        assert self.engine is not None
        if self.engine.statistics(queue)["pending"]:
            self.signal(queue)

    def do_restore(self, queue: bytes, payload: bytes, deadline: int) -> None:
        assert self.engine is not None
        self.engine.restore(queue, Popped(payload, deadline))
        self.signal_if_pending(queue)

    def do_put(self, table: bytes, member: bytes, deadline: int, owner: bytes) -> None:
        assert self.engine is not None
        self.engine.put(table, member, deadline)
        self.members.pop((table, member), None)
        if owner in self.clients:
            self.members[table, member] = owner

    def do_remove(self, table: bytes, member: bytes) -> bool:
        assert self.engine is not None
        self.members.pop((table, member), None)
        return self.engine.remove(table, member)

    def do_members(self, table: bytes, version: int | None) -> Members | None:
        assert self.engine is not None
        found = self.engine.members(table, Members((), version))
        return None if found.version == version else found

    def do_statistics(self, queue: bytes | None) -> dict[str, int]:
        assert self.engine is not None
        return self.engine.statistics(queue)

    def do_flush(self) -> None:
        assert self.engine is not None
        self.engine.flush()
        self.queues.clear()
        self.members.clear()

    def do_destroy(self) -> None:
        assert self.engine is not None
        self.base = self.flushes + 1
        for queue in list(self.armed):
            while self.armed[queue]:
                self.signal(queue)
        self.engine.destroy()
        self.engine = None
        self.queues.clear()
        self.members.clear()

    def look(self, lease: float) -> None:
        """Take processes for dead that were silent for too long; be heard by those that listen."""
        for listener in self.listeners.values():
            listener.write(packed([0, b""]))
        now = time.monotonic()
        for identity, client in list(self.clients.items()):
            silent = now - client.heard
            if not client.dead and silent > lease:
                client.dead = True
                self.remove_all_of(identity)
            elif silent > 600:
                del self.clients[identity]

    def remove_all_of(self, identity: bytes) -> None:
        """Remove what ends with a process."""
        if self.engine is None:
            return
        for (table, member), owner in list(self.members.items()):
            if owner == identity:
                del self.members[table, member]
                self.engine.remove(table, member)
        for name, owner in list(self.queues.items()):
            if owner == identity:
                del self.queues[name]
                store = self.engine._store
                queue = store.queue(name, store.clock())
                store.count(queue, "orphaned", len(queue.entries))
                store.drop(queue)
        for name, bells in self.armed.items():
            bells[:] = [each for each in bells if each[0] != identity]
            # It may have been told of a push, and have died before it looked.
            self.signal_if_pending(name)


async def serve(lease: float) -> None:
    """Serve until the input ends."""
    stores: dict[str, Store] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listens: tuple[Store, bytes] | None = None
        try:
            while True:
                (size,) = HEAD.unpack(await reader.readexactly(HEAD.size))
                request = msgpack.unpackb(await reader.readexactly(size))
                prefix, identity, method, arguments = request
                store = stores.setdefault(prefix, Store(prefix))
                if method == "listen":
                    listens = store, identity
                    store.listeners[identity] = writer
                    writer.write(packed([0, b""]))
                    continue
                try:
                    result = ["ok", store.do(identity, method, arguments)]
                except Exception as error:
                    result = [type(error).__name__, str(error)]
                client = store.clients.get(identity)
                known = [store.flushes, time.monotonic_ns(), client.lapses if client else 0]
                writer.write(packed([*result, *known]))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if listens is not None and listens[0].listeners.get(listens[1]) is writer:
                del listens[0].listeners[listens[1]]
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def end() -> None:
        loop.remove_reader(0)
        ended.set_result(None)

    loop.add_reader(0, end)
    while not ended.done():
        for store in stores.values():
            store.look(lease)
        await asyncio.wait([ended], timeout=lease / 10)


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
