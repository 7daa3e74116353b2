"""Public calls made by code that Python runs in the middle of other public calls.

``python -m tests.tools.foreign_code ENGINE WAY`` uses a layer, while foreign code of one kind comes
in between again and again and uses it too; a thread and an event loop do the same beside. It ends
with 0 if nothing hung, nothing that was sent is lost or doubled, and every error is a documented
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import itertools
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from asgi_ipc import ChannelFull, StoreUnavailable, SyncIPCChannelLayer
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.layers.aio import IPCChannelLayer
from tests.tools.samples import ALL

_REPOSITORY = Path(__file__).parents[2]
SECONDS = 1.5 if ALL else 0.4
numbers = itertools.count()
sent: list[int] = []
errors: list[BaseException] = []
calls: Counter[str] = Counter()


class Blocking(MemoryEngine):
    """Is called in threads."""

    capabilities = MemoryEngine.capabilities._replace(blocking=True)


class Foreign:
    """One public call after another, each time it is run; never in the midst of itself."""

    def __init__(self, layer: SyncIPCChannelLayer) -> None:
        self.layer = layer
        self._inside = threading.local()
        self._next = itertools.cycle(self._calls())
        self.armed = True

    def __call__(self, *_: object) -> None:
        if not self.armed or getattr(self._inside, "yes", False):
            return
        self._inside.yes = True
        try:
            call = next(self._next)
            call()
            calls[call.__name__] += 1
        except ChannelFull:
            errors.append(AssertionError("there is room"))
        except StoreUnavailable:
            calls["refused"] += 1
        except BaseException as error:
            errors.append(error)
        finally:
            self._inside.yes = False

    def _calls(self) -> Iterator[Callable[[], object]]:
        layer = self.layer

        def send() -> None:
            number = next(numbers)
            layer.send("ledger", {"n": number})
            sent.append(number)

        def send_to_own() -> None:
            layer.send(f"specific.{layer.client_prefix}!own", {})

        def receive() -> None:
            layer.receive(["nothing", "x!"])

        def receive_a_while() -> None:
            layer.receive(["nothing"], block=True, timeout=0.001)

        def group_add() -> None:
            layer.group_add("foreign", "discarded")

        def group_discard() -> None:
            layer.group_discard("foreign", "discarded")

        def group_send() -> None:
            layer.group_send("foreign", {})

        def group_channels() -> None:
            layer.group_channels("foreign")

        def statistics() -> None:
            layer.global_statistics()

        def channel_statistics() -> None:
            layer.channel_statistics("ledger")

        def another_layer() -> None:
            other = SyncIPCChannelLayer(f"other-{os.getpid()}", engine="memory")
            other.send("a", {})
            other.close()

        yield from (send, send_to_own, send, receive, group_add, group_send, receive_a_while)
        yield from (group_channels, statistics, send, channel_statistics, group_discard)
        yield from (send, another_layer)


@contextlib.contextmanager
def collections(foreign: Foreign) -> Iterator[None]:
    """A collection at every allocation, and things that are collected then."""

    class Garbage:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            foreign()

    def begin(phase: str, info: object) -> None:
        if phase == "start":
            foreign()
        elif foreign.armed:
            Garbage()

    gc.callbacks.append(begin)
    gc.set_threshold(1, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(700, 10, 10)
        gc.callbacks.remove(begin)


@contextlib.contextmanager
def tracing(foreign: Foreign) -> Iterator[None]:
    """Before lines of asgi_ipc, of every 7th; fewer where a call takes longer, as in signals."""
    count = itertools.count()
    every = 29 if sys.argv[1] == "sqlite" else 7

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if "/asgi_ipc/" not in frame.f_code.co_filename:
            return None
        if next(count) % every == 0:
            foreign()
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)
        threading.settrace(None)


@contextlib.contextmanager
def logging_handlers(foreign: Foreign) -> Iterator[None]:
    """In a handler of what is logged, and there is a line of log for every drop."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            foreign()

    import asgi_ipc.delivery.drop_log

    asgi_ipc.delivery.drop_log.INTERVAL = 0.0
    logging.getLogger("asgi_ipc").addHandler(Handler())
    yield


@contextlib.contextmanager
def warning_filters(foreign: Foreign) -> Iterator[None]:
    """In a replacement of what shows warnings, one of which each deprecated call gives."""
    warnings.simplefilter("always")
    warnings.showwarning = lambda *arguments, **options: foreign()
    yield


@contextlib.contextmanager
def signal_handlers(foreign: Foreign) -> Iterator[None]:
    """In a handler of a signal that comes every now and then."""
    signal.signal(signal.SIGALRM, foreign)
    # A push to SQLite takes longer than to others: if more messages were sent in the middle of each
    # than it stores, they would never end.
    every = 0.003 if sys.argv[1] == "sqlite" else 0.0001
    signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


WAYS = {
    "collections": collections,
    "tracing": tracing,
    "logging": logging_handlers,
    "warnings": warning_filters,
    "signals": signal_handlers,
}


def is_over(until: float) -> bool:
    """Whether it is time to end; a slow machine has more, until foreign code was called enough."""
    late = time.monotonic() - until
    return late > 0 and (calls["send"] > 3 or late > 30)


def use(layer: SyncIPCChannelLayer, name: str, until: float) -> None:
    """What one thread does meanwhile."""
    for number in itertools.count():
        if is_over(until):
            break
        layer.send(name, {"n": number})
        assert layer.receive([name]) == (name, {"n": number})
        layer.receive_many([name])
        layer.group_add(f"room.{name}", name)
        layer.group_send(f"room.{name}", {"n": -number})
        assert layer.receive([name], block=True) == (name, {"n": -number})
        layer.group_discard(f"room.{name}", name)
        layer.group_channels(f"room.{name}")
        layer.global_statistics()
        layer.channel_statistics(name)


async def use_in_loop(layer: IPCChannelLayer, until: float) -> None:
    """What an event loop does meanwhile: receivers that are served, cancelled and thrown away."""
    slow = await layer.new_channel("slow")
    await layer.send(slow, {})
    await layer.receive(slow)
    for number in itertools.count():
        if is_over(until):
            break
        own = await layer.new_channel()
        receiving = asyncio.ensure_future(layer.receive(own))
        cancelled = asyncio.ensure_future(layer.receive(own))
        await asyncio.sleep(0)
        cancelled.cancel()
        await layer.send(own, {"n": number})
        assert await receiving == {"n": number}
        # Suspended, and then unreachable: a collection closes it, wherever it comes.
        abandoned = layer.receive(own)
        with contextlib.suppress(StopIteration, StoreUnavailable):
            abandoned.send(None)
        cycle: list[Any] = [abandoned]
        cycle.append(cycle)
        # Beyond the capacity of its buffer: a line of log.
        await layer.group_add("slow", slow)
        await layer.group_send("slow", {})
        await layer.group_discard("slow", slow)


def main(engine: str, way: str) -> None:
    """See the module."""
    faulthandler.dump_traceback_later(60, exit=True)
    logging.getLogger("asgi_ipc").addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"engine": engine}
        if engine == "blocking":
            options["engine"] = Blocking(
                "blocking", channel_memory=10_000_000, group_memory=1_000_000
            )
        elif engine == "sqlite":
            sys.path.insert(0, str(_REPOSITORY / "examples" / "third_party_engine"))
            options["engine"] = "asgi_ipc_sqlite:SQLiteEngine"
            options["engine_options"] = {"directory": folder}
        elif engine != "memory":
            options["engine_options"] = {"directory": folder}
        asynchronous = IPCChannelLayer(
            "foreign",
            channel_memory=64 << 20,
            capacity=10**6,
            channel_capacity={"slow*": 3},
            **options,
        )
        layer = asynchronous.sync
        foreign = Foreign(layer)
        until = time.monotonic() + SECONDS
        beside = [
            threading.Thread(target=guarded, args=(use, layer, "beside", until)),
            threading.Thread(
                target=guarded,
                args=(lambda: asyncio.run(use_in_loop(asynchronous, until)),),
            ),
        ]
        with WAYS[way](foreign):
            for thread in beside:
                thread.start()
            guarded(use, layer, "mine", until)
            for thread in beside:
                thread.join()
        foreign.armed = False
        gc.collect()
        layer.receive(["nothing"])  # Whatever was left is done by now.
        found = []
        while (message := layer.receive(["ledger"])[1]) is not None:
            found.append(message["n"])
        for error in errors[:3]:
            traceback.print_exception(error)
        assert not errors
        assert sorted(found) == sorted(sent), (len(found), len(sent))
        assert calls["send"] > 3, calls
        layer.destroy()
    sys.stdout.write(f"{dict(calls)}\n")


def guarded(function: Callable[..., object], *arguments: Any) -> None:
    """Note what it raises."""
    try:
        function(*arguments)
    except BaseException as error:
        errors.append(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
