"""Several real processes on one store, forked ones too: E15, E17, E18, E26; E1 to E13 again."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

# By the full name: in a checkout pytest imports this module by another, and its siblings twice.
from asgi_ipc.conformance.puppet import PuppetError

from asgi_ipc.engines.base import IDENTITY_BYTES, NODE_BYTES
from asgi_ipc.exceptions import StoreUnavailable

from .tools import ENOUGH, deadline, eventually, pop, push, record, signalled

if TYPE_CHECKING:
    from .case import Case

shared: pytest.MarkDecorator = pytest.mark.needs("crosses_processes")


@shared
@pytest.mark.clause("E15")
def test_what_one_process_pushes_another_pops(case: Case) -> None:
    engine, other = case.open(), case.process()
    push(engine, b"q", [b"1", b"\x00\xff" * 50_000])
    assert other.call("pop", b"q", 10) == [b"1", b"\x00\xff" * 50_000]
    assert other.call("push", b"back", [b"2"]) == []
    assert pop(engine, b"back") == [b"2"]
    assert other.call("pop", b"q") == []


@shared
@pytest.mark.clause("E15")
def test_processes_share_capacity_tables_and_statistics(case: Case) -> None:
    engine, other = case.open(), case.process()
    push(engine, b"q", [b"1", b"2"])
    assert other.call("push", b"q", [b"3", b"4"], capacity=3) == [(1, False)]
    other.call("put", b"t", b"theirs")
    engine.put(b"t", b"ours", deadline(engine))
    assert other.call("members", b"t") == [b"ours", b"theirs"]
    assert engine.remove(b"t", b"theirs")
    assert other.call("members", b"t") == [b"ours"]
    ours, theirs = dict(engine.statistics(b"q")), other.call("statistics", b"q")
    assert ours.pop("oldest_age") <= theirs.pop("oldest_age")
    assert ours == theirs
    assert ours["refused"] == 1


@shared
@pytest.mark.clause("E15")
def test_prefixes_are_stores_apart(case: Case) -> None:
    engine = case.open()
    case.prefix += "b"
    try:
        other = case.process()
        other.call("push", b"q", [b"x"])
        assert pop(engine, b"q") == []
        other.call("flush")
        push(engine, b"q", [b"y"])
        other.call("destroy")
    finally:
        case.prefix = case.prefix[:-1]
    assert pop(engine, b"q") == [b"y"]


@shared
@pytest.mark.clause("E15")
def test_processes_that_open_at_once_get_one_store(case: Case) -> None:
    for turn in range(3):
        crowd = [case.process(opened=False) for _ in range(4)]
        for each in crowd:
            each.start("open")
        for each in crowd:
            each.result()
        for number, each in enumerate(crowd):
            assert each.call("push", b"q", [b"%d" % number]) == []
        assert crowd[turn].call("pop", b"q", 10) == [b"0", b"1", b"2", b"3"]
        crowd[0].call("destroy")
        for each in crowd:
            each.end()


@shared
@pytest.mark.clause("E1")
@pytest.mark.clause("E2")
@pytest.mark.clause("E12")
def test_writers_and_readers_in_many_processes_lose_and_double_nothing(case: Case) -> None:
    engine = case.open()
    readers = [case.process() for _ in range(3)]
    writer = case.process()
    for reader in readers:
        reader.start("collect", b"q", b"end")
    for number in range(200):
        writer.start("push", b"q", [b"theirs %04d" % number])
        push(engine, b"q", [b"ours %04d" % number])
        assert writer.result() == []
    push(engine, b"q", [b"end"] * 3)
    found = [reader.result() for reader in readers]
    for each in found:
        for name in (b"ours", b"theirs"):
            mine = [payload for payload in each if payload.startswith(name)]
            assert mine == sorted(mine), "each reader sees each writer's records in order"
    expected = [b"%s %04d" % (name, n) for name in (b"ours", b"theirs") for n in range(200)]
    assert sorted(payload for each in found for payload in each) == expected


@shared
@pytest.mark.clause("E12")
@pytest.mark.needs("wakes")
def test_no_wake_up_between_processes_is_lost(case: Case) -> None:
    engine, other = case.open(), case.process()
    rounds = 300
    other.start("echo", b"there", b"back", rounds)
    bell = engine.bell()
    for number in range(rounds):
        push(engine, b"there", [b"%d" % number])
        while not (found := engine.pop(b"back", 1, bell)):
            assert signalled(bell, ENOUGH), f"no wake-up in round {number}"
        assert found[0].payload == b"%d" % number
    assert other.result() == rounds


@shared
@pytest.mark.clause("E24")
def test_a_peek_sees_what_another_process_has_pushed(case: Case) -> None:
    engine, other = case.open(), case.process()
    for number in range(40):
        engine.peek(b"q")
        assert other.call("push", b"q", [b"%d" % number, b"more"]) == []
        assert engine.peek(b"q") is True
        assert other.call("pop", b"q") == [b"%d" % number]
        assert engine.peek(b"q") is True
        assert pop(engine, b"q") == [b"more"]


@shared
@pytest.mark.clause("E13")
@pytest.mark.needs("wakes")
def test_each_record_wakes_one_of_the_waiting_processes(case: Case) -> None:
    engine = case.open()
    waiters = [case.process() for _ in range(3)]
    for waiter in waiters:
        assert waiter.call("arm", b"q") == []
    for waiter in waiters:
        push(engine, b"q", [b"x"])
        assert waiter.call("heard", ENOUGH) is True
    push(engine, b"q", [b"x"])
    assert [waiter.call("heard", 0.05) for waiter in waiters] == [False] * 3


@shared
@pytest.mark.clause("E13")
@pytest.mark.clause("E26")
@pytest.mark.needs("wakes")
def test_a_push_that_wakes_many_reaches_the_others_if_one_process_is_stopped(case: Case) -> None:
    engine = case.open()
    waiters = [case.process() for _ in range(4)]
    queues = [[b"%d %d" % (each, n) for n in range(3)] for each in range(len(waiters))]
    for waiter, mine in zip(waiters, queues, strict=True):
        for queue in mine:
            assert waiter.call("arm", queue) == []
    os.kill(waiters[0].pid, signal.SIGSTOP)
    try:
        batch = [record(engine, queue, b"x") for mine in queues for queue in mine]
        assert engine.push(batch) == []
        for waiter in waiters[1:]:
            assert waiter.call("heard", ENOUGH) is True
    finally:
        os.kill(waiters[0].pid, signal.SIGCONT)
    assert waiters[0].call("heard", ENOUGH) is True


@shared
@pytest.mark.clause("E11")
def test_a_change_by_another_process_is_not_missed(case: Case) -> None:
    engine, other = case.open(), case.process()
    engine.put(b"t", b"a", deadline(engine))
    known = engine.members(b"t")
    assert engine.members(b"t", known) is known
    other.call("put", b"t", b"b")
    known = engine.members(b"t", known)
    assert sorted(known.names) == [b"a", b"b"]
    other.call("remove", b"t", b"a")
    assert engine.members(b"t", known).names == (b"b",)


@shared
@pytest.mark.clause("E19")
def test_every_process_learns_of_a_flush(case: Case) -> None:
    engine, other = case.open(), case.process()
    push(engine, b"q", [b"x"])
    engine.put(b"t", b"m", deadline(engine))
    ours, theirs = engine.flushes, other.call("flushes")
    other.call("flush")
    assert other.call("flushes") > theirs, "at once where it was made"
    assert pop(engine, b"q") == []
    assert eventually(lambda: engine.flushes > ours)
    assert engine.members(b"t").names == ()


@shared
@pytest.mark.clause("E22")
def test_processes_leave_a_store_destroyed_by_another_together(case: Case) -> None:
    engine, other, third = case.open(), case.process(), case.process()
    push(engine, b"q", [b"old"])
    other.call("destroy")
    assert case.open().pop(b"q") == []
    for each in (third.call, case.process().call):
        try:
            each("push", b"q", [b"new"])
        except PuppetError as error:
            if not str(error).startswith("StoreUnavailable"):
                raise
        else:
            assert case.open().pop(b"q")[0].payload == b"new"


@pytest.mark.clause("E21")
def test_the_store_outlives_the_process_that_made_it_if_the_engine_says_so(case: Case) -> None:
    first = case.process()
    first.call("push", b"q", [b"x"])
    first.end()
    second = case.process()
    assert second.call("pop", b"q") == ([b"x"] if case.capabilities.survives_exit else [])


@pytest.mark.clause("E17")
def test_every_process_has_an_identity_of_its_own(case: Case) -> None:
    engine, other, third = case.open(), case.process(), case.process()
    identities = [engine.identity, other.call("identity"), third.call("identity")]
    assert all(len(identity) == IDENTITY_BYTES for identity in identities)
    assert len(set(identities)) == 3
    assert engine.identity == identities[0], "it lasts"
    assert other.call("identity") == identities[1]


@shared
@pytest.mark.clause("E17")
def test_all_identities_in_a_store_begin_with_the_same_bytes(case: Case) -> None:
    engine, other = case.open(), case.process()
    identities = [engine.identity, other.call("identity")]
    answers = other.call("forked", [("identity", ())])
    identities += [answer for kind, answer in answers if kind == "ok"]
    assert len(identities) == 3
    assert len({identity[:NODE_BYTES] for identity in identities}) == 1


@shared
@pytest.mark.clause("E17")
def test_an_identity_lasts_although_the_store_is_replaced(case: Case) -> None:
    engine, other = case.open(), case.process()
    before, others = engine.identity, other.call("identity")
    third = case.process()
    third.call("destroy")
    goes_on = True
    try:
        engine.push([])
    except StoreUnavailable:  # E22 lets it.
        goes_on = False
    assert engine.identity == before
    assert other.call("identity") == others
    if goes_on:
        assert case.process().call("identity")[:NODE_BYTES] == before[:NODE_BYTES]


@pytest.mark.clause("E17")
def test_an_identity_is_never_used_again(case: Case) -> None:
    seen = set()
    for _ in range(5):
        engine = case.open()
        seen.add(engine.identity)
        engine.close()
    assert len(seen) == 5


@pytest.mark.clause("E17")
@pytest.mark.clause("E18")
def test_a_forked_child_has_an_identity_of_its_own(case: Case) -> None:
    parent = case.process()
    ours = parent.call("identity")
    answers = parent.call("forked", [("identity", ()), ("identity", ())])
    assert [kind for kind, _ in answers] == ["ok", "ok"]
    theirs = answers[0][1]
    assert len(theirs) == IDENTITY_BYTES
    assert theirs != ours
    assert answers[1][1] == theirs
    assert parent.call("identity") == ours


@pytest.mark.clause("E18")
def test_every_method_works_in_a_forked_child(case: Case) -> None:
    parent = case.process()
    parent.call("push", b"q", [b"parent's"])
    parent.call("arm", b"waited for")
    answers = parent.call(
        "forked",
        [
            ("push", (b"mine", [b"1", b"2"])),
            ("pop", (b"mine", 1)),
            ("arm", (b"nothing",)),
            ("put", (b"t", b"m")),
            ("members", (b"t",)),
            ("remove", (b"t", b"m")),
            ("statistics", ()),
            ("flushes", ()),
            ("close", ()),
        ],
    )
    assert [kind for kind, _ in answers] == ["ok"] * 9, answers
    assert answers[1][1] == [b"1"]
    assert answers[4][1] == [b"m"]
    # The parent has lost nothing.
    assert parent.call("pop", b"q") == [b"parent's"]
    expected = [b"2"] if case.capabilities.crosses_processes else []
    assert parent.call("pop", b"mine") == expected


@shared
@pytest.mark.clause("E18")
@pytest.mark.needs("wakes")
def test_a_forked_child_does_not_wait_on_its_parents_bell(case: Case) -> None:
    engine, parent = case.open(), case.process()
    parent.call("arm", b"q")
    parent.call("forked", [("pop", (b"q",)), ("close", ())])
    push(engine, b"q", [b"x"])
    assert parent.call("heard", ENOUGH) is True


@pytest.mark.clause("E18")
def test_a_fork_while_a_thread_is_inside_the_store_harms_neither(case: Case) -> None:
    parent = case.process()
    times = 25
    assert parent.call("fork_under_fire", b"q", times) == times
    expected = [b"%d" % number for number in range(times)]
    found = parent.call("pop", b"q", 100)
    assert found == (expected if case.capabilities.crosses_processes else [])


@shared
@pytest.mark.clause("E18")
@pytest.mark.clause("E21")
def test_a_forked_child_that_closes_does_not_close_its_parents_engine(case: Case) -> None:
    """A close of the lock file drops record locks; the parent must keep its slot."""
    engine, parent = case.open(), case.process()
    parent.call("put", b"t", b"m", owner=parent.call("identity"))
    parent.call("forked", [("pop", (b"q",)), ("close", ())])
    assert not eventually(lambda: engine.members(b"t").names == (), 1.5)
    assert parent.call("members", b"t") == [b"m"]
