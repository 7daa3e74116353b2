"""``top``: without its extra, without a terminal, and in a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from asgi_ipc import SyncIPCChannelLayer
from tests.cli.conftest import Commands, MakeLayer

ENOUGH = 60.0


def test_without_the_extra_it_says_what_to_install(
    command: Commands, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_layer()
    for name in list(sys.modules):
        if name.startswith("asgi_ipc.cli.top"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual.app", None)
    ended = command("top", "site")
    assert (ended.status, ended.out) == (2, "")
    assert "pip install 'asgi_ipc[cli]>=2'" in ended.err
    assert "--watch" in ended.err


def test_without_a_terminal_it_says_what_scripts_use(
    command: Commands, make_layer: MakeLayer
) -> None:
    make_layer()
    ended = command("top", "site")
    assert ended.status == 2
    assert "needs a terminal" in ended.err


def test_what_is_not_there_is_told_before_the_screen_is_taken(
    command: Commands, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_ipc.cli.commands.top._has_screen", lambda: True)
    assert "there is no store of prefix 'none'" in command("top", "none").err
    assert "there are no stores to look at" in command("top").err
    assert "there are no stores to look at" in command("top", "--directory", str(parent)).err


@pytest.mark.parametrize(("key", "status"), [(b"q", 0), (b"\x03", 130)])
def test_in_a_terminal_it_shows_the_store_until_a_key_ends_it(
    tmp_path: Path, key: bytes, status: int
) -> None:
    options = {"directory": str(tmp_path)}
    with SyncIPCChannelLayer("site", engine="mmap", engine_options=options) as layer:
        layer.send("thumbnails", {"type": "a"})
        terminal, theirs = pty.openpty()
        # 100 columns and 30 lines.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        top = subprocess.Popen(
            [sys.executable, "-m", "asgi_ipc", "top", "site", "--directory", str(tmp_path)],
            env=os.environ | {"TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown, asked, ended = b"", False, False
        try:
            while select.select([terminal], [], [], ENOUGH)[0]:
                shown += os.read(terminal, 65536)
                if not asked and b"thumbnails" in shown:
                    os.write(terminal, key)
                    asked = True
        except OSError:
            ended = True
        finally:
            os.close(terminal)
            if not ended:
                top.kill()
        assert top.wait(ENOUGH) == status
        # Back on the ordinary screen.
        assert shown.rindex(b"\x1b[?1049l") > shown.rindex(b"\x1b[?1049h")
        layer.destroy()
