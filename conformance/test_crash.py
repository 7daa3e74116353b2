"""Processes killed without warning, at random instants: E16, and the owners of E17."""

from __future__ import annotations

import random
import secrets
import time
from typing import TYPE_CHECKING

import pytest

from asgi_ipc.engines.base import IDENTITY_BYTES

from .tools import ENOUGH, MANY, deadline, eventually, patient, pop, push, record, signalled

if TYPE_CHECKING:
    from asgi_ipc.engines.base import Engine

    from .case import Case
    from .puppet import Puppet

pytestmark: pytest.MarkDecorator = pytest.mark.needs("crosses_processes")

#: How often each loop is killed: more kills find more, but the suite must stay fast.
KILLS = 6


def wait_a_bit() -> None:
    """Sleep for a random time, so that the kill hits another instruction each time."""
    time.sleep(random.random() * 0.03)


def killed(case: Case, engine: Engine, process: Puppet) -> list[str]:
    """Kill a process, and return what it had printed.

    The last call of a killed process may still be on its way to a server: wait until nothing moves.
    """
    lines = process.kill()
    seen, quiet, until = list[int](), 0, time.monotonic() + patient(ENOUGH)
    while case.capabilities.blocking and quiet < 3 and time.monotonic() < until:
        time.sleep(0.05)
        counts = engine.statistics()
        before, seen = seen, [counts[name] for name in ("pushed", "popped", "members")]
        quiet = quiet + 1 if seen == before else 0
    return lines


def agrees(engine: Engine) -> None:
    """Fail unless each pushed record is counted exactly once."""
    counts = engine.statistics()
    gone = counts["popped"] + counts["expired"] + counts["orphaned"] + counts["pending"]
    assert counts["pushed"] == gone, counts


@pytest.mark.clause("E16")
@pytest.mark.parametrize("size", [20, 100_000])
def test_a_writer_killed_in_a_push_loses_no_record_and_blocks_no_process(
    case: Case, size: int
) -> None:
    engine = case.open()
    for _ in range(KILLS):
        writer = case.process()
        writer.start("push_forever", b"q", size)
        assert writer.line() == "0"
        wait_a_bit()
        told = [0, *map(int, killed(case, engine, writer))]
        found = pop(engine, b"q", MANY)
        assert all(payload == b"%08d" % n + b"x" * size for n, payload in enumerate(found))
        # The last one may have been pushed without being printed.
        assert len(told) <= len(found) <= len(told) + 1
        agrees(engine)
        push(engine, b"q", [b"next"])
        assert pop(engine, b"q") == [b"next"]


@pytest.mark.clause("E16")
def test_a_reader_killed_in_a_pop_loses_one_record_at_most(case: Case) -> None:
    engine = case.open()
    for _ in range(KILLS):
        total = 3000
        push(engine, b"q", [b"%08d" % number for number in range(total)])
        reader = case.process()
        reader.start("pop_forever", b"q")
        assert reader.line() == "0"
        wait_a_bit()
        taken = [0, *map(int, killed(case, engine, reader))]
        left = [int(payload) for payload in pop(engine, b"q", MANY)]
        assert taken == list(range(len(taken)))
        assert left == list(range(left[0] if left else total, total)), "the rest, in order"
        assert total - len(left) - len(taken) in (0, 1)
        agrees(engine)


@pytest.mark.clause("E16")
def test_a_process_killed_in_a_table_leaves_it_whole(case: Case) -> None:
    engine = case.open()
    for _ in range(KILLS):
        writer = case.process()
        writer.start("put_forever", b"t")
        assert writer.line() == "+0"
        wait_a_bit()
        expected = {0}
        for line in killed(case, engine, writer):
            (expected.add if line[0] == "+" else expected.discard)(int(line[1:]))
        found = [int(member) for member in engine.members(b"t").names]
        assert len(found) == len(set(found))
        # One step may be done without being printed: it adds the next, or removes the last.
        assert len(expected ^ set(found)) <= 1
        assert engine.statistics()["members"] == len(found)
        engine.put(b"t", b"next", deadline(engine))
        for member in engine.members(b"t").names:
            assert engine.remove(b"t", member)
        assert engine.members(b"t").names == ()


@pytest.mark.clause("E16")
def test_others_go_on_while_processes_are_killed(case: Case) -> None:
    engine, partner = case.open(), case.process()
    victims = [case.process() for _ in range(6)]
    partner.start("collect", b"mail", b"end")
    sent = 0
    for number, victim in enumerate(victims):
        victim.start(*(("push_forever", b"q", 5000), ("pop_forever", b"q"))[number % 2])
        until = time.monotonic() + 0.02 + random.random() * 0.03
        while time.monotonic() < until:
            push(engine, b"mail", [b"%d" % sent])
            sent += 1
        victim.kill()
    push(engine, b"mail", [b"end"])
    assert partner.result() == [b"%d" % number for number in range(sent)]
    pop(engine, b"q", MANY)
    agrees(engine)


@pytest.mark.clause("E16")
@pytest.mark.clause("E23")
def test_a_process_killed_while_it_makes_or_removes_the_store_blocks_no_other(case: Case) -> None:
    for _ in range(KILLS):
        maker = case.process(opened=False)
        maker.start("open_forever")
        assert maker.line() == "open"
        wait_a_bit()
        maker.kill()
        engine = case.open()
        assert set(pop(engine, b"q")) <= {b"x"}
        push(engine, b"q", [b"y"])
        assert pop(engine, b"q") == [b"y"]
        engine.close()


@pytest.mark.clause("E16")
def test_kills_leak_nothing(case: Case) -> None:
    engine = case.open(channel_memory=1 << 20, group_memory=1 << 18)
    used = []
    for _ in range(KILLS):
        victim = case.process()
        victim.call("put", b"t", b"m", owner=victim.call("identity"))
        victim.call("arm", b"never pushed to")
        victim.start("push_forever", b"q", 20)
        victim.line()
        wait_a_bit()
        killed(case, engine, victim)
        engine.flush()
        used.append(engine.statistics()["bytes_used"])
    assert used[-1] <= max(used[:3])


@pytest.mark.clause("E13")
@pytest.mark.clause("E16")
@pytest.mark.needs("wakes")
def test_a_waiting_process_that_was_killed_is_passed_over(case: Case) -> None:
    engine = case.open()
    victims = [case.process() for _ in range(3)]
    for victim in victims:
        victim.call("arm", b"q")
    bell = engine.bell()
    assert engine.pop(b"q", 1, bell) == []
    for victim in victims:
        victim.kill()
    push(engine, b"q", [b"x"])
    assert signalled(bell, ENOUGH)


@pytest.mark.clause("E13")
@pytest.mark.needs("wakes")
def test_a_waiting_process_that_ended_without_closing_is_passed_over(case: Case) -> None:
    engine, leaver = case.open(), case.process()
    leaver.call("arm", b"q")
    bell = engine.bell()
    assert engine.pop(b"q", 1, bell) == []
    leaver.end()
    push(engine, b"q", [b"x"])
    assert signalled(bell, ENOUGH)


@pytest.mark.clause("E17")
@pytest.mark.needs("owners")
@pytest.mark.parametrize("way", ["kill", "end", "close"])
def test_what_a_process_owned_is_removed_with_it(case: Case, way: str) -> None:
    engine, owner, stranger = case.open(), case.process(), case.process()
    identity = owner.call("identity")
    engine.put(b"t", b"theirs", deadline(engine), identity)
    engine.put(b"t", b"stranger's", deadline(engine), stranger.call("identity"))
    engine.put(b"t", b"ours", deadline(engine), engine.identity)
    engine.put(b"t", b"nobody's", deadline(engine))
    batch = [record(engine, b"theirs", b"%d" % n, owner=identity) for n in range(3)]
    batch.append(record(engine, b"nobody's", b"x"))
    assert engine.push(batch) == []
    assert len(engine.members(b"t").names) == 4
    assert engine.statistics(b"theirs")["pending"] == 3
    if way == "close":
        owner.call("close")
    else:
        getattr(owner, way)()
    kept = [b"nobody's", b"ours", b"stranger's"]
    # It is enough that another process uses the store.
    assert eventually(lambda: stranger.call("members", b"t") == kept)
    assert eventually(lambda: stranger.call("statistics")["pending"] == 1)
    assert sorted(engine.members(b"t").names) == kept
    assert pop(engine, b"theirs") == []
    assert pop(engine, b"nobody's") == [b"x"]
    assert engine.statistics()["orphaned"] == 3
    agrees(engine)


@pytest.mark.clause("E17")
@pytest.mark.clause("E11")
@pytest.mark.needs("owners")
def test_a_death_is_a_change_of_the_table(case: Case) -> None:
    engine, owner = case.open(), case.process()
    engine.put(b"t", b"theirs", deadline(engine), owner.call("identity"))
    known = engine.members(b"t")
    owner.kill()
    assert eventually(lambda: engine.members(b"t", known).names == ())


@pytest.mark.clause("E8")
@pytest.mark.clause("E17")
@pytest.mark.needs("owners")
def test_a_second_put_renews_the_owner(case: Case) -> None:
    engine, owner = case.open(), case.process()
    identity = owner.call("identity")
    engine.put(b"t", b"given up", deadline(engine), identity)
    engine.put(b"t", b"given up", deadline(engine))
    engine.put(b"t", b"taken over", deadline(engine))
    engine.put(b"t", b"taken over", deadline(engine), identity)
    owner.kill()
    assert eventually(lambda: engine.members(b"t").names == (b"given up",))


@pytest.mark.clause("E17")
@pytest.mark.needs("owners")
def test_an_owner_that_was_never_seen_counts_as_none(case: Case) -> None:
    engine, witness = case.open(), case.process()
    engine.put(b"t", b"m", deadline(engine), secrets.token_bytes(IDENTITY_BYTES))
    owner = secrets.token_bytes(IDENTITY_BYTES)
    assert engine.push([record(engine, b"q", b"x", owner=owner)]) == []
    assert not eventually(lambda: witness.call("members", b"t") == [], 1.5)
    assert pop(engine, b"q") == [b"x"]


@pytest.mark.clause("E17")
@pytest.mark.clause("E21")
@pytest.mark.needs("owners")
def test_closing_one_of_two_engines_is_not_the_end_of_the_process(case: Case) -> None:
    """The kernel drops a record lock when the process closes any descriptor of the file."""
    closed, kept, witness = case.open(), case.open(), case.process()
    kept.put(b"t", b"m", deadline(kept), kept.identity)
    closed.close()
    assert not eventually(lambda: witness.call("members", b"t") == [], 1.5)
    assert kept.members(b"t").names == (b"m",)
