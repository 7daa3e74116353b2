"""Forged memory: each forgery is played against each call, on a store that was put back before.

A call must end within seconds of processor time and within some memory, with a result or with a
documented error.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import itertools
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

from asgi_ipc.engines.base import Popped
from asgi_ipc.engines.shm.check import check
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.locks.base import Gone
from asgi_ipc.exceptions import StoreCorrupt, StoreFull, StoreUnavailable
from tests.tools import (
    stores,
)

from .forgeries import FORGERIES, Forgery
from .target import FAR, MIB, Target
from .world import Finding

#: Seconds of processor time that a call may take on these stores, on a machine that is busy.
LIMIT = 5.0
#: Bytes that a call may need beyond what its process has: some copies of the store.
MEMORY = 192 * MIB
#: Forgeries that share a process.
_BATCH = 24


def _look(target: Target) -> None:
    target.engine.session.words[layout.NEXT_SWEEP] = 0
    target.engine.upkeep.maintain(target.now)


def _sweep(target: Target) -> None:
    stores.sweep(target.engine, target.now, everything=True)
    stores.sweep_groups(target.engine, target.now)


def _give_back(target: Target) -> None:
    for locked_segment in (target.engine.session.channels, target.engine.session.groups):
        for _ in range(2):
            with contextlib.suppress(StoreCorrupt), locked_segment as heap:
                heap.returns.step(True, locked_segment.segment.give_back)


def _check(target: Target) -> None:
    for locked_segment in (target.engine.session.channels, target.engine.session.groups):
        with locked_segment as heap:
            for text in check(heap):
                assert isinstance(text, str)


def _pushes(target: Target) -> None:
    for name in (b"ring", b"listed", b"old", b"waited for", b"new"):
        target.engine.push([target.record(name, b"x" * 100)] * 3)


def _pops(limit: int) -> Callable[[Target], object]:
    def pop(target: Target) -> None:
        for name in (b"ring", b"listed", b"large", b"old", b"old ring", b"waited for", b"none"):
            bell = target.bells[0] if limit == 64 else None
            with contextlib.suppress(StoreCorrupt):
                taken = target.engine.pop(name, limit, bell)
                assert sum(len(each.payload) for each in taken) <= 8 * MIB

    return pop


def _restore(target: Target) -> None:
    for name in (b"ring", b"listed"):
        target.engine.restore(name, Popped(b"x" * 100, FAR))


def _put(target: Target) -> None:
    for number in (3, 1000):
        target.engine.put(b"t", b"member %d" % number, FAR)


CALLS: dict[str, Callable[[Target], object]] = {
    "push": _pushes,
    "push much": lambda target: target.engine.push([target.record(b"large", bytes(MIB))] * 3),
    "push over capacity": lambda target: target.engine.push(
        [target.record(name, b"x")._replace(capacity=1) for name in (b"old", b"old ring")]
    ),
    "pop one": _pops(1),
    "pop a batch": _pops(64),
    "pop all": _pops(1 << 40),
    "peek": lambda target: target.engine.peek(b"ring"),
    "restore": _restore,
    "disarm": lambda target: target.engine.disarm(b"waited for", target.bells[1]),
    "put": _put,
    "put in a new table": lambda target: target.engine.put(b"new", b"m", FAR),
    "remove": lambda target: target.engine.remove(b"t", b"member 9"),
    "members": lambda target: target.engine.members(b"t"),
    "members that are old": lambda target: target.engine.members(b"old"),
    "statistics": lambda target: target.engine.statistics(),
    "statistics of one": lambda target: [
        target.engine.statistics(name) for name in (b"old", b"ring", b"listed", b"old ring")
    ],
    "queues": lambda target: list(target.engine.queues()),
    "tables": lambda target: list(target.engine.tables()),
    "processes": lambda target: list(target.engine.processes()),
    "look at the oldest": lambda target: [
        target.engine.look(name) for name in (b"ring", b"listed", b"large", b"old", b"old ring")
    ],
    "note": lambda target: target.engine.note({"overflowed": 1}),
    "give back": _give_back,
    "sweep": _sweep,
    "look": _look,
    "check": _check,
    "open": lambda target: target.open().close(),
    "flush": lambda target: target.engine.flush(),
}


def played(names: list[str], share: int = 1) -> Iterator[str]:
    """What went wrong when each forgery met each call, or one call in ``share``."""
    target = Target()
    signal.signal(signal.SIGPROF, _too_long)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
        known, calls = list(FORGERIES), list(CALLS)
        for name, call in itertools.product(names, calls):
            # So that each forgery is played, and each call meets some of each sort.
            if (known.index(name) + calls.index(call)) % share:
                continue
            faulthandler.dump_traceback_later(20 * LIMIT, exit=True)
            text = _play(target, FORGERIES[name], CALLS[call])
            if text:
                yield f"{name}, {call}: {text}"
        faulthandler.cancel_dump_traceback_later()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        target.restore()
        target.engine.destroy()
        shutil.rmtree(target.directory, ignore_errors=True)


def _play(target: Target, forge: Forgery, call: Callable[[Target], object]) -> str:
    """What went wrong when a forgery met a call, or nothing."""
    target.restore()
    try:
        forge(target)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            call(target)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except StoreCorrupt as error:
        if str(target.directory) not in str(error) or "start afresh" not in str(error):
            return f"it names no store and no remedy: {error}"
    except (StoreFull, StoreUnavailable, Gone):
        pass
    except BaseException:
        return traceback.format_exc()[-1500:]
    return ""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Finding(f"it took {LIMIT} seconds of processor time")


def main(arguments: list[str]) -> int:
    """Play the forgeries named, or all, some in a process each."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture forged", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--share", type=int, default=1, help="each against one call in so many")
    parsed = parser.parse_args(arguments)
    names = parsed.names or list(FORGERIES)
    failed = 0
    for first in range(0, len(names), _BATCH):
        child = os.fork()
        if not child:
            status = 1
            try:
                found = list(played(names[first : first + _BATCH], parsed.share))
                sys.stdout.write("".join(f"{text}\n" for text in found))
                status = 1 if found else 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        if ended:
            failed += 1
            sys.stdout.write(f"{names[first : first + _BATCH]} ended with {ended}\n")
    sys.stdout.write(f"{len(names)} forgeries, {len(CALLS)} calls, one in {parsed.share}\n")
    return 1 if failed else 0
