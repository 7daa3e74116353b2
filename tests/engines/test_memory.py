"""What is peculiar to the memory engine and its bell; the contract is conformance/'s affair."""

from __future__ import annotations

import errno
import gc
import itertools
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from asgi_ipc.engines import memory
from asgi_ipc.engines.base import MAX_NAME, MAX_PAYLOAD, Record
from asgi_ipc.engines.bell import PipeBell
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.exceptions import OptionError, StoreFull, StoreUnavailable


class Clock:
    """Nanoseconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock, request: pytest.FixtureRequest) -> Iterator[MemoryEngine]:
    engine = MemoryEngine(request.node.name, channel_memory=1000, group_memory=100, clock=clock)
    yield engine
    engine.close()


def signals(bell: PipeBell) -> bool:
    poll = select.poll()
    poll.register(bell.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def test_the_clock_is_the_one_given(engine: MemoryEngine, clock: Clock) -> None:
    assert engine.clock() == 1000
    engine.push([Record(b"q", b"x", 1010, 1)])
    clock.now = 1009
    assert engine.statistics(b"q")["oldest_age"] == 9
    assert engine.push([Record(b"q", b"y", 1010, 1)])
    clock.now = 1010
    assert engine.pop(b"q") == []
    assert engine.statistics(b"q")["expired"] == 1


def test_a_second_engine_of_a_prefix_shares_store_sizes_and_clock(
    engine: MemoryEngine,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    with caplog.at_level(logging.WARNING):
        other = MemoryEngine(request.node.name, channel_memory=5, group_memory=6)
    assert "channel_memory=1000" in caplog.text
    engine.push([Record(b"q", b"x" * 800, 2000, 1)])
    assert len(other.pop(b"q")) == 1
    clock.now = 77
    assert other.clock() == 77
    assert other.identity != engine.identity
    assert other.statistics()["bytes_total"] == 1100
    other.close()


def test_the_store_goes_with_its_last_engine_closed_or_forgotten() -> None:
    for forget in (False, True):
        engine = MemoryEngine("mortal", channel_memory=9, group_memory=9)
        engine.push([Record(b"q", b"x", 1 << 62, 1)])
        if not forget:
            engine.close()
        del engine
        gc.collect()
        engine = MemoryEngine("mortal", channel_memory=9, group_memory=9)
        assert engine.statistics()["pushed"] == 0
        engine.close()


def test_payloads_are_bounded_by_channel_memory_to_the_byte(engine: MemoryEngine) -> None:
    assert engine.push([Record(b"q", b"x" * 600, 2000, 9)]) == []
    refused = engine.push([Record(b"r", b"x" * 401, 2000, 9), Record(b"r", b"x" * 350, 2000, 9)])
    assert [(each.position, each.reason) for each in refused] == [(0, "no room")]
    assert "600 of 1000 bytes" in refused[0].detail
    assert engine.statistics()["bytes_used"] == 950


def test_a_queue_has_at_most_seven_times_what_it_leaves_free_to_the_byte(
    engine: MemoryEngine,
) -> None:
    refused = engine.push([Record(b"q", b"x" * 876, 2000, 9), Record(b"q", b"x" * 875, 2000, 9)])
    assert [(each.position, each.reason) for each in refused] == [(0, "share")]
    counts = engine.statistics()
    assert (counts["refused"], counts["store_full"]) == (1, 1)
    engine.flush()
    assert engine.statistics()["bytes_used"] == 0


def test_members_are_bounded_by_group_memory_to_the_byte(
    engine: MemoryEngine, clock: Clock
) -> None:
    engine.put(b"t", b"x" * 60, 1010)
    engine.put(b"t", b"y" * 40, 2000)
    with pytest.raises(StoreFull, match="100 of 100 bytes"):
        engine.put(b"u", b"z", 2000)
    clock.now = 1010
    engine.put(b"u", b"z" * 60, 2000)
    assert engine.statistics()["members"] == 2


def test_names_and_payloads_out_of_bounds_are_refused_whole(engine: MemoryEngine) -> None:
    good = Record(b"q", b"x", 2000, 1)
    for bad in (
        good._replace(queue=b""),
        good._replace(queue=b"x" * (MAX_NAME + 1)),
        good._replace(payload=bytes(MAX_PAYLOAD + 1)),
    ):
        with pytest.raises(ValueError, match=r"at most|1 to"):
            engine.push([good, bad])
    assert engine.pop(b"q") == []
    with pytest.raises(ValueError, match="member name"):
        engine.put(b"t", b"", 2000)


def test_idle_queues_are_forgotten_and_waited_for_ones_are_not(engine: MemoryEngine) -> None:
    bell = engine.bell()
    engine.pop(b"waited for", 1, bell)
    for number in range(1000):
        engine.pop(b"%d" % number)
    store = engine._opened
    assert store is not None
    assert len(store.queues) < 200
    assert b"waited for" in store.queues


def test_what_a_flush_drops_is_counted(engine: MemoryEngine) -> None:
    engine.push([Record(b"q", b"x", 2000, 9), Record(b"q", b"y", 2000, 9)])
    engine.flush()
    assert engine.statistics()["flushed"] == 2


def test_destroying_wakes_who_waits_and_leaves_the_others_a_fresh_store(
    engine: MemoryEngine, request: pytest.FixtureRequest
) -> None:
    other = MemoryEngine(request.node.name, channel_memory=1000, group_memory=100)
    other.push([Record(b"q", b"x", 2000, 9)])
    bell = other.bell()
    other.pop(b"empty", 1, bell)
    flushes = other.flushes
    engine.destroy()
    assert isinstance(bell, PipeBell)
    assert signals(bell)
    assert other.flushes > flushes
    assert other.pop(b"q") == []
    assert other.statistics()["pushed"] == 0
    other.close()


def test_a_forked_child_has_an_empty_store_and_the_parent_keeps_its_own(
    engine: MemoryEngine,
) -> None:
    engine.push([Record(b"q", b"x", 2000, 9)])
    store = engine._opened
    assert store is not None
    identity, flushes = engine.identity, engine.flushes
    with store.lock:  # As another thread might hold it at that moment.
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        fresh = engine.pop(b"q") == [] and engine.identity != identity
        os._exit(0 if fresh and engine.flushes > flushes else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert engine.identity == identity
    assert len(engine.pop(b"q")) == 1


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "1", None])
def test_a_bad_size_is_named(size: object) -> None:
    with pytest.raises(OptionError, match="group_memory"):
        MemoryEngine("bad", channel_memory=1, group_memory=size)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="channel_memory"):
        MemoryEngine("bad", channel_memory=size, group_memory=1)  # type: ignore[arg-type]


def test_a_bad_clock_is_named() -> None:
    with pytest.raises(OptionError, match="clock"):
        MemoryEngine("bad", channel_memory=1, group_memory=1, clock=5)  # type: ignore[arg-type]


def test_a_bell_of_another_engine_is_refused(engine: MemoryEngine) -> None:
    class Other:
        def fileno(self) -> int:
            return -1

        def clear(self) -> None: ...
        def signal(self) -> None: ...
        def close(self) -> None: ...

    with pytest.raises(TypeError, match="bell"):
        engine.pop(b"q", 1, Other())


def test_closing_an_engine_closes_its_bells(engine: MemoryEngine) -> None:
    bell = engine.bell()
    engine.close()
    assert bell.fileno() == -1
    with pytest.raises(StoreUnavailable):
        engine.bell()


def test_a_pipe_bell_says_whether_somebody_can_hear_it() -> None:
    bell = PipeBell()
    assert bell.try_signal()
    assert signals(bell)
    bell.clear()
    assert not signals(bell)
    bell.close()
    assert not bell.try_signal()
    bell.clear()
    assert bell.fileno() == -1


def test_a_pipe_bell_is_mute_in_a_forked_child() -> None:
    bell = PipeBell()
    bell.signal()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        bell.clear()  # Would take the parent's signal.
        heard = bell.try_signal()
        bell.close()
        os._exit(int(heard))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert signals(bell)
    bell.clear()
    assert not signals(bell)
    bell.close()


def test_a_pipe_bells_descriptors_are_not_inherited_and_do_not_block() -> None:
    bell = PipeBell()
    for descriptor in bell._descriptors._pair:
        assert not os.get_inheritable(descriptor)
        assert not os.get_blocking(descriptor)
    bell.close()


def test_a_bell_that_finds_no_descriptors_says_what_to_do(
    engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe", full)
    with pytest.raises(StoreUnavailable, match=r"Too many open files.*ulimit -n"):
        engine.bell()


class _Interrupted(BaseException):
    pass


def test_an_exception_at_any_step_leaves_sums_that_agree_with_what_is_stored() -> None:
    """As a signal's handler may raise: here at each line, by a trace function."""

    def work() -> None:
        now = engine.clock()
        for number in range(3):
            record = Record(b"q", b"payload %d" % number, now + 100 + number, 10)
            engine.push([record, record._replace(queue=b"r")])
        time.now += 101
        engine.put(b"table", b"one", time.now + 10)
        engine.put(b"table", b"two", time.now + 1000)
        restored = engine.pop(b"q")[0]
        engine.restore(b"q", restored)
        time.now += 20
        engine.members(b"table")
        engine.remove(b"table", b"two")
        engine.statistics()
        engine.flush()

    def lines_until(end: int) -> bool:
        """Whether the work was interrupted, at that line."""
        passed = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
            nonlocal passed
            if frame.f_code.co_filename != memory.__file__:
                return trace
            passed += event == "line"
            if passed == end:
                sys.settrace(None)
                raise _Interrupted
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            work()
        except _Interrupted:
            return True
        finally:
            sys.settrace(before)
        return False

    time = Clock()
    for end in itertools.count(1):
        engine = MemoryEngine("sums", channel_memory=1000, group_memory=100, clock=time)
        interrupted = lines_until(end)
        store = engine._store
        while store.lock._is_owned():
            store.lock.release()  # A tracer may raise between a body and its with's end.
        counts = engine.statistics()
        entries = [entry for queue in store.queues.values() for entry in queue.entries]
        members = [member for table in store.tables.values() for member in table.members]
        assert counts["pending"] == store.pending == len(entries), end
        assert store.record_bytes == sum(len(entry.payload) for entry in entries), end
        assert store.member_bytes == sum(map(len, members)), end
        time.now += 10_000
        assert engine.statistics()["pending"] == store.pending == 0, end
        assert not engine.members(b"table").names, end
        assert engine.statistics()["bytes_used"] == 0, end
        engine.close()
        if not interrupted:
            break
    assert end > 100
