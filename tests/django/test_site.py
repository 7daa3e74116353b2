"""A real site: its consumers rejoin their groups, its log tells of drops, and of their sum."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("channels")
pytest.importorskip("uvicorn")

from django import conf
from django.core.management.base import CommandError
from django.test.utils import override_settings
from websockets.sync.client import connect

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.django.management.commands.asgi_ipc import Command
from tests.tools.django_sites import PATIENCE, SITE, environment, manage

BACKEND = "asgi_ipc.IPCChannelLayer"
if not conf.settings.configured:
    conf.settings.configure()


@pytest.fixture
def options(tmp_path: Path) -> Iterator[dict[str, Any]]:
    made: dict[str, Any] = {
        "prefix": "site",
        "engine_options": {"directory": str(tmp_path / "stores")},
        "channel_memory": 1 << 20,
        "group_memory": 1 << 20,
        "channel_capacity": {"full": 1},
    }
    (tmp_path / "stores").mkdir()
    yield made
    SyncIPCChannelLayer(**made).destroy()


def until(condition: Callable[[], object], text: Path) -> None:
    """Wait for something; show the site's log if it does not come."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, text.read_text()
        time.sleep(0.05)


def test_consumers_rejoin_and_the_log_has_the_sum_of_drops_when_sigterm_comes(
    options: dict[str, Any], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "mysite.asgi:application", "--port", "0"],
            cwd=SITE,
            env=environment({"default": {"BACKEND": BACKEND, "CONFIG": options}}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "running on http" in log.read_text() or process.poll() is not None, log)
        (port,) = re.findall(r"running on http://127\.0\.0\.1:(\d+)", log.read_text())
        layer = SyncIPCChannelLayer(**options)
        with connect(f"ws://127.0.0.1:{port}/", open_timeout=PATIENCE) as client:
            for lose in (layer.flush, layer.destroy):
                lose()
                until(lambda: len(layer.group_channels("room")) == 1, log)
                layer.group_send("room", {"type": "said", "content": lose.__name__})
                assert json.loads(client.recv(PATIENCE)) == lose.__name__
            layer.group_add("room", "full")
            for number in range(6):
                client.send(json.dumps(number))
                assert json.loads(client.recv(PATIENCE)) == number
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        layer.close()
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert text.count("signal: store site lost what it held") == 2
    assert text.count("made the store at") + text.count("opened the store at") >= 2
    dropped = [int(each) for each in re.findall(r"group room: .*; (\d+) dropped since", text)]
    assert dropped == [1, 4]


def test_the_command_is_about_the_store_of_the_settings(
    options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = {
        "default": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        "ours": {"BACKEND": BACKEND, "CONFIG": options},
    }

    def call(*arguments: str, layer: str = "ours") -> tuple[int, str, str]:
        """In this process, which takes a tenth of the time."""
        status = 0
        with override_settings(CHANNEL_LAYERS=layers):
            try:
                Command().handle(layer=layer, command=list(arguments))
            except SystemExit as ended:
                status = int(str(ended.code))
        return (status, *capsys.readouterr())

    status, said, complaint = call("stats")
    assert (status, said) == (2, "")
    assert "site" in complaint
    layer = SyncIPCChannelLayer(**options)
    done = manage("asgi_ipc", "--layer", "ours", "send", "work", '{"n": 1}', layers=layers)
    assert done.returncode == 0, done.stderr
    assert layer.receive(["work"]) == ("work", {"n": 1})
    assert json.loads(call("--", "stats", "--json")[1])["messages_count"] == 1
    status, _, complaint = call("stat")
    assert status == 2
    assert "did you mean 'stats'" in complaint
    with pytest.raises(CommandError, match=r"no layer 'default'.*that have it: 'ours'") as caught:
        call("stats", layer="default")
    assert caught.value.returncode == 2
    layer.close()
    assert os.listdir(tmp_path / "stores") == ["site"]
