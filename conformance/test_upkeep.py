"""Statistics, flushing, closing, destroying and refusing to open: E19 to E23."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from asgi_ipc.engines import open_engine
from asgi_ipc.engines.base import Popped
from asgi_ipc.exceptions import OptionError, StoreUnavailable

from .tools import ENOUGH, deadline, in_time, let_pass, pop, push, record, signalled

if TYPE_CHECKING:
    from asgi_ipc.engines.base import Engine

    from .case import Case

#: Counts of a queue, and further counts of the store.
OF_A_QUEUE = {"pushed", "popped", "expired", "refused", "orphaned", "pending", "high_water"} | {
    "oldest_age",
    "store_full",
}
OF_THE_STORE = OF_A_QUEUE | {"queues", "members", "bytes_used", "bytes_total", "recoveries"}


@pytest.mark.clause("E19")
def test_after_a_flush_nothing_is_left_for_anyone(case: Case) -> None:
    engine, other = case.open(), case.open()
    for number in range(50):
        push(engine, b"q%d" % number, [b"x", b"y"])
        engine.put(b"t%d" % number, b"m", deadline(engine))
    before, others = engine.flushes, other.flushes
    engine.flush()
    assert engine.flushes > before
    push(engine, b"later", [b"x"])
    assert pop(other, b"later") == [b"x"]
    assert other.flushes > others, "known before what was pushed after it"
    for number in range(50):
        assert pop(other, b"q%d" % number) == []
        assert other.members(b"t%d" % number).names == ()
    assert engine.statistics()["pending"] == engine.statistics()["members"] == 0


@pytest.mark.clause("E19")
def test_nothing_but_a_flush_counts_as_one(engine: Engine) -> None:
    before = engine.flushes
    push(engine, b"q", [b"x"])
    pop(engine, b"q")
    engine.put(b"t", b"m", deadline(engine))
    engine.remove(b"t", b"m")
    assert engine.flushes == before


@pytest.mark.clause("E19")
def test_a_flushed_store_works_on(engine: Engine) -> None:
    push(engine, b"q", [b"old"], capacity=1)
    engine.put(b"t", b"old", deadline(engine))
    engine.flush()
    push(engine, b"q", [b"new"], capacity=1)
    engine.put(b"t", b"new", deadline(engine))
    assert pop(engine, b"q") == [b"new"]
    assert engine.members(b"t").names == (b"new",)


@pytest.mark.clause("E12")
@pytest.mark.clause("E19")
@pytest.mark.needs("wakes")
def test_a_receiver_that_waited_before_a_flush_is_signalled_after_it(engine: Engine) -> None:
    bell = engine.bell()
    engine.pop(b"q", 1, bell)
    engine.flush()
    if not signalled(bell):  # Waking all receivers to look again is allowed, too.
        push(engine, b"q", [b"x"])
        assert signalled(bell, ENOUGH)


@pytest.mark.clause("E19")
@pytest.mark.needs("bounded")
def test_a_flush_gives_all_the_room_back(case: Case) -> None:
    engine = case.open(channel_memory=1 << 20, group_memory=1 << 18)
    taken = []
    for _ in range(4):
        number = 0
        while not engine.push([record(engine, b"%d" % (number % 10), b"x" * 5000)]):
            number += 1
        taken.append(number)
        engine.flush()
    assert taken[1:] == taken[:-1]


@pytest.mark.clause("E20")
def test_statistics_tell_what_became_of_each_record(engine: Engine) -> None:

    def act(death: int) -> tuple[Mapping[str, int], Mapping[str, int]]:
        before = engine.statistics(b"q"), engine.statistics()
        push(engine, b"q", [b"1", b"2", b"3", b"4"])
        dying = record(engine, b"q", b"dying")._replace(deadline=death)
        assert engine.push([dying, dying]) == []
        push(engine, b"other", [b"5"])
        engine.push([record(engine, b"q", b"x", capacity=6)])
        engine.push([record(engine, b"other", b"x", capacity=1)])
        pop(engine, b"q", 1)
        engine.restore(b"q", engine.pop(b"q")[0])
        return before

    # 0, unless the machine was too slow for the first attempt.
    of_the_queue, of_the_store = in_time(engine, act)
    counts = engine.statistics(b"q")
    assert set(counts) >= OF_A_QUEUE
    expected = {"pushed": 6, "popped": 1, "expired": 2, "refused": 1, "orphaned": 0, "pending": 3}
    assert {key: counts[key] - of_the_queue[key] for key in expected} == expected
    assert counts["high_water"] == 6
    assert pop(engine, b"q") == [b"2", b"3", b"4"]
    counts = engine.statistics()
    assert set(counts) >= OF_THE_STORE
    expected = {"pushed": 7, "popped": 4, "expired": 2, "refused": 2, "orphaned": 0, "pending": 1}
    assert {key: counts[key] - of_the_store[key] for key in expected} == expected
    assert counts["high_water"] == 7


@pytest.mark.clause("E20")
@pytest.mark.needs("bounded")
def test_a_record_without_room_counts_as_refused(case: Case) -> None:
    engine = case.open(channel_memory=1 << 20)
    assert engine.push([record(engine, b"q", b"x" * (2 << 20))])[0].no_room
    push(engine, b"q", [b"x"])
    assert not engine.push([record(engine, b"q", b"y", capacity=1)])[0].no_room
    for counts in (engine.statistics(), engine.statistics(b"q")):
        assert (counts["pushed"], counts["pending"]) == (1, 1)
    counts = engine.statistics()
    assert (counts["refused"], counts["store_full"]) == (2, 1)


@pytest.mark.clause("E20")
def test_a_dead_record_is_not_pending_even_if_no_process_calls(engine: Engine) -> None:
    push(engine, b"q", [b"dying"] * 3, seconds=0.03)
    push(engine, b"q", [b"alive"])
    let_pass(engine, 0.05)
    counts = engine.statistics()
    assert (counts["pending"], counts["expired"], counts["pushed"]) == (1, 3, 4)
    assert counts["oldest_age"] >= 40_000_000
    pop(engine, b"q")
    counts = engine.statistics()
    assert (counts["pending"], counts["expired"], counts["popped"]) == (0, 3, 1)


@pytest.mark.clause("E20")
def test_the_store_counts_its_queues_members_and_bytes(engine: Engine) -> None:
    before = engine.statistics()
    assert before["queues"] == before["members"] == 0
    assert 0 <= before["bytes_used"] <= before["bytes_total"]
    push(engine, b"q", [b"x" * 5000])
    push(engine, b"other", [b"x"])
    engine.put(b"t", b"a", deadline(engine))
    engine.put(b"t", b"b", deadline(engine))
    counts = engine.statistics()
    assert (counts["queues"], counts["members"]) == (2, 2)
    assert before["bytes_used"] + 5000 <= counts["bytes_used"] <= counts["bytes_total"]
    engine.remove(b"t", b"a")
    assert engine.statistics()["members"] == 1


@pytest.mark.clause("E20")
def test_age_is_that_of_the_oldest_pending_record(engine: Engine) -> None:
    assert engine.statistics()["oldest_age"] == 0
    push(engine, b"q", [b"old"])
    let_pass(engine, 0.08)
    push(engine, b"young", [b"x"])
    let_pass(engine, 0.03)
    # An engine may count in milliseconds.
    assert engine.statistics(b"q")["oldest_age"] >= 100_000_000
    assert engine.statistics()["oldest_age"] >= 100_000_000
    assert engine.statistics(b"young")["oldest_age"] >= 20_000_000
    pop(engine, b"q", 1)
    assert engine.statistics(b"q")["oldest_age"] == 0


@pytest.mark.clause("E20")
def test_a_queue_that_does_not_exist_counts_nothing(engine: Engine) -> None:
    push(engine, b"q", [b"x"])
    counts = engine.statistics(b"unknown")
    assert set(counts) >= OF_A_QUEUE
    assert not any(counts.values())
    assert engine.statistics()["queues"] == 1, "asking is not making"


@pytest.mark.clause("E3")
@pytest.mark.clause("E4")
@pytest.mark.needs("bounded")
def test_use_does_not_wear_the_store_out(case: Case) -> None:
    """Shows if each of these queues and tables leaves 50 bytes behind."""
    engine = case.open(channel_memory=1 << 19, group_memory=1 << 19)
    for turn in range(120):
        names = [b"queue %d of turn %d" % (number, turn) for number in range(150)]
        # Some are never used again, and expire soon.
        batch = [record(engine, name, b"x" * 9, seconds=0.02) for name in names[:30]]
        batch += [record(engine, name, b"x" * n) for n, name in enumerate(names[30:])]
        refused = engine.push(batch)
        assert refused == [], f"in turn {turn}"
        for name in names[30:]:
            engine.put(name, b"m", deadline(engine))
            assert len(engine.pop(name, 2)) == 1
            assert engine.remove(name, b"m")


#: Every method that is called on a closed engine.
CALLS: dict[str, Callable[[Engine], Any]] = {
    "push": lambda engine: engine.push([]),
    "push one": lambda engine: engine.push([record_for_nobody()]),
    "pop": lambda engine: engine.pop(b"q"),
    "peek": lambda engine: engine.peek(b"q"),
    "restore": lambda engine: engine.restore(b"q", Popped(b"x", 1 << 62)),
    "bell": lambda engine: engine.bell(),
    "identity": lambda engine: engine.identity,
    "flushes": lambda engine: engine.flushes,
    "put": lambda engine: engine.put(b"t", b"m", 1 << 62),
    "remove": lambda engine: engine.remove(b"t", b"m"),
    "members": lambda engine: engine.members(b"t"),
    "statistics": lambda engine: engine.statistics(),
    "flush": lambda engine: engine.flush(),
    "destroy": lambda engine: engine.destroy(),
}


def record_for_nobody() -> Any:
    """Return a record, without calling an engine's clock."""
    from asgi_ipc.engines.base import Record

    return Record(b"q", b"x", 1 << 62, 1)


@pytest.mark.clause("E21")
@pytest.mark.parametrize("call", CALLS)
def test_a_closed_engine_refuses_every_call(engine: Engine, call: str) -> None:
    engine.close()
    with pytest.raises(StoreUnavailable):
        CALLS[call](engine)


@pytest.mark.clause("E21")
def test_a_closed_engine_refuses_its_own_bells(engine: Engine) -> None:
    bell = engine.bell()
    engine.close()
    with pytest.raises(StoreUnavailable):
        engine.disarm(b"q", bell)
    with pytest.raises(StoreUnavailable):
        engine.pop(b"q", 1, bell)


@pytest.mark.clause("E21")
def test_closing_twice_is_once(case: Case) -> None:
    engine, other = case.open(), case.open()
    engine.close()
    engine.close()
    push(other, b"q", [b"x"])
    assert pop(other, b"q") == [b"x"]


@pytest.mark.clause("E21")
def test_a_closed_engine_releases_everything(case: Case) -> None:
    """With a bell armed and a record pending; what is left, the fixture sees."""
    for _ in range(10):
        engine = case.open()
        engine.pop(b"q", 1, engine.bell())
        push(engine, b"other", [b"x"])
        engine.close()


@pytest.mark.clause("E21")
def test_the_store_stays_as_long_as_an_engine_has_it_open(case: Case) -> None:
    first = case.open()
    push(first, b"q", [b"x"])
    second = case.open()
    first.close()
    assert pop(second, b"q") == [b"x"]


@pytest.mark.clause("E21")
def test_the_store_outlives_its_last_user_if_the_engine_says_so(case: Case) -> None:
    engine = case.open()
    push(engine, b"q", [b"x"])
    engine.put(b"t", b"m", deadline(engine))
    engine.close()
    engine = case.open()
    survived = case.capabilities.survives_exit
    assert pop(engine, b"q") == ([b"x"] if survived else [])
    assert engine.members(b"t").names == ((b"m",) if survived else ())


@pytest.mark.clause("E22")
def test_a_destroyed_store_starts_empty_when_opened_again(case: Case) -> None:
    engine = case.open()
    push(engine, b"q", [b"x"])
    engine.put(b"t", b"m", deadline(engine))
    engine.destroy()
    with pytest.raises(StoreUnavailable):
        engine.pop(b"q")
    engine.close()
    engine = case.open()
    assert pop(engine, b"q") == []
    assert engine.members(b"t").names == ()
    push(engine, b"q", [b"y"])
    assert pop(engine, b"q") == [b"y"]


@pytest.mark.clause("E22")
def test_engines_of_a_destroyed_store_are_never_split_from_newcomers(case: Case) -> None:
    destroyer, witness = case.open(), case.open()
    push(witness, b"q", [b"old"])
    known = witness.members(b"t")
    destroyer.destroy()
    newcomer = case.open()
    with contextlib.suppress(StoreUnavailable):
        assert pop(witness, b"q") == []
        witness.put(b"t", b"m", deadline(witness))
        push(witness, b"q", [b"new"])
        assert pop(newcomer, b"q") == [b"new"]
        assert newcomer.members(b"t").names == (b"m",)
        assert witness.members(b"t", known).names == (b"m",)
        push(newcomer, b"q", [b"back"])
        assert pop(witness, b"q") == [b"back"]


@pytest.mark.clause("E23")
@pytest.mark.parametrize("option", ["channel_memory", "group_memory"])
@pytest.mark.parametrize("value", [0, -1, "much", None, 1.5])
def test_a_bad_size_is_refused_and_named(case: Case, option: str, value: object) -> None:
    sizes: dict[str, Any] = {"channel_memory": 1 << 20, "group_memory": 1 << 20, option: value}
    with pytest.raises(OptionError, match=option):
        open_engine(case.engine, case.prefix, engine_options=case.options, **sizes)


@pytest.mark.clause("E23")
def test_an_unknown_option_is_refused_and_named(case: Case) -> None:
    with pytest.raises(OptionError, match="no_such_option"):
        open_engine(
            case.engine,
            case.prefix,
            channel_memory=1 << 20,
            group_memory=1 << 20,
            engine_options={**case.options, "no_such_option": 1},
        )


@pytest.mark.clause("E23")
def test_an_engine_declares_all_its_capabilities(case: Case) -> None:
    declared = case.capabilities._asdict()
    seconds = [declared.pop(name) for name in ("outage", "lease")]
    assert all(isinstance(each, bool) for each in declared.values())
    assert all(isinstance(each, (int, float)) and each >= 0 for each in seconds)
    assert len(case.capabilities) == 10
