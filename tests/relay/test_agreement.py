"""The options of a relay and of the processes of its site: those that differ are noticed."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.cli.main import run as run_command
from asgi_ipc.engines.base import IDENTITY_BYTES
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.exceptions import OptionError
from asgi_ipc.layers.relays import relay_of
from asgi_ipc.relay import agreement, way_out
from asgi_ipc.relay.agreement import Agreement, Differs, Used, as_noted, differences
from asgi_ipc.relay.frames import shard_of, shard_topic
from asgi_ipc.relay.way_out import OUT, RELAY, SETTINGS
from tests.tools.machines import Machine, Site, eventually, run

KEYS = [f"00112233445566778899aabbccddee{n:02x}" * 2 for n in range(3)]
#: A channel of another machine.
OTHERS = f"specific.{7:032x}!x"
ONE = Used("redis://a", (b"1111",), ("mail.*", "work"), 5 << 20)


def relay(machine: Machine, *words: str) -> int:
    """Run the command of a dedicated relay for a machine's store; return its exit status."""
    return run_command(["relay", "site", "--directory", str(machine.folder), *words])


@pytest.mark.parametrize(
    ("used", "words", "said"),
    [
        ({"relay_options": {"keys": KEYS[:1]}}, (), "relay_options['keys']: no keys and 1 key"),
        ({}, ("--relay-option", f"keys={KEYS[:2]}"), "relay_options['keys']: 2 keys and no keys"),
        (
            {"relay_options": {"keys": KEYS[:1]}},
            ("--relay-option", f"keys={KEYS[1:2]}"),
            "relay_options['keys']: none in common",
        ),
        ({}, ("--relay", "memory://elsewhere"), "relay: memory://elsewhere and memory://server"),
        (
            {"relay_channels": ["work", "mail.*"]},
            ("--relay-channel", "work"),
            "relay_channels: work and mail.*, work",
        ),
        (
            {"relay_options": {"backlog": 3 << 20}},
            (),
            "relay_options['backlog']: the default and 3,145,728",
        ),
    ],
)
def test_a_dedicated_relay_that_differs_from_the_site_refuses_and_says_how(
    site: Site,
    capsys: pytest.CaptureFixture[str],
    used: dict[str, Any],
    words: tuple[str, ...],
    said: str,
) -> None:
    machine = site.machine(**used)
    given = words if "--relay" in words else ("--relay", site.url, *words)
    assert relay(machine, *given) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "manage.py asgi_ipc relay" in error
    assert not any(key in error for key in KEYS)
    assert not machine.engine.is_held(RELAY)


def test_no_relay_without_keys_publishes_what_a_process_with_keys_has_sent(site: Site) -> None:
    heard: list[bytes] = []

    async def main() -> None:
        machine = site.machine(relay_options={"keys": KEYS[:1]}, relay_channels=["work"])
        # As after a flush, which takes away what processes tell of themselves.
        for name in machine.engine.members(SETTINGS).names:
            machine.engine.remove(SETTINGS, name)
        wire = machine.candidate.relay.wire()
        await wire.start(lambda topic, frame: heard.append(frame))
        await wire.subscribe([shard_topic(shard_of(b"room"))])
        secret = {"type": "x", "card": "4111"}
        await machine.layer.group_send("room", secret)
        await machine.layer.send("work", secret)
        await machine.layer.send(OTHERS, secret)
        machine.loses_its_keys()
        machine.begin()
        assert machine.relay is not None
        thread = machine.relay
        await eventually(lambda: not thread.is_alive())
        assert machine.engine.statistics(OUT)["pending"] == 3
        assert heard == []
        await wire.close()

    run(main)


def test_records_say_that_they_must_be_sealed_only_if_the_process_has_keys(site: Site) -> None:
    async def main() -> None:
        for options, expected in (({}, False), ({"relay_options": {"keys": KEYS[:1]}}, True)):
            machine = site.machine(**options, relay_channels=["work"])
            await machine.layer.group_send("room", {"type": "x"}, exclude=OTHERS)
            await machine.layer.send("work", {"type": "x"})
            records = machine.engine.pop(OUT, 9)
            assert [way_out.must_be_sealed(each.payload) for each in records] == [expected] * 2
            assert [way_out.is_work(each.payload) for each in records] == [False, True]
            assert [way_out.read(each.payload).name for each in records] == [b"room", b"work"]

    run(main)


def test_a_process_without_keys_does_not_relay_beside_one_that_has_some(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with_keys = site.machine(relay_options={"keys": KEYS[:1]})
    other = with_keys.as_another_process()
    try:
        for _ in range(2):
            other.candidate._begin()
        assert not other.engine.is_held(RELAY)
        said = "this process does not relay: it has no relay_options['keys']"
        assert caplog.text.count(said) == 1
        with_keys.candidate._begin()
        assert other.engine.is_held(RELAY)
        with_keys.candidate.stop()
    finally:
        other.engine.close()


def test_a_process_that_opens_the_store_says_how_it_differs_from_the_relay(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (machine,) = await site.joined(1)
        await eventually(lambda: machine.report().get("state") == "connected")
        other = machine.as_another_process(relay="memory://elsewhere")
        try:
            said = f"relay: memory://elsewhere and {site.url}"
            assert f"other options than the relay of this machine: {said}" in caplog.text
            # The relay says so, too, and a person is needed.
            await eventually(lambda: machine.report()["differs"])
            assert "a process of the site has other options than this relay" in caplog.text
            info = relay_of(machine.engine)
            assert info is not None
            assert info.differs == (f"relay: {site.url} and memory://elsewhere",)
            assert any("differ from the relay" in each for each in info.problems)
        finally:
            other.engine.close()
        await eventually(lambda: not machine.report()["differs"])

    with caplog.at_level(logging.WARNING):
        run(main)


def test_two_layers_of_a_process_on_one_store_have_the_same_options(site: Site) -> None:
    machine = site.machine()
    for options, said in (
        ({"relay": "memory://elsewhere"}, "relay: memory://elsewhere and"),
        ({"relay_options": {"keys": KEYS[:1]}}, "relay_options['keys']: 1 key and no keys"),
    ):
        with pytest.raises(OptionError, match="have different options") as caught:
            IPCChannelLayer(**{**machine.options, **options})
        assert said.split("'")[0] in str(caught.value)


# ---- by itself


@pytest.fixture
def engine() -> Iterator[MemoryEngine]:
    made = MemoryEngine("agree", channel_memory=1 << 20, group_memory=1 << 20)
    yield made
    made.close()


def test_differences_name_each_option() -> None:
    assert differences(as_noted(ONE), as_noted(ONE)) == []
    other = Used("redis://b", (), (), None)
    assert differences(as_noted(ONE), as_noted(other)) == [
        "relay: redis://a and redis://b",
        "relay_options['keys']: 1 key and no keys",
        "relay_channels: mail.*, work and none",
        "relay_options['backlog']: 5,242,880 and the default",
    ]


def test_keys_agree_while_they_are_rotated() -> None:
    a, b, c = b"aaaa", b"bbbb", b"cccc"
    steps = [(a,), (a, b), (b, a), (b,)]
    for before, after in itertools.pairwise(steps):
        one, other = (as_noted(ONE._replace(keys=keys)) for keys in (before, after))
        assert differences(one, other) == []
    assert differences(as_noted(ONE._replace(keys=(a,))), as_noted(ONE._replace(keys=(c, b)))) == [
        "relay_options['keys']: none in common"
    ]


def test_what_is_told_is_short_whatever_the_options() -> None:
    url, pattern = "redis://" + "hö" * 100, "ä" * 500
    keys = tuple(b"%04d" % n for n in range(50))
    most = Used(url, keys, (pattern, "x" * 500), 1 << 62)
    packed = most.packed()
    assert len(packed) + IDENTITY_BYTES <= 255
    found = as_noted(most)
    assert url.startswith(found.url)
    assert differences(found, as_noted(most._replace(url=url + "x")))


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\x91\x01",
        b"\x97\x02aaaaaa",
        b"\x97\x01\xa1x\xa1x\x90\xa1x\xa1x\xc0",
    ],
)
def test_what_is_none_of_ours_is_passed_over(engine: MemoryEngine, wrong: bytes) -> None:
    assert agreement.unpacked(wrong) is None
    engine.put(SETTINGS, engine.identity + wrong, 1 << 62)
    engine.put(SETTINGS, b"x", 1 << 62)
    assert agreement.noted_by_others(engine) == []


def beside(engine: MemoryEngine) -> MemoryEngine:
    return MemoryEngine("agree", channel_memory=1 << 20, group_memory=1 << 20)


def test_only_the_processes_that_live_count(engine: MemoryEngine) -> None:
    agreement.note(engine, ONE)
    assert agreement.noted_by_others(engine) == []
    dead = b"d" * IDENTITY_BYTES
    engine.put(SETTINGS, dead + ONE.packed(), 1 << 62)
    assert agreement.noted_by_others(engine) == []
    agreement.refuse_if_differs(engine, Used("redis://b"))
    other = beside(engine)
    assert agreement.noted_by_others(other) == [as_noted(ONE)]
    with pytest.raises(Differs):
        agreement.refuse_if_differs(other, Used("redis://b"))
    other.close()


def test_a_relay_may_begin_while_the_site_is_restarted_with_its_options(
    engine: MemoryEngine,
) -> None:
    agreement.note(engine, ONE._replace(url="redis://old"))
    second, third = beside(engine), beside(engine)
    agreement.note(second, ONE)
    agreement.refuse_if_differs(third, ONE)
    # But not if it would publish in the clear what one of them wants sealed.
    agreement.note(second, ONE._replace(keys=()))
    with pytest.raises(Differs, match="no keys and 1 key"):
        agreement.refuse_if_differs(third, ONE._replace(keys=()))
    second.close()
    third.close()


def test_a_running_relay_tells_each_difference_once_and_ends_rather_than_leak(
    engine: MemoryEngine,
) -> None:
    second = beside(engine)
    watch = Agreement(engine, ONE._replace(keys=()))
    assert watch.new_differences() == []
    agreement.note(second, ONE._replace(keys=(), url="redis://b"))
    assert watch.new_differences() == ["relay: redis://a and redis://b"]
    assert watch.new_differences() == []
    assert watch.differences
    third = beside(engine)
    agreement.note(third, ONE)
    with pytest.raises(Differs, match="in the clear"):
        watch.new_differences()
    third.close()
    second.close()
    watch.new_differences()
    assert watch.differences == []


@pytest.mark.parametrize("dedicated", [True, False])
def test_a_dedicated_relay_that_began_before_the_site_ends_if_no_process_agrees(
    engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch, dedicated: bool
) -> None:
    second, third = beside(engine), beside(engine)
    watch = Agreement(engine, ONE, dedicated)
    agreement.note(second, ONE._replace(url="redis://b"))
    assert watch.new_differences() == ["relay: redis://a and redis://b"]
    assert watch.new_differences() == [], "it has patience"
    monkeypatch.setattr(agreement, "PATIENCE", 0.0)
    agreement.note(third, ONE)
    assert watch.new_differences() == []
    third.close()
    watch.new_differences()
    if dedicated:
        with pytest.raises(Differs, match="redis://a and redis://b"):
            watch.new_differences()
    else:
        assert watch.new_differences() == []
    second.close()


# ---- secrets that nobody sees


@pytest.fixture
def options_file(tmp_path: Path) -> Callable[[str, int], Path]:
    def make(text: str, mode: int) -> Path:
        path = tmp_path / "relay.json"
        path.write_text(text)
        path.chmod(mode)
        return path

    return make


def test_the_options_of_a_relay_may_come_from_a_file_or_the_environment(
    site: Site,
    options_file: Callable[[str, int], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = site.machine(relay_options={"keys": KEYS[:1], "backlog": 3 << 20})
    path = options_file(json.dumps({"keys": KEYS[:1]}), 0o640)
    words = ("--relay", site.url, "--relay-options-file", str(path))
    assert relay(machine, *words) == 2
    assert "relay_options['backlog']" in capsys.readouterr().err, "the keys agree"
    monkeypatch.setenv("ASGI_IPC_RELAY_OPTIONS", json.dumps({"keys": KEYS[:1], "backlog": 4 << 20}))
    assert relay(machine, "--relay", site.url) == 2
    error = capsys.readouterr().err
    assert "4,194,304" in error
    assert "keys']" not in error
    assert relay(machine, *words, "--relay-option", "backlog=2500000") == 2
    assert "2,500,000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("{}", 0o644, "has mode 0644"),
        ("{}", 0o620, "has mode 0620"),
        ('{"password": "hunter2"', 0o600, "is not the JSON of relay_options"),
        ('["hunter2"]', 0o600, "is not the JSON of relay_options"),
        ("[" * 60_000, 0o600, "is not the JSON of relay_options"),
    ],
)
def test_a_file_of_options_that_others_see_or_that_is_none_is_refused_without_showing_it(
    site: Site,
    options_file: Callable[[str, int], Path],
    capsys: pytest.CaptureFixture[str],
    text: str,
    mode: int,
    said: str,
) -> None:
    machine = site.machine()
    path = options_file(text, mode)
    assert relay(machine, "--relay", site.url, "--relay-options-file", str(path)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "hunter2" not in error
    missing = str(path) + ".none"
    assert relay(machine, "--relay", site.url, "--relay-options-file", missing) == 2
    assert "No such file" in capsys.readouterr().err


def test_what_another_process_uses_can_not_look_like_a_line_of_the_log() -> None:
    wrong = Used("redis://a\n\x1b[2JERROR", (), ("work\r\u202e\x07",))
    (url, channels) = differences(as_noted(ONE._replace(keys=(), backlog=None)), as_noted(wrong))
    assert url == "relay: redis://a and redis://a??[2JERROR"
    assert channels == "relay_channels: mail.*, work and work???"
