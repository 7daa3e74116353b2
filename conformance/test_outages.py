"""Engines that ask a server: what the network does to them, and stopped processes: E33, E34.

They run with ``--engine-proxy OPTION``, which names the engine option that has HOST:PORT of the
server. Give the engine a short timeout too, if it has such an option: each test that stops the
network waits for it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from asgi_ipc.exceptions import OutcomeUnknown, StoreUnavailable

from .case import in_loop
from .tools import ENOUGH, CheckedThread, eventually, patient, pop, push, record, signalled

if TYPE_CHECKING:
    from collections.abc import Callable

    from asgi_ipc.engines.base import Engine

    from .case import Case
    from .wires.proxy import ProxyProcess

asks_a_server: pytest.MarkDecorator = pytest.mark.needs("blocking")


def push_through(engine: Engine, numbers: range, acknowledged: list[bytes]) -> None:
    """Push numbers; repeat what certainly failed, and nothing of which the outcome is unknown."""
    until = time.monotonic() + patient(ENOUGH)
    for number in numbers:
        payload = b"%d" % number
        while True:
            assert time.monotonic() < until, "the engine does not find its server again"
            try:
                assert engine.push([record(engine, b"q", payload)]) == []
                acknowledged.append(payload)
                break
            except OutcomeUnknown:
                break
            except StoreUnavailable:
                time.sleep(0.01)


def pop_all(engine: Engine) -> list[bytes]:
    """Pop all records, from a server that is there."""
    found: list[list[bytes]] = []

    def popped() -> bool:
        try:
            found.append(pop(engine, b"q", 10_000))
        except StoreUnavailable:
            return False
        return found[-1] == []

    assert eventually(popped)
    return [payload for batch in found for payload in batch]


@asks_a_server
@pytest.mark.clause("E33")
def test_no_record_comes_twice_and_none_that_was_stored_is_lost(
    case: Case, network: ProxyProcess
) -> None:
    engine, acknowledged, done = case.open(), list[bytes](), list[bool]()

    def disturb() -> None:
        dice = random.Random(1)
        while not done:
            time.sleep(dice.random() / 50)
            network.order("cut")

    thread = CheckedThread(disturb)
    thread.start()
    try:
        push_through(engine, range(400), acknowledged)
    finally:
        done.append(True)
        thread.join()
    found = pop_all(engine)
    assert len(set(found)) == len(found), "the engine has repeated a call"
    # A call whose outcome is unknown may be carried out after later ones.
    assert [payload for payload in found if payload in acknowledged] == acknowledged


@asks_a_server
@pytest.mark.clause("E33")
def test_a_server_that_is_away_is_told_apart_and_works_when_it_is_back(
    case: Case, network: ProxyProcess
) -> None:
    engine = case.open()
    network.order("away")
    try:
        for _ in range(2):
            # The first call may meet the connection that has ended, and can't tell.
            with pytest.raises(StoreUnavailable) as caught:
                engine.push([record(engine, b"q", b"no")])
        assert not isinstance(caught.value, OutcomeUnknown)
        assert isinstance(engine.flushes, int), "layers read these in an event loop"
        assert engine.clock() > 0
        assert len(engine.identity) > 0
    finally:
        network.order("back")
    acknowledged: list[bytes] = []
    push_through(engine, range(5), acknowledged)
    assert acknowledged
    assert acknowledged[-1] == b"4"


@asks_a_server
@pytest.mark.clause("E33")
def test_a_call_that_gets_no_answer_ends_with_its_outcome_unknown(
    case: Case, network: ProxyProcess
) -> None:
    engine = case.open()
    assert engine.push([record(engine, b"q", b"0")]) == []
    raised: list[StoreUnavailable] = []

    def call_twice() -> None:
        for payload in b"1", b"2":
            with pytest.raises(StoreUnavailable) as caught:
                engine.push([record(engine, b"q", payload)])
            raised.append(caught.value)

    network.order("freeze")
    # A thread, as an engine without a timeout would hold the test for ever.
    thread = CheckedThread(call_twice)
    thread.start()
    try:
        assert eventually(lambda: not thread.is_alive()), "a call or a connection has no timeout"
    finally:
        network.order("thaw")
        thread.join()
    assert isinstance(raised[0], OutcomeUnknown)
    acknowledged: list[bytes] = []
    push_through(engine, range(3, 5), acknowledged)
    found = pop_all(engine)
    assert sorted({*found} - {b"1", b"2"}) == [b"0", *acknowledged]
    assert len(set(found)) == len(found)


@asks_a_server
@pytest.mark.clause("E33")
@pytest.mark.parametrize("kind", ["drop", "duplicate", "halve"])
def test_a_garbled_stream_raises_what_layers_expect(
    case: Case, network: ProxyProcess, kind: str
) -> None:
    engine = case.open()
    dice = random.Random(kind)
    for _ in range(3):
        network.order("garble", kind, str(dice.randrange(400)), "to_client")
        for number in range(12):
            try:
                engine.push([record(engine, b"q", b"%d" % number)])
                engine.pop(b"q")
            except StoreUnavailable:
                pass
        network.order("heal")
        network.order("cut")
    pop_all(engine)
    acknowledged: list[bytes] = []
    push_through(engine, range(100, 103), acknowledged)
    assert [each for each in pop_all(engine) if each in acknowledged] == acknowledged


@asks_a_server
@pytest.mark.needs("wakes")
@pytest.mark.clause("E12")
@pytest.mark.clause("E33")
@pytest.mark.parametrize("trouble", ["away", "silence"])
def test_a_bell_is_signalled_for_what_was_pushed_while_it_could_not_hear(
    case: Case, network: ProxyProcess, around: Callable[[], Engine], trouble: str
) -> None:
    """A connection on which nothing passes is not ended, and looks like one without pushes."""
    engine, other = case.open(), around()
    bell = engine.bell()
    assert engine.pop(b"q", 1, bell) == []
    network.order(trouble)
    push(other, b"q", [b"x"])
    if trouble == "away":
        network.order("back")
    assert signalled(bell, ENOUGH)


@asks_a_server
@pytest.mark.needs("outage")
@pytest.mark.clause("E33")
@pytest.mark.parametrize("own", [True, False], ids=["own", "ordinary"])
@in_loop
async def test_a_consumer_outlives_an_outage(case: Case, network: ProxyProcess, own: bool) -> None:
    layer = case.layer()
    channel = await layer.new_channel() if own else "channel"
    receiving = asyncio.ensure_future(layer.receive(channel))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(network.order, "away")
    await asyncio.sleep(0.2)
    assert not receiving.done()
    await asyncio.to_thread(network.order, "back")
    until = time.monotonic() + patient(ENOUGH)
    while True:
        try:
            await layer.send(channel, {"n": 1})
            break
        except StoreUnavailable:
            assert time.monotonic() < until, "the engine does not find its server again"
            await asyncio.sleep(0.05)
    assert await asyncio.wait_for(receiving, patient(ENOUGH)) == {"n": 1}


@pytest.mark.needs("lease", "crosses_processes", "owners")
@pytest.mark.clause("E34")
def test_a_stopped_process_counts_as_dead_and_learns_of_it(case: Case) -> None:
    engine, other = case.open(), case.process()
    identity, before = other.call("identity"), other.call("lapses")
    other.call("put", b"t", b"m", owner=identity, lifetime=3600)
    other.call("put", b"kept", b"m", lifetime=3600)
    os.kill(other.pid, signal.SIGSTOP)
    try:
        assert eventually(lambda: engine.members(b"t").names == ())
        assert engine.members(b"kept").names == (b"m",)
    finally:
        os.kill(other.pid, signal.SIGCONT)
    assert eventually(lambda: bool(other.call("lapses") > before))
    assert other.call("identity") == identity
    other.call("put", b"t", b"m", owner=identity, lifetime=3600)
    time.sleep(1.5 * case.capabilities.lease)
    assert engine.members(b"t").names == (b"m",), "it counts as alive again"


@pytest.mark.needs("lease", "crosses_processes")
@pytest.mark.clause("E34")
def test_an_idle_process_is_no_dead_one(case: Case) -> None:
    engine, other = case.open(), case.process()
    other.call("put", b"t", b"m", owner=other.call("identity"), lifetime=3600)
    time.sleep(1.5 * case.capabilities.lease)
    assert engine.members(b"t").names == (b"m",)
    assert other.call("lapses") == 0
