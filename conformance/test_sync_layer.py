"""ASGI 1.x on the synchronous layer: A1 to A5, ours, O1 to O4, and both layers together.

They cover the behaviours that asgiref 1.1's conformance tests check.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import asgi_ipc

from .case import in_loop
from .tools import ENOUGH, CheckedThread, patient

if TYPE_CHECKING:
    from asgi_ipc import SyncIPCChannelLayer

    from .case import Case


def all_of(layer: SyncIPCChannelLayer, *channels: str) -> list[Any]:
    """Return all pairs of channel and message."""
    found = []
    while (pair := layer.receive(list(channels))) != (None, None):
        found.append(pair)
    return found


@pytest.mark.clause("A1")
@pytest.mark.clause("S5")
def test_receive_tells_the_channel_and_takes_each_message_once(case: Case) -> None:
    layer = case.sync_layer()
    for color in ("blue", "green", "yellow"):
        layer.send("one", {"value": color})
    layer.send("two", {"value": "red"})
    for color in ("blue", "green", "yellow"):
        assert layer.receive(["one"]) == ("one", {"value": color})
    assert layer.receive(["one", "two"]) == ("two", {"value": "red"})
    assert layer.receive(["one", "two"]) == (None, None)
    assert layer.receive([]) == (None, None)


@pytest.mark.clause("A1")
@pytest.mark.clause("S12")
def test_a_busy_channel_does_not_starve_a_quiet_one(case: Case) -> None:
    layer = case.sync_layer(capacity=1000)
    for names in (["busy", "quiet"], ["quiet", "busy"], ["other", "busy", "quiet"]):
        for _ in range(200):
            layer.send("busy", {})
        layer.send("quiet", {"x": 1})
        found = [layer.receive(names)[0] for _ in range(100)]
        assert "quiet" in found
        layer.flush()


@pytest.mark.clause("A1")
def test_a_blocking_receive_waits_for_what_comes_later(case: Case) -> None:
    layer, other = case.sync_layer(), case.sync_layer()
    found: list[Any] = []

    def wait() -> None:
        found.append(layer.receive(["a", "b", "c!"], block=True))

    for channel in ("b", "a", "c!local"):
        thread = CheckedThread(wait)
        thread.start()
        time.sleep(0.05)
        assert thread.is_alive()
        other.send(channel, {"to": channel})
        thread.join(patient(ENOUGH))
        assert found.pop() == (channel, {"to": channel})


@pytest.mark.clause("A1")
def test_a_timeout_is_waited_for_and_loses_nothing(case: Case) -> None:
    layer = case.sync_layer()
    before = time.monotonic()
    assert layer.receive(["a", "b!"], block=True, timeout=0.1) == (None, None)
    assert time.monotonic() - before >= 0.099
    layer.send("a", {"x": 1})
    layer.send("b!c", {"x": 2})
    assert sorted(all_of(layer, "a", "b!")) == [("a", {"x": 1}), ("b!c", {"x": 2})]


@pytest.mark.clause("A1")
def test_receive_many_still_works_and_says_that_it_is_deprecated(case: Case) -> None:
    layer = case.sync_layer()
    layer.send("c", {"x": 1})
    with pytest.warns(DeprecationWarning, match="receive"):
        assert layer.receive_many(["c"]) == ("c", {"x": 1})


@pytest.mark.clause("A2")
def test_a_process_specific_prefix_gets_whatever_is_under_it(case: Case) -> None:
    layer = case.sync_layer()
    layer.send("p!a", {"n": 1})
    assert layer.receive(["p!"]) == ("p!a", {"n": 1})
    for number, local in enumerate("bacab"):
        layer.send(f"p!{local}", {"n": number})
    expected = [(f"p!{local}", {"n": number}) for number, local in enumerate("bacab")]
    assert all_of(layer, "p!", "other!") == expected


@pytest.mark.clause("A2")
def test_a_name_with_more_behind_the_mark_is_an_error(case: Case) -> None:
    layer = case.sync_layer()
    with pytest.raises((TypeError, ValueError)):
        layer.receive(["p!c"])
    with pytest.raises((TypeError, ValueError)):
        layer.receive(["fine", "p!c"], block=True)


@pytest.mark.clause("A2")
@pytest.mark.clause("S4")
def test_a_bad_name_is_a_type_error(case: Case) -> None:
    layer = case.sync_layer()
    method: Any
    args: Any
    for bad in ("", "a b", "ü", "a!b!c", "x" * 100, None, b"c"):
        for method, args in (
            (layer.send, (bad, {})),
            (layer.receive, ([bad],)),
            (layer.group_add, ("g", bad)),
            (layer.group_add, (bad, "c")),
            (layer.send_group, (bad, {})),
        ):
            with pytest.raises(TypeError):
                method(*args)


@pytest.mark.clause("A3")
def test_single_reader_channels_have_names_of_their_own(case: Case) -> None:
    layer, other = case.sync_layer(), case.sync_layer()
    names = [each.new_channel("test.foo?") for each in (layer, other, layer, other)]
    assert len(set(names)) == 4
    for name in names:
        assert isinstance(name, str)
        assert name.startswith("test.foo?")
        assert name.count("?") == 1
        assert not name.endswith("?")
    layer.send(names[0], {"value": "blue"})
    assert layer.receive([names[1], names[0]]) == (names[0], {"value": "blue"})


@pytest.mark.clause("A3")
@pytest.mark.parametrize("pattern", ["test!", "test.foo", "", "a?b", "a?b?"])
def test_another_pattern_is_an_error(case: Case, pattern: str) -> None:
    layer = case.sync_layer()
    with pytest.raises((TypeError, ValueError)):
        layer.new_channel(pattern)


@pytest.mark.clause("A4")
@pytest.mark.clause("S13")
@pytest.mark.clause("S14")
def test_groups_of_ordinary_channels(case: Case) -> None:
    layer = case.sync_layer()
    for channel in ("one", "two", "three", "one"):
        layer.group_add("g", channel)
    assert sorted(layer.group_channels("g")) == ["one", "three", "two"]
    layer.group_discard("g", "three")
    layer.group_discard("g", "stranger")
    assert sorted(layer.group_channels("g")) == ["one", "two"]
    layer.send_group("g", {"value": "orange"})
    layer.group_send("g", {"value": "lemon"})
    for channel in ("one", "two"):
        pairs = [(channel, {"value": "orange"}), (channel, {"value": "lemon"})]
        assert all_of(layer, channel) == pairs
    assert all_of(layer, "three") == []
    assert list(layer.group_channels("unknown")) == []


@pytest.mark.clause("A4")
@pytest.mark.clause("A2")
def test_groups_of_process_specific_channels(case: Case) -> None:
    layer = case.sync_layer()
    for channel in ("p!1", "p!2", "p!3"):
        layer.group_add("g", channel)
    layer.group_discard("g", "p!2")
    layer.send_group("g", {"value": "orange"})
    pairs = [("p!1", {"value": "orange"}), ("p!3", {"value": "orange"})]
    assert sorted(all_of(layer, "p!")) == pairs


@pytest.mark.clause("A4")
def test_the_layer_carries_its_exceptions(case: Case) -> None:
    layer = case.sync_layer()
    assert layer.ChannelFull is asgi_ipc.ChannelFull
    assert layer.MessageTooLarge is asgi_ipc.MessageTooLarge
    assert set(layer.extensions) >= {"groups", "flush", "statistics"}


@pytest.mark.clause("A5")
@pytest.mark.clause("O3")
def test_statistics_count_messages_and_refusals(case: Case) -> None:
    layer = case.sync_layer(capacity=2)
    layer.send("c", {})
    layer.send("c", {})
    with pytest.raises(layer.ChannelFull):
        layer.send("c", {})
    layer.send("other", {})
    time.sleep(0.04)
    of_channel = layer.channel_statistics("c")
    assert of_channel["messages_count"] == 2
    assert of_channel["messages_pending"] == 2
    assert of_channel["channel_full_count"] == 1
    assert of_channel["messages_max_age"] >= 0.03
    of_all = layer.global_statistics()
    assert of_all["messages_count"] == 3
    assert of_all["channel_full_count"] == 1


@pytest.mark.clause("S1")
def test_every_type_arrives_as_it_was_sent(case: Case) -> None:
    layer = case.sync_layer()
    message = {
        "values": {
            "bytes": b"\xc2\xa3\x01\x00",
            "str": "\u00a3\u1f61",
            "list": [1, 2.5, None, True, -(2**63)],
        }
    }
    layer.send("c", message)
    assert repr(layer.receive(["c"])) == repr(("c", message))


@pytest.mark.clause("S2")
def test_a_message_of_one_megabyte_is_carried_and_a_larger_one_refused(case: Case) -> None:
    layer = case.sync_layer()
    layer.send("c", {"text": "x" * 999_980})
    assert layer.receive(["c"]) == ("c", {"text": "x" * 999_980})
    with pytest.raises(layer.MessageTooLarge):
        layer.send("c", {"text": "x" * 2_000_000})


@pytest.mark.clause("S3")
def test_what_the_sender_changes_afterwards_changes_nothing(case: Case) -> None:
    layer = case.sync_layer()
    message = {"value": [1, 2, 3]}
    layer.send("c", message)
    message["value"][0] = 5
    assert layer.receive(["c"]) == ("c", {"value": [1, 2, 3]})


@pytest.mark.clause("S7")
@pytest.mark.clause("S8")
@pytest.mark.clause("S14")
def test_capacity_limits_send_and_not_send_group(case: Case) -> None:
    layer = case.sync_layer(capacity=4)
    for number in range(4):
        layer.send("c", {})
        layer.send(f"p!{number}", {})
    for channel in ("c", "p!one.more"):
        with pytest.raises(layer.ChannelFull):
            layer.send(channel, {})
    layer.group_add("g", "c")
    layer.group_add("g", "p!1")
    layer.send_group("g", {})
    assert len(all_of(layer, "c", "p!")) == 8


@pytest.mark.clause("S9")
@pytest.mark.clause("S15")
def test_messages_and_memberships_expire(case: Case) -> None:
    layer = case.sync_layer(expiry=0.1, group_expiry=0.1)
    assert layer.group_expiry == 0.1
    layer.send("c", {})
    layer.send("p!a", {})
    layer.group_add("g", "d")
    time.sleep(0.12)
    layer.send_group("g", {})
    assert all_of(layer, "c", "d", "p!") == []


@pytest.mark.clause("S17")
def test_after_a_flush_nothing_is_left(case: Case) -> None:
    layer, other = case.sync_layer(), case.sync_layer()
    layer.send("c", {})
    layer.send("p!a", {})
    layer.send("p!b", {})
    layer.receive(["p!"])
    layer.group_add("g", "c")
    other.flush()
    layer.send_group("g", {})
    assert all_of(layer, "c", "p!") == []


@pytest.mark.clause("O1")
def test_what_cannot_be_carried_is_refused_at_send(case: Case) -> None:
    layer = case.sync_layer()
    with pytest.raises((TypeError, ValueError), match=r"message\[.a.\]\[2\]"):
        layer.send("c", {"a": [1, 2, object()]})
    assert all_of(layer, "c") == []


@pytest.mark.clause("O4")
@in_loop
async def test_both_layers_exchange_messages_and_groups(case: Case) -> None:
    both, sync = case.layer(), case.sync_layer()
    sync.send("c", {"n": 1})
    assert await both.receive("c") == {"n": 1}
    await both.send("c", {"n": 2})
    assert sync.receive(["c"]) == ("c", {"n": 2})
    channel = await both.new_channel()
    sync.group_add("g", channel)
    await both.group_add("g", "p!sync")
    sync.send_group("g", {"n": 3})
    assert await both.receive(channel) == {"n": 3}
    assert sync.receive(["p!"]) == ("p!sync", {"n": 3})
    assert sorted(sync.group_channels("g")) == sorted(await both.group_channels("g"))


@pytest.mark.clause("O4")
def test_threads_share_the_messages_out(case: Case) -> None:
    layer = case.sync_layer(capacity=1000)
    found: list[Any] = []

    def read() -> None:
        while True:
            _, message = layer.receive(["c"], block=True, timeout=patient(ENOUGH))
            if message in (None, {"end": True}):
                return
            found.append(message)

    threads = [CheckedThread(read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100):
        layer.send("c", {"n": number})
    for _ in threads:
        layer.send("c", {"end": True})
    for thread in threads:
        thread.join(patient(ENOUGH))
    assert sorted(message["n"] for message in found) == list(range(100))


@pytest.mark.clause("O4")
@pytest.mark.needs("crosses_processes")
def test_processes_and_forked_children_exchange_messages(case: Case) -> None:
    layer, other = case.sync_layer(), case.process()
    layer.send("there", {"x": b"1"})
    assert other.call("layer", "receive", ["there"]) == ("there", {"x": b"1"})
    other.call("layer", "group_add", "g", "back")
    layer.send_group("g", {"x": 2})
    assert other.call("layer", "receive", ["back"]) == ("back", {"x": 2})
    answers = other.call("forked", [("layer", ("send", "c", {"x": 3}))])
    assert answers == [("ok", None)]
    assert layer.receive(["c"], block=True, timeout=patient(ENOUGH)) == ("c", {"x": 3})
    other.start("layer", "receive", ["late"], block=True, timeout=patient(ENOUGH))
    time.sleep(0.1)
    layer.send("late", {"x": 4})
    assert other.result() == ("late", {"x": 4})


@pytest.mark.clause("O2")
@pytest.mark.needs("crosses_processes")
def test_a_killed_receiver_keeps_no_message_from_the_next(case: Case) -> None:
    layer, victim = case.sync_layer(), case.process()
    victim.start("layer", "receive", ["c"], block=True)
    time.sleep(0.3)
    victim.kill()
    layer.send("c", {"x": 1})
    assert layer.receive(["c"], block=True, timeout=patient(ENOUGH)) == ("c", {"x": 1})


@pytest.mark.clause("E21")
def test_a_closed_layer_opens_again_when_used(case: Case) -> None:
    layer, other = case.sync_layer(), case.sync_layer()
    layer.send("c", {"x": 1})
    layer.close()
    layer.close()
    assert layer.receive(["c"]) == ("c", {"x": 1})
    other.send("c", {"x": 2})
    assert layer.receive(["c"]) == ("c", {"x": 2})
