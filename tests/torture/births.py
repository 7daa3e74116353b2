"""SIGKILL while a store is made, opened, left and removed, on files and memory that are real.

Nothing can be put back here, so each kill has a directory of its own. Afterwards the next
process finds the old store whole or a fresh one, never two, and can remove all there is.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from asgi_ipc.engines import find
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.shm import ownership
from asgi_ipc.engines.shm.check import check
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.locks import semaphore_locks
from asgi_ipc.engines.shm.segment import public_token
from asgi_ipc.engines.shm.sysv import SysVSegment

from .examine import Tally
from .kill import killed
from .world import ENGINES, Finding, expect, fast

Open = Callable[[], SharedMemoryEngine]
FAR = 1 << 62


class Birth(NamedTuple):
    """Something that happens to a whole store."""

    name: str
    #: In the child, untraced: what comes before.
    prepare: Callable[[Open], Any]
    #: In the child: what is killed.
    operate: Callable[[Open, Any], object]
    #: Whether somebody else is inside meanwhile.
    inhabited: bool
    #: Whether it may end the store.
    fatal: bool = False


def nothing(open_store: Open) -> Any:
    """What needs no preparation."""


BIRTHS = [
    Birth("create", nothing, lambda open_store, _: open_store(), inhabited=False),
    Birth("attach", nothing, lambda open_store, _: open_store(), inhabited=True),
    Birth("close", lambda open_store: open_store(), lambda _, own: own.close(), inhabited=True),
    Birth(
        "make a bell", lambda open_store: open_store(), lambda _, own: own.bell(), inhabited=True
    ),
    Birth(
        "destroy",
        lambda open_store: open_store(),
        lambda _, own: own.destroy(),
        inhabited=False,
        fatal=True,
    ),
    Birth(
        "destroy under others",
        lambda open_store: open_store(),
        lambda _, own: own.destroy(),
        inhabited=True,
        fatal=True,
    ),
]


class Midwife:
    """Kills births on one engine."""

    def __init__(self, engine: str, sample: int, seed: int = 0) -> None:
        self.kind: type[SharedMemoryEngine] = find(engine)  # type: ignore[assignment]
        self.sample = sample
        self.dice = random.Random(seed)
        #: Memory objects made here can be told from those of others by this: 20 bits, so that
        #: others' are taken for ours once in a million.
        self.mark = secrets.randbelow((1 << 20) - 1)

    def run(self, birth: Birth) -> Tally:
        """Kill it at every opcode, or at about ``sample`` of them."""
        kills, opcode = 0, 1
        step = 1
        if self.sample:
            length = 256
            while self.kill(birth, length):
                length *= 2
                kills += 1
            step = max(1, length // self.sample)
            opcode = self.dice.randrange(1, step + 1)
        while self.kill(birth, opcode):
            kills += 1
            opcode += self.dice.randrange(1, 2 * step) if self.sample else step
        return Tally(kills, kills, 10 * kills)

    def kill(self, birth: Birth, opcode: int) -> bool:
        """One kill and its consequences; False if it came to its end."""
        folder = Path(tempfile.mkdtemp(prefix="torture-", dir=fast()))

        def open_store() -> SharedMemoryEngine:
            return self.kind(
                "store",
                directory=folder,
                channel_memory=layout.SMALLEST,
                group_memory=layout.SMALLEST,
            )

        own: list[object] = []
        try:
            with self.marked():
                resident = open_store() if birth.inhabited else None
                if resident:
                    resident.push([Record(b"a", b"kept", FAR, 9)])
                    resident.put(b"t", b"kept", FAR)
                was_killed = killed(
                    lambda: birth.operate(open_store, own[0]),
                    opcode,
                    lambda: own.append(birth.prepare(open_store)),
                )
                self.look(birth, resident, open_store)
            expect(list(folder.iterdir()), [], "what is left in the directory")
            expect(self.memory(), [], "what is left in memory")
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise Finding(f"{birth.name}, killed before opcode {opcode}: {what}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            for name in self.files():
                Path(name).unlink(missing_ok=True)
        return was_killed

    def look(self, birth: Birth, resident: SharedMemoryEngine | None, open_store: Open) -> None:
        """Whoever comes next, and whoever was there before, are in the same sound store."""
        newcomer = open_store()
        everybody = [newcomer, resident] if resident else [newcomer]
        for engine in everybody:
            # A second later.
            engine._next_look = engine._channels.words[layout.NEXT_SWEEP] = 0
            engine.statistics()
        for engine in everybody:
            expect(engine.statistics()["processes"], len(everybody), "the processes")
            for locked_segment in (engine._channels, engine._groups):
                with locked_segment as heap:
                    expect(check(heap), [], "the check")
        if resident and (not birth.fatal or newcomer.statistics()["pending"]):
            expect([each.payload for each in newcomer.pop(b"a")], [b"kept"], "the record")
            expect(newcomer.members(b"t").names, (b"kept",), "the member")
        for giver, taker in zip(everybody, reversed(everybody), strict=True):
            giver.push([Record(b"meet", b"here", FAR, 9)])
            expect([each.payload for each in taker.pop(b"meet")], [b"here"], "meeting")
        bells = [path for path in os.listdir(newcomer._location.directory) if "bell" in path]
        expect(bells, [], "bells of the dead")
        for engine in reversed(everybody):
            if engine is newcomer:
                engine.destroy()
            else:
                engine.close()

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Have all memory that is made be named so that it can be found."""
        token_bytes = secrets.token_bytes

        def marked_bytes(nbytes: int | None = None) -> bytes:
            return bytes.fromhex(f"{self.mark:05x}{token_bytes(nbytes).hex()[5:]}")

        def marked_token(store_id: bytes, purpose: str) -> str:
            return f"{self.mark:05x}{public_token(store_id, purpose)[5:]}"

        def marked_key(name: str, token: str) -> str:
            # The 11 bits left may meet by chance; then the store takes another id.
            return f"{self.mark << 11 | int(key_for(name, token), 16) & 0x7FF:#010x}"

        key_for = SysVSegment.locator_for
        # `secrets.token_hex` asks it.
        secrets.token_bytes = marked_bytes
        for module in (ownership, semaphore_locks):
            module.public_token = marked_token  # type: ignore[attr-defined]
        SysVSegment.locator_for = staticmethod(marked_key)  # type: ignore[method-assign]
        try:
            yield
        finally:
            secrets.token_bytes = token_bytes
            for module in (ownership, semaphore_locks):
                module.public_token = public_token  # type: ignore[attr-defined]
            SysVSegment.locator_for = staticmethod(key_for)  # type: ignore[method-assign]

    def files(self) -> list[str]:
        """What was made here in shared memory and is still there."""
        found = [f"/dev/shm/{name}" for name in os.listdir(fast() or ".")]
        return [name for name in found if f"asgi_ipc.{self.mark:05x}" in name]

    def memory(self) -> list[str]:
        """The memory objects made here that are still in the system."""
        with open("/proc/sysvipc/shm") as table:
            keys = [int(line.split()[0]) for line in table if not line.split()[0].isalpha()]
        return self.files() + [f"{key:#x}" for key in keys if (key - 1) >> 11 == self.mark]


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture births", description=__doc__)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: all")
    parser.add_argument("--sample", type=int, default=0, help="so many kills for each")
    parser.add_argument("--only", default="", help="part of the name")
    parsed = parser.parse_args(arguments)
    for engine in parsed.engine or ENGINES:
        begun, total = time.monotonic(), Tally()
        midwife = Midwife(engine, parsed.sample)
        for birth in BIRTHS:
            if parsed.only in birth.name:
                total = total.plus(midwife.run(birth))
        took = time.monotonic() - begun
        if not total.ends:
            sys.stdout.write(f"births, {engine}: nothing was killed\n")
            return 1
        sys.stdout.write(f"births, {engine}: {total.ends:,} kills, {took:.0f} s\n")
        sys.stdout.flush()
    return 0
