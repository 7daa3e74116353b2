"""Commands on a store that a relay joins to others: what they reach, and what they say of it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.cli.commands import relay as relay_command
from asgi_ipc.cli.main import StoreChoice
from tests.cli.conftest import Commands, MakeLayer
from tests.tools.layers import engine_of
from tests.tools.machines import Site, eventually, new_server, run
from tests.tools.relays import RELAY, VACANT, checked, report

URL = "redis://cache.internal:6379/0"
ALONE = "this machine alone"


def joined(make_layer: MakeLayer) -> SyncIPCChannelLayer:
    """Return a layer on a store that a relay joins to others, as far as commands can see."""
    layer = make_layer()
    assert engine_of(layer).hold(RELAY)
    report.write(engine_of(layer), {"url": URL, "state": "connected"})
    return layer


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.destroy()


def settings_of(machine: Any) -> StoreChoice:
    options = machine.options
    return StoreChoice(
        options["prefix"], options["engine"], options["engine_options"], {"relay": options["relay"]}
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("group-send", "site", "news", "{}"),
        ("tail", "site", "news", "--timeout", "0.01"),
        ("flush", "site", "--yes", "--force"),
    ],
)
def test_a_command_that_does_not_reach_all_machines_says_so(
    command: Commands, make_layer: MakeLayer, arguments: tuple[str, ...]
) -> None:
    layer = make_layer()
    layer.group_add("news", layer.new_channel())
    assert ALONE not in command(*arguments).err
    joined(make_layer)
    layer.group_add("news", layer.new_channel())
    ended = command(*arguments)
    assert ended.status == 0
    (line,) = [each for each in ended.err.splitlines() if ALONE in each]
    assert URL in line
    assert f"manage.py asgi_ipc {arguments[0]}" in line


def test_a_store_whose_relay_is_away_for_a_moment_is_still_joined(
    command: Commands, make_layer: MakeLayer
) -> None:
    layer = joined(make_layer)
    engine_of(layer).release(RELAY)
    assert ALONE in command("group-send", "site", "news", "{}").err


def test_a_message_that_no_process_may_get_says_so(
    command: Commands, make_layer: MakeLayer
) -> None:
    layer = make_layer()
    own = layer.new_channel()
    first, _, rest = own.partition(".")
    far = f"{first}.{'0' * 10}{rest[10:]}"
    for channel in ("work", own, far):
        assert command("send", "site", channel, "{}").err == ""
    joined(make_layer)
    assert "if the site shares channel work" in command("send", "site", "work", "{}").err
    assert command("send", "site", own, "{}").err == ""
    assert "one of another machine" in command("send", "site", far, "{}").err


def test_with_the_settings_of_the_site_all_machines_are_reached(
    command: Commands, site: Site
) -> None:
    async def main() -> None:
        one, two = await site.joined(2)
        channel = await two.member("news")
        choice = settings_of(one)
        sent = await asyncio.to_thread(
            lambda: command("group-send", "news", '{"n": 1}', settings=choice)
        )
        assert (sent.status, sent.err) == (0, "")
        assert "and on to other machines" in sent.out
        assert await two.layer.receive(channel) == {"n": 1}
        await two.layer.send("work", {})
        flushed = await asyncio.to_thread(
            lambda: command("flush", "--yes", "--force", settings=choice)
        )
        assert (flushed.status, flushed.err) == (0, "")
        assert two.engine.statistics(b"work")["pending"] == 0
        one.end()
        flushed = await asyncio.to_thread(
            lambda: command("flush", "--yes", "--force", settings=choice)
        )
        assert "other machines were not flushed" in flushed.err

    run(main)


def test_a_process_without_the_option_is_told_once(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    told = "this process has no option relay"
    layer = make_layer()
    assert told not in caplog.text
    assert engine_of(layer).hold(RELAY)
    make_layer()
    make_layer()
    assert caplog.text.count(told) == 1


def test_a_command_is_not_told(
    command: Commands, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    joined(make_layer)
    command("send", "site", "work", "{}")
    assert "option relay" not in caplog.text


def test_a_process_with_the_option_is_not_told(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (one,) = await site.joined(1)
        other = SyncIPCChannelLayer(**one.options)
        other.close()
        assert "no option relay" not in caplog.text

    run(main)


def test_the_relay_process_says_that_it_connects_and_wakes_the_site_when_it_ends(
    make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.Logger, "hasHandlers", lambda _: False)
    layer = make_layer()
    engine = engine_of(layer)
    bell = engine.bell()
    assert engine.pop(VACANT, 1, bell) == []
    url, _ = new_server()

    async def main() -> None:
        handlers: dict[int, Any] = {}
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(
            loop, "add_signal_handler", lambda number, *call: handlers.update({number: call})
        )
        with relay_command._log_to_stderr():
            options = partial(checked, url, "site", {})
            task = asyncio.create_task(
                relay_command._relay(StoreChoice("site", "mmap"), options, {})
            )
            await eventually(lambda: (found := report.read(engine)) and found.state == "connected")
            end, *arguments = handlers[signal.SIGTERM]
            end(*arguments)
            assert await task == signal.SIGTERM
        assert not engine.is_held(RELAY)
        assert len(engine.pop(VACANT)) == 1

    run(main)
    bell.close()
    said = capsys.readouterr().err
    assert f"relay {url}: connected" in said
    assert "relays no more" in said
