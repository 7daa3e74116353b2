"""``metrics``: once, and served to a scrape while the store comes and goes."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from urllib.error import HTTPError

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.cli.background import Background
from asgi_ipc.cli.choice import StoreChoice
from asgi_ipc.cli.commands import metrics
from asgi_ipc.exceptions import StoreUnavailable
from tests.cli.conftest import Commands, MakeLayer

ENOUGH = 60.0


def test_the_metrics_of_a_store_are_printed(command: Commands, make_layer: MakeLayer) -> None:
    layer = make_layer()
    for _ in range(3):
        layer.send("work", {"type": "a"})
    out = command("metrics", "site").out
    assert 'asgi_ipc_messages_pending{prefix="site",engine="mmap"} 3\n' in out
    assert 'asgi_ipc_processes{prefix="site",engine="mmap"} 1\n' in out
    assert "channel=" not in out
    out = command("metrics", "site", "--channels", "5").out
    assert 'asgi_ipc_channel_pending{prefix="site",engine="mmap",channel="work"} 3\n' in out
    assert command("metrics", settings=StoreChoice("site")).out.startswith("# HELP asgi_ipc_")


def test_wrong_arguments_are_refused(command: Commands, make_layer: MakeLayer) -> None:
    make_layer()
    for arguments, text in (
        (["none"], "there is no store of prefix 'none'"),
        (["site", "--listen", "here"], "'here' is not HOST:PORT"),
        (["site", "--listen", "127.0.0.1:70000"], "a port from 0 to 65535"),
        (["site", "--listen", "::1:9464"], "write an IPv6 address as [::1]:9464"),
        (["site", "--listen", "192.0.2.1:0"], "can't listen on 192.0.2.1:0"),
        (["site", "--channels", "-1"], "--channels"),
        (["site", "--listen", "0", "--engine", "memory"], "inside one process"),
    ):
        ended = command("metrics", *arguments)
        assert (ended.status, ended.out) == (2, "")
        assert text in ended.err


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a store is that a command in another process finds."""
    return tmp_path / "stores"


@pytest.fixture
def server(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, serving, though there is no store."""
    directory.mkdir(mode=0o700)
    server = subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "asgi_ipc", "metrics", "site"),
            *("--engine", "mmap", "--directory", str(directory), "--listen", "0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield server
    finally:
        server.kill()
        server.communicate()


def scraped(address: str) -> tuple[int, str]:
    """The status and text of a scrape."""
    try:
        with urllib.request.urlopen(address, timeout=ENOUGH) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_scrape_is_answered_while_the_store_comes_and_goes(
    server: subprocess.Popen[str], directory: Path
) -> None:
    assert server.stderr is not None
    assert "no metrics yet: there is no store" in server.stderr.readline()
    address = server.stderr.readline().removeprefix("serving ").partition(";")[0]
    assert address.startswith("http://127.0.0.1:")
    assert address.endswith("/metrics")
    for number in range(2):
        status, text = scraped(address)
        assert status == 503
        assert "there is no store of prefix 'site'" in text
        with SyncIPCChannelLayer(
            "site", engine="mmap", engine_options={"directory": str(directory)}
        ) as layer:
            layer.send("work", {"number": number})
            status, text = scraped(address)
            assert status == 200
            assert 'asgi_ipc_messages_total{prefix="site",engine="mmap"} 1\n' in text
            # Between two scrapes it is no process of the store.
            assert layer.global_statistics()["processes_count"] == 1
            layer.destroy()
    assert scraped(address.removesuffix("metrics"))[0] == 404
    server.send_signal(signal.SIGINT)
    assert server.wait(ENOUGH) == 130


def test_a_store_that_does_not_answer_is_told_and_the_server_still_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "_PATIENCE", 0.05)
    go_on = threading.Event()
    look = Background(lambda: str(go_on.wait(ENOUGH)))
    page = asyncio.run(metrics._page(look.start()))
    assert page.status == 503
    assert "a stopped process" in page.body
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    # Once it listens: before it catches the signal, that would end pytest.
    monkeypatch.setattr(metrics, "note", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    metrics._serve(look, "127.0.0.1", 0)
    go_on.set()
    assert ended == [0]


def test_a_look_that_fails_when_its_client_is_gone_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        look: futures.Future[str] = futures.Future()
        page = asyncio.ensure_future(metrics._page(look))
        await asyncio.sleep(0)
        page.cancel()
        await asyncio.gather(page, return_exceptions=True)
        look.set_exception(StoreUnavailable("it is gone"))
        await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(main())
    assert caplog.records == []
