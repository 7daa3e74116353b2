"""Queues of records: E1 to E7."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from asgi_ipc.engines.base import MAX_NAME, MAX_PAYLOAD, Popped, Refused

from .tools import ENOUGH, CheckedThread, in_time, let_pass, pop, push, record, signalled

if TYPE_CHECKING:
    from asgi_ipc.engines.base import Engine

    from .case import Case

#: Around each size at which an allocator, a length field or a pipe may behave differently.
SIZES = sorted(
    {0, 1, 1_000_003, MAX_PAYLOAD}
    | {(1 << bits) + off for bits in (3, 4, 5, 6, 7, 8, 12, 16, 20) for off in (-1, 0, 1)}
)


@pytest.mark.clause("E1")
def test_a_record_is_popped_once(engine: Engine) -> None:
    push(engine, b"q", [b"only"])
    assert pop(engine, b"q", 1) == [b"only"]
    assert pop(engine, b"q", 1) == []
    assert pop(engine, b"q", 10) == []


@pytest.mark.clause("E1")
def test_an_unknown_queue_is_empty(engine: Engine) -> None:
    assert engine.pop(b"never used") == []


@pytest.mark.clause("E1")
@pytest.mark.clause("E18")
@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("shared", [True, False], ids=["one engine", "an engine each"])
def test_threads_that_push_and_pop_share_the_records_out(case: Case, shared: bool) -> None:
    first = case.open()
    engines = [first if shared else case.open() for _ in range(4)]
    taken: list[list[bytes]] = [[] for _ in engines]
    pushed = threading.Event()
    start = threading.Barrier(6)
    # Enough for the readers to compete.
    push(first, b"q", [b"0:%d" % number for number in range(3000)])

    def write(engine: Engine, name: int) -> None:
        start.wait()
        for number in range(100):
            push(engine, b"q", [b"%d:%d" % (name, number)])

    def read(engine: Engine, mine: list[bytes]) -> None:
        start.wait()
        while True:
            over = pushed.is_set()  # Before the last look, not after it.
            found = pop(engine, b"q", 3)
            mine.extend(found)
            if over and not found:
                return

    writers = [CheckedThread(write, engines[n], n) for n in (1, 2)]
    readers = [CheckedThread(read, engines[n], taken[n]) for n in range(4)]
    for thread in (*readers, *writers):
        thread.start()
    try:
        for thread in writers:
            thread.join()
    finally:
        pushed.set()
    for thread in readers:
        thread.join()
    everything = sorted(payload for mine in taken for payload in mine)
    expected = [
        b"%d:%d" % (name, n) for name, last in ((0, 3000), (1, 100), (2, 100)) for n in range(last)
    ]
    assert everything == sorted(expected)


@pytest.mark.clause("E2")
@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_records_come_in_the_order_of_pushing(engine: Engine, limit: int) -> None:
    expected = [b"%d" % number for number in range(60)]
    push(engine, b"q", expected[:20])
    for payload in expected[20:40]:
        push(engine, b"q", [payload])
    found = pop(engine, b"q", limit)
    push(engine, b"q", expected[40:])
    while more := pop(engine, b"q", limit):
        assert len(more) <= limit
        found += more
    assert found == expected


@pytest.mark.clause("E2")
def test_records_of_several_queues_in_one_batch_keep_their_order(engine: Engine) -> None:
    engine.push([record(engine, b"ab"[n % 2 : n % 2 + 1], b"%d" % n) for n in range(10)])
    assert pop(engine, b"a") == [b"0", b"2", b"4", b"6", b"8"]
    assert pop(engine, b"b") == [b"1", b"3", b"5", b"7", b"9"]


@pytest.mark.clause("E2")
def test_large_and_small_records_of_one_batch_keep_their_order(engine: Engine) -> None:
    payloads = [b"x" * size for size in (70_000, 1, 5000, 0, 300, 1_000_000, 40, 9000, 2)]
    push(engine, b"q", payloads)
    assert [len(each) for each in pop(engine, b"q")] == [len(each) for each in payloads]


@pytest.mark.clause("E3")
def test_a_queue_without_a_count_takes_what_there_is_room_for(engine: Engine) -> None:
    push(engine, b"q", [b"%d" % number for number in range(300)], capacity=2**63 - 1)
    assert pop(engine, b"q") == [b"%d" % number for number in range(300)]


@pytest.mark.clause("E3")
def test_a_push_over_capacity_is_refused_and_says_so(engine: Engine) -> None:
    push(engine, b"q", [b"1", b"2"], capacity=2)
    refused = engine.push([record(engine, b"q", b"3", capacity=2)])
    assert [(each.position, each.no_room) for each in refused] == [(0, False)]
    assert refused[0].detail
    assert pop(engine, b"q") == [b"1", b"2"]


@pytest.mark.clause("E3")
def test_capacity_is_that_of_the_record_being_pushed(engine: Engine) -> None:
    push(engine, b"q", [b"1", b"2", b"3"], capacity=3)
    assert engine.push([record(engine, b"q", b"x", capacity=3)])
    push(engine, b"q", [b"4"], capacity=4)
    assert engine.push([record(engine, b"q", b"x", capacity=1)])
    assert engine.push([record(engine, b"fresh", b"x", capacity=0)])
    assert pop(engine, b"q") == [b"1", b"2", b"3", b"4"]


@pytest.mark.clause("E3")
def test_a_pop_makes_room_for_one_more(engine: Engine) -> None:
    push(engine, b"q", [b"1", b"2"], capacity=2)
    assert pop(engine, b"q", 1) == [b"1"]
    push(engine, b"q", [b"3"], capacity=2)
    assert engine.push([record(engine, b"q", b"4", capacity=2)])
    assert pop(engine, b"q") == [b"2", b"3"]


@pytest.mark.clause("E3")
def test_the_others_of_a_batch_are_stored_in_their_order(engine: Engine) -> None:
    push(engine, b"full", [b"0"])
    refused = engine.push(
        [
            record(engine, b"q", b"1", capacity=2),
            record(engine, b"full", b"x", capacity=1),
            record(engine, b"q", b"2", capacity=2),
            record(engine, b"q", b"y", capacity=2),
            record(engine, b"other", b"3"),
        ]
    )
    assert [(each.position, each.no_room) for each in refused] == [(1, False), (3, False)]
    assert engine.push([]) == []
    assert pop(engine, b"q") == [b"1", b"2"]
    assert pop(engine, b"full") == [b"0"]
    assert pop(engine, b"other") == [b"3"]


@pytest.mark.clause("E3")
@pytest.mark.needs("bounded")
def test_a_full_store_refuses_and_takes_more_after_a_pop(case: Case) -> None:
    engine = case.open(channel_memory=1 << 20)
    accepted = 0
    while not (refused := engine.push([record(engine, b"%d" % (accepted % 7), b"x" * 10_000)])):
        accepted += 1
        assert accepted * 10_000 <= 3 << 20, "three times its memory, and still not full"
    assert [(each.position, each.no_room) for each in refused] == [(0, True)]
    assert refused[0].detail
    # Half of it is a generous allowance for an engine's own needs.
    assert accepted * 10_000 >= 1 << 19
    assert len(pop(engine, b"0", 1)) == 1
    push(engine, b"q", [b"y" * 10_000])
    assert pop(engine, b"q") == [b"y" * 10_000]


@pytest.mark.clause("E3")
@pytest.mark.needs("bounded")
def test_a_record_without_room_does_not_keep_the_others_out(case: Case) -> None:
    engine = case.open(channel_memory=1 << 20)
    batch = [b"before", b"x" * (2 << 20), b"after"]
    refused = engine.push([record(engine, b"q", payload) for payload in batch])
    assert [(each.position, each.no_room) for each in refused] == [(1, True)]
    assert pop(engine, b"q") == [b"before", b"after"]


@pytest.mark.clause("E4")
def test_the_clock_counts_nanoseconds_and_never_goes_back(case: Case) -> None:
    """All engines of a store must agree: one of them compares a deadline that another set.

    Where a server compares, each reckons the server's time from the last answer that it had.
    """
    engine, other = case.open(), case.open()
    began, start = time.monotonic_ns(), engine.clock()
    readings = [start]
    while time.monotonic_ns() < began + 100_000_000:
        readings += [engine.clock(), other.clock()]
        time.sleep(0.005)
    after, end = time.monotonic_ns(), engine.clock()
    for one in (readings[1::2], readings[2::2]):
        assert one == sorted(one)
    assert case.capabilities.blocking or readings == sorted(readings)
    # One of the two spans contains the other, however slow the machine is.
    assert 0.9 * (after - began) <= end - start + 5_000_000
    assert end - start <= 1.1 * (time.monotonic_ns() - began) + 5_000_000


@pytest.mark.clause("E4")
def test_a_record_past_its_deadline_is_not_popped(engine: Engine) -> None:
    push(engine, b"q", [b"dying"], seconds=0.03)
    push(engine, b"q", [b"stillborn"], seconds=-1)
    assert pop(engine, b"stillborn") == []
    let_pass(engine, 0.05)
    assert pop(engine, b"q") == []
    push(engine, b"q", [b"alive"])
    assert pop(engine, b"q") == [b"alive"]


@pytest.mark.clause("E4")
@pytest.mark.clause("E2")
def test_dead_records_among_live_ones_are_passed_over(engine: Engine) -> None:
    for number in range(20):
        push(engine, b"q", [b"%d" % number], seconds=0.03 if number % 3 else 600)
    let_pass(engine, 0.05)
    assert pop(engine, b"q", 2) == [b"0", b"3"]
    assert pop(engine, b"q", 100) == [b"6", b"9", b"12", b"15", b"18"]


@pytest.mark.clause("E4")
def test_a_dead_record_does_not_count_against_capacity(engine: Engine) -> None:
    def fill(death: int) -> list[Refused]:
        push(engine, b"q", [b"alive"], capacity=3)
        dead = record(engine, b"q", b"dead", capacity=3)._replace(deadline=death)
        assert engine.push([dead, dead]) == []
        return engine.push([record(engine, b"q", b"early", capacity=3)])

    assert in_time(engine, fill)
    push(engine, b"q", [b"1", b"2"], capacity=3)
    assert engine.push([record(engine, b"q", b"late", capacity=3)])
    assert pop(engine, b"q") == [b"alive", b"1", b"2"]


@pytest.mark.clause("E4")
@pytest.mark.needs("bounded")
@pytest.mark.parametrize("queues", [1, 50])
def test_dead_records_make_room_before_any_is_refused(case: Case, queues: int) -> None:
    engine = case.open(channel_memory=1 << 20)

    def fill(death: int) -> bool:
        # Alternating lifetimes, so that there is room only if expired records are found anywhere.
        kept = engine.clock() + 10**12
        for count in range(3000):
            name = b"%d" % (count % queues)
            until = kept if count < 50 else death
            if engine.push([record(engine, name, b"x" * 1000)._replace(deadline=until)]):
                return True
        return False

    assert in_time(engine, fill, 4 if engine.capabilities.blocking else 0.8), "it is never full"
    # No call has looked at the old queues since.
    push(engine, b"new", [b"y" * (1 << 18)])
    push(engine, b"new", [b"z" * 1000] * 300)
    assert len(pop(engine, b"new")) == 301
    assert sum(len(pop(engine, b"%d" % name)) for name in range(queues)) == 50


@pytest.mark.clause("E5")
def test_a_payload_comes_back_byte_for_byte(engine: Engine) -> None:
    for size in SIZES:
        payload = random.Random(size).randbytes(size)
        push(engine, b"q", [payload])
        assert engine.pop(b"q")[0].payload == payload, f"of {size} bytes"


@pytest.mark.clause("E5")
def test_payloads_of_mixed_sizes_do_not_disturb_each_other(engine: Engine) -> None:
    dice = random.Random(5)
    expected: list[bytes] = []
    for _ in range(300):
        if dice.random() < 0.6:
            payload = dice.randbytes(dice.choice([0, 3, 40, 700, 9000, 70_000]))
            push(engine, b"q", [payload])
            expected.append(payload)
        else:
            assert pop(engine, b"q", 2) == expected[:2]
            del expected[:2]
    assert pop(engine, b"q") == expected


@pytest.mark.clause("E5")
def test_a_popped_record_tells_its_deadline(engine: Engine) -> None:
    one = record(engine, b"q", b"x")
    engine.push([one])
    assert engine.pop(b"q") == [Popped(b"x", one.deadline)]


@pytest.mark.clause("E5")
def test_any_name_of_1_to_255_bytes_works(engine: Engine) -> None:
    names = [bytes([byte]) * length for byte in (0, 47, 255) for length in range(1, MAX_NAME + 1)]
    names += [bytes([byte]) for byte in range(256) if byte not in (0, 47, 255)]
    names += [b"x" * (MAX_NAME - 1) + bytes([byte]) for byte in range(256)]
    assert engine.push([record(engine, name, name) for name in names]) == []
    for name in names:
        assert pop(engine, name) == [name]


@pytest.mark.clause("E5")
@pytest.mark.parametrize(
    ("name", "size"),
    [(b"", 1), (b"x" * (MAX_NAME + 1), 1), (b"q", MAX_PAYLOAD + 1)],
    ids=["no name", "long name", "large payload"],
)
def test_what_is_over_the_limits_is_refused_with_all_of_its_batch(
    engine: Engine, name: bytes, size: int
) -> None:
    batch = [record(engine, b"q", b"before"), record(engine, name, b"x" * size)]
    with pytest.raises(ValueError, match=r"\d"):
        engine.push([*batch, record(engine, b"q", b"after")])
    assert pop(engine, b"q") == []
    assert engine.statistics()["pushed"] == 0


@pytest.mark.clause("E6")
def test_a_restored_record_is_the_next_to_be_popped(engine: Engine) -> None:
    push(engine, b"q", [b"1", b"2", b"3", b"4"])
    first, second = engine.pop(b"q", 2)
    engine.restore(b"q", second)
    engine.restore(b"q", first)
    assert engine.pop(b"q", 1) == [first]
    assert pop(engine, b"q") == [b"2", b"3", b"4"]


@pytest.mark.clause("E6")
def test_restoring_takes_no_heed_of_capacity(engine: Engine) -> None:
    push(engine, b"q", [b"1"], capacity=1)
    (taken,) = engine.pop(b"q")
    push(engine, b"q", [b"2"], capacity=1)
    engine.restore(b"q", taken)
    assert engine.push([record(engine, b"q", b"x", capacity=2)])
    assert pop(engine, b"q") == [b"1", b"2"]


@pytest.mark.clause("E6")
@pytest.mark.clause("E4")
def test_a_record_that_died_meanwhile_is_not_brought_back_to_life(engine: Engine) -> None:
    def take(death: int) -> list[Popped]:
        assert engine.push([record(engine, b"q", b"dying")._replace(deadline=death)]) == []
        return engine.pop(b"q")

    (taken,) = in_time(engine, take)
    engine.restore(b"q", taken)
    assert pop(engine, b"q") == []


@pytest.mark.clause("E6")
@pytest.mark.needs("wakes")
def test_restoring_signals_a_waiting_receiver(engine: Engine) -> None:
    push(engine, b"q", [b"1"])
    (taken,) = engine.pop(b"q")
    bell = engine.bell()
    assert engine.pop(b"q", 1, bell) == []
    engine.restore(b"q", taken)
    assert signalled(bell, ENOUGH)
    assert pop(engine, b"q") == [b"1"]


@pytest.mark.clause("E7")
def test_a_full_queue_refuses_nothing_of_another(engine: Engine) -> None:
    push(engine, b"q", [b"x"], capacity=1)
    assert engine.push([record(engine, b"q", b"y", capacity=1)])
    push(engine, b"q2", [b"1"], capacity=1)
    push(engine, b"Q", [b"2"], capacity=1)
    assert pop(engine, b"q2") == [b"1"]
    assert pop(engine, b"Q") == [b"2"]
    assert pop(engine, b"q") == [b"x"]


@pytest.mark.clause("E7")
@pytest.mark.needs("bounded")
def test_one_queue_leaves_room_for_others(case: Case) -> None:
    engine = case.open(channel_memory=4 << 20)
    took = 0
    while not (refused := engine.push([record(engine, b"greedy", b"x" * 10_000)])):
        took += 10_000
        assert took <= 7 * (4 << 20) // 8, "more than seven eighths"
    assert refused[0].no_room
    assert refused[0].over_share
    assert refused[0].detail
    # Half of it is a generous allowance for an engine's own needs.
    assert took >= 1 << 21
    push(engine, b"modest", [b"x" * 10_000] * 2)
    push(engine, b"other", [b"x" * 10_000])
    # What others took reduces its limit sevenfold; popped records may be pushed again.
    assert engine.push([record(engine, b"greedy", b"x" * 10_000)])
    pop(engine, b"greedy", took // 20_000)
    push(engine, b"greedy", [b"x" * 10_000])


@pytest.mark.clause("E7")
@pytest.mark.needs("bounded")
def test_one_record_may_be_nearly_as_large_as_a_share(case: Case) -> None:
    engine = case.open(channel_memory=4 << 20)
    # The rest is an allowance for an engine's own needs.
    payload = b"x" * 3_400_000
    push(engine, b"q", [payload])
    assert engine.push([record(engine, b"q", b"x" * 400_000)])[0].no_room
    assert pop(engine, b"q") == [payload]


@pytest.mark.clause("E4")
@pytest.mark.clause("E7")
@pytest.mark.needs("bounded")
def test_dead_records_count_against_no_share(case: Case) -> None:
    engine = case.open(channel_memory=1 << 20)
    push(engine, b"q", [b"x" * 100_000] * 6, seconds=0.05)
    let_pass(engine, 0.06)
    push(engine, b"q", [b"y" * 100_000] * 6)


@pytest.mark.clause("E7")
def test_many_queues_each_keep_their_own(engine: Engine) -> None:
    names = [b"queue %d" % number for number in range(2000)]
    for turn in range(2):
        engine.push([record(engine, name, b"%d " % turn + name) for name in names])
    for name in reversed(names):
        assert pop(engine, name) == [b"0 " + name, b"1 " + name]


@pytest.mark.clause("E24")
def test_a_peek_sees_every_record_that_a_pop_would_get(engine: Engine, case: Case) -> None:
    other = case.open()
    # An engine may store a queue differently after some use.
    for number in range(60):
        for pusher, queue in ((engine, b"a"), (other, b"b")):
            push(pusher, queue, [b"%d" % number] * 3)
            for left in (3, 2, 1):
                assert engine.peek(queue) is True
                assert other.peek(queue) is True
                assert pop(engine if left % 2 else other, queue, 1) == [b"%d" % number]
            engine.peek(queue)


@pytest.mark.clause("E24")
def test_a_peek_sees_what_was_restored_and_what_came_after_a_flush(engine: Engine) -> None:
    for _ in range(40):
        push(engine, b"q", [b"1"])
        (popped,) = engine.pop(b"q")
        engine.restore(b"q", popped)
        assert engine.peek(b"q") is True
        engine.flush()
        engine.peek(b"q")
        push(engine, b"q", [b"2"])
        assert engine.peek(b"q") is True
        assert pop(engine, b"q") == [b"2"]
