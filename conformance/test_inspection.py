"""What an engine can be asked while it is in use: E27 to E31."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from asgi_ipc.engines.base import COUNTERS, GAUGES, LOOK_BYTES, LOOK_RECORDS
from asgi_ipc.exceptions import StoreUnavailable

from .tools import MANY, deadline, eventually, let_pass, pop, push, record, signalled

if TYPE_CHECKING:
    from asgi_ipc.engines.base import Engine, QueueInfo

    from .case import Case

pytestmark: pytest.MarkDecorator = pytest.mark.needs("inspects")

#: More than an engine lists in one go.
STAYING = 150


def info(engine: Engine, queue: bytes) -> QueueInfo:
    """Return what the engine tells of a queue, which must be there once."""
    (found,) = [each for each in engine.queues() if each.name == queue]
    return found


def names() -> tuple[set[bytes], list[bytes], list[bytes]]:
    """Return names that stay, names that go, and all of them, a pair after the other."""
    staying = [b"staying %d" % number for number in range(STAYING)]
    going = [b"going %d" % number for number in range(STAYING)]
    pairs = zip(going, staying, strict=True)
    return set(staying), going, [name for pair in pairs for name in pair]


@pytest.mark.clause("E27")
def test_queues_that_stay_are_listed_once_whatever_comes_and_goes(case: Case) -> None:
    engine, other = case.open(), case.open()
    staying, going, all_names = names()
    for name in all_names:
        push(engine, name, [b"x"])
    bell = engine.bell()
    engine.pop(b"awaited", 1, bell)
    found: Counter[bytes] = Counter()
    for number, each in enumerate(engine.queues()):
        found[each.name] += 1
        if number < STAYING:
            pop(other, going[number])
            push(other, b"coming %d" % number, [b"x"])
    assert staying | {b"awaited"} <= set(found)
    assert max(found.values()) == 1
    assert set(found) <= {b"awaited", *staying, *going, *(b"coming %d" % n for n in range(STAYING))}


@pytest.mark.clause("E27")
def test_tables_that_stay_are_listed_once_whatever_comes_and_goes(case: Case) -> None:
    engine, other = case.open(), case.open()
    staying, going, all_names = names()
    for name in all_names:
        for member in (b"m", b"n"):
            engine.put(name, member, deadline(engine))
    found: Counter[bytes] = Counter()
    for number, each in enumerate(engine.tables()):
        found[each.name] += 1
        if each.name in staying:
            assert each.members == 2
        if number < STAYING:
            for member in (b"m", b"n"):
                other.remove(going[number], member)
            other.put(b"coming %d" % number, b"m", deadline(other))
    assert staying <= set(found)
    assert max(found.values()) == 1


@pytest.mark.clause("E27")
def test_an_empty_store_lists_no_queue_and_no_table(engine: Engine) -> None:
    assert list(engine.queues()) == []
    assert list(engine.tables()) == []
    assert engine.look(b"q") == []


@pytest.mark.clause("E27")
def test_each_engine_that_has_the_store_open_is_a_process(case: Case) -> None:
    engine, other = case.open(), case.open()
    found = {each.identity: each for each in engine.processes()}
    assert set(found) == {engine.identity, other.identity}
    assert engine.statistics()["processes"] == 2
    for each in found.values():
        assert each.pid in (0, os.getpid())
        assert each.joined_age >= 0
        assert set(each.counts) == {*COUNTERS, *GAUGES, "fetched"}
    other.close()
    assert [each.identity for each in engine.processes()] == [engine.identity]


@pytest.mark.clause("E27")
@pytest.mark.needs("crosses_processes")
def test_another_process_is_listed_until_it_is_killed(case: Case) -> None:
    engine = case.open()
    other = case.process()
    found = {each.identity: each for each in engine.processes()}
    assert set(found) == {engine.identity, other.call("identity")}
    assert found[other.call("identity")].pid in (0, other.pid)
    assert [name for name, _ in other.call("queues")] == []
    other.call("push", b"q", [b"x", b"y"])
    assert [(each.name, each.pending) for each in engine.queues()] == [(b"q", 2)]
    assert other.call("queues") == [(b"q", 2)]
    other.kill()
    assert eventually(lambda: len(list(engine.processes())) == 1)


@pytest.mark.clause("E28")
def test_what_is_told_of_a_queue_agrees_with_its_statistics(engine: Engine) -> None:
    push(engine, b"q", [b"x" * 100] * 5)
    push(engine, b"dying", [b"x"], seconds=0.02)
    pop(engine, b"q", 2)
    engine.restore(b"q", engine.pop(b"q")[0])
    engine.push([record(engine, b"q", b"x", capacity=3)])
    let_pass(engine, 0.05)
    for name in (b"q", b"dying"):
        counts = engine.statistics(name)
        # An engine may forget a queue that is empty.
        for told in [each for each in engine.queues() if each.name == name]:
            for field in ("pending", "high_water", "pushed", "popped", "expired", "refused"):
                assert getattr(told, field) == counts[field], field
    told = info(engine, b"q")
    assert (told.pending, told.pushed, told.popped, told.refused) == (3, 5, 2, 1)
    assert told.bytes >= 3 * 100
    assert told.oldest_age >= 40_000_000
    pop(engine, b"q")
    assert [each.pending for each in engine.queues() if each.pending] == []


@pytest.mark.clause("E28")
def test_the_owner_of_a_queue_is_told(case: Case) -> None:
    engine, other = case.open(), case.open()
    engine.push([record(engine, b"owned", b"x", owner=other.identity)])
    push(engine, b"free", [b"x"])
    assert info(engine, b"owned").owner == other.identity
    assert info(engine, b"free").owner == b""
    engine.push([record(engine, b"owned", b"y", owner=other.identity)])
    pop(other, b"owned")
    pop(other, b"free")
    fetched = {each.identity: each.counts["fetched"] for each in engine.processes()}
    assert fetched == {engine.identity: 0, other.identity: 2}


@pytest.mark.clause("E28")
@pytest.mark.needs("wakes")
def test_an_armed_bell_is_a_waiting_reader(case: Case) -> None:
    engine, other = case.open(), case.open()
    bell, second = other.bell(), other.bell()
    for queue in (b"q", b"r"):
        other.pop(queue, 1, bell)
        engine.pop(queue, 1, second)
    waits = {each.identity: sorted(each.waits_for) for each in engine.processes()}
    assert waits[other.identity] == [b"q", b"r"]
    assert info(engine, b"q").waiting
    push(engine, b"q", [b"x"])
    assert info(engine, b"q").waiting, "the second bell is armed still"
    push(engine, b"q", [b"x"])
    assert not info(engine, b"q").waiting
    for each in (bell, second):
        other.disarm(b"r", each)
        engine.disarm(b"r", each)
    assert not any(each.waiting for each in engine.queues())
    assert all(each.waits_for == () for each in engine.processes())


@pytest.mark.clause("E29")
def test_a_look_returns_the_oldest_and_takes_none(case: Case) -> None:
    engine, other = case.open(), case.open()
    payloads = [b"%d" % number for number in range(30)]
    push(engine, b"q", payloads[:1])
    push(engine, b"q", [b"dying"] * 2, seconds=0.02)
    push(engine, b"q", payloads[1:])
    let_pass(engine, 0.05)
    for looked in (other, engine):
        assert [each.payload for each in looked.look(b"q", 3)] == payloads[:3]
        assert [each.payload for each in looked.look(b"q")] == payloads
    assert engine.look(b"q", 0) == []
    first = engine.pop(b"q")[0]
    assert other.look(b"q", 1)[0].payload == payloads[1]
    engine.restore(b"q", first)
    assert other.look(b"q", 1) == [first]
    assert pop(engine, b"q") == payloads


@pytest.mark.clause("E29")
def test_a_look_at_a_long_queue_is_bounded(engine: Engine) -> None:
    payloads = [b"%d" % number for number in range(2 * LOOK_RECORDS)]
    push(engine, b"q", payloads)
    assert [each.payload for each in engine.look(b"q", MANY)] == payloads[:LOOK_RECORDS]
    pop(engine, b"q", 150)
    assert [each.payload for each in engine.look(b"q", MANY)] == payloads[150:]
    large = [b"l" * LOOK_BYTES, b"m" * LOOK_BYTES]
    push(engine, b"large", large)
    assert [each.payload for each in engine.look(b"large")] == large[:1]
    assert pop(engine, b"large") == large


@pytest.mark.clause("E30")
def test_asking_changes_nothing_that_others_see(case: Case) -> None:
    engine, other = case.open(), case.open()
    push(engine, b"q", [b"1", b"2"])
    engine.put(b"t", b"m", deadline(engine))
    bell = other.bell()
    other.pop(b"awaited", 1, bell)
    known = other.members(b"t")

    def seen() -> tuple[Any, ...]:
        counts = {**other.statistics(b"q"), "oldest_age": 0}
        total = {**other.statistics(), "oldest_age": 0}
        return other.flushes, counts, total, other.members(b"t", known) is known

    before = seen()
    for each in (engine.queues, engine.tables, engine.processes):
        list(each())
    engine.look(b"q")
    engine.look(b"awaited")
    engine.look(b"none")
    assert seen() == before
    if case.capabilities.wakes:
        assert not signalled(bell)
        push(engine, b"awaited", [b"x"])
        assert signalled(bell, 5)
    assert pop(engine, b"q") == [b"1", b"2"]


@pytest.mark.clause("E30")
@pytest.mark.parametrize("listing", ["queues", "tables", "processes"])
def test_between_two_items_the_store_is_free(case: Case, listing: str) -> None:
    """The caller, and another engine, may use it; and the caller may stop."""
    engine, other = case.open(), case.open()
    for number in range(5):
        push(engine, b"%d" % number, [b"x"])
        engine.put(b"%d" % number, b"m", deadline(engine))
    for _ in getattr(engine, listing)():
        assert not engine.inside()
        push(engine, b"q", [b"x"])
        assert pop(other, b"q") == [b"x"]
        engine.put(b"t", b"m", deadline(engine))
        assert other.remove(b"t", b"m")
    stopped = iter(getattr(engine, listing)())
    next(stopped)
    del stopped
    push(other, b"q", [b"x"])
    assert pop(engine, b"q") == [b"x"]


@pytest.mark.clause("E31")
def test_what_a_process_notes_is_seen_by_all_and_summed(case: Case) -> None:
    engine, other = case.open(), case.open()
    engine.note({"overflowed": 1, "held": 10, "no such count": 5})
    other.note({"overflowed": 2, "held": 20, "held_bytes": 1 << 40})
    other.note({"overflowed": 3, "held": 30})
    noted = {each.identity: each.counts for each in engine.processes()}
    assert (noted[engine.identity]["overflowed"], noted[engine.identity]["held"]) == (1, 10)
    assert noted[other.identity] == {
        **dict.fromkeys((*COUNTERS, *GAUGES, "fetched"), 0),
        "overflowed": 3,
        "held": 30,
    }
    counts = other.statistics()
    assert (counts["overflowed"], counts["held"], counts["held_bytes"]) == (4, 40, 0)
    other.close()
    counts = engine.statistics()
    assert (counts["overflowed"], counts["held"]) == (4, 10)
    third = case.open()
    counts = third.statistics()
    assert (counts["overflowed"], counts["held"]) == (4, 10)
    third.note({"overflowed": 1})
    assert engine.statistics()["overflowed"] == 5


@pytest.mark.clause("E31")
@pytest.mark.needs("crosses_processes", "owners")
def test_the_counters_of_a_killed_process_stay_in_the_sums(case: Case) -> None:
    engine = case.open()
    other = case.process()
    other.call("note", {"overflowed": 7, "buffer_expired": 1, "held": 3})
    assert engine.statistics()["held"] == 3
    other.kill()
    assert eventually(lambda: engine.statistics()["held"] == 0)
    counts = engine.statistics()
    assert (counts["overflowed"], counts["buffer_expired"]) == (7, 1)


#: Every method of inspection, called on a closed engine.
CALLS: dict[str, Callable[[Engine], Any]] = {
    "queues": lambda engine: engine.queues(),
    "tables": lambda engine: engine.tables(),
    "processes": lambda engine: engine.processes(),
    "look": lambda engine: engine.look(b"q"),
    "note": lambda engine: engine.note({}),
}


@pytest.mark.clause("E21")
@pytest.mark.parametrize("call", CALLS)
def test_a_closed_engine_can_not_be_asked(engine: Engine, call: str) -> None:
    engine.close()
    with pytest.raises(StoreUnavailable):
        CALLS[call](engine)


@pytest.mark.clause("E20")
def test_the_bytes_of_each_memory_are_told(case: Case) -> None:
    engine = case.open(channel_memory=1 << 20, group_memory=1 << 19)
    before = engine.statistics()
    push(engine, b"q", [b"x" * 20_000])
    engine.put(b"t", b"m" * 200, deadline(engine))
    after = engine.statistics()
    assert after["channel_bytes_used"] >= before["channel_bytes_used"] + 20_000
    assert after["group_bytes_used"] >= before["group_bytes_used"] + 200
    for memory in ("channel", "group"):
        used, reserved, total = (
            after[f"{memory}_bytes_{what}"] for what in ("used", "reserved", "total")
        )
        assert 0 < used <= reserved <= total
    assert after["channel_bytes_total"] >= 1 << 20
    assert (1 << 19) <= after["group_bytes_total"] < (1 << 20)
    for what in ("used", "total"):
        assert after[f"bytes_{what}"] == (
            after[f"channel_bytes_{what}"] + after[f"group_bytes_{what}"]
        )
