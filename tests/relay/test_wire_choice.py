"""How a wire is chosen: by scheme, entry point or path, and how URLs are shown."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from asgi_ipc.exceptions import OptionError
from asgi_ipc.relay import wire_choice
from asgi_ipc.relay.memory import MemoryWire
from asgi_ipc.relay.options import checked
from asgi_ipc.relay.wire import Frame
from asgi_ipc.relay.wire_choice import BUILT_IN, find_wire, open_wire, wire_names
from asgi_ipc.relay.wire_settings import (
    _FOREIGN,
    COMMON,
    CREDENTIALS,
    TLS,
    check_frames,
    check_topic,
    shown,
)


def test_every_wire_of_asgi_ipc_is_found_by_its_schemes() -> None:
    for scheme in BUILT_IN:
        assert callable(find_wire(f"{scheme}://host"))
        assert find_wire(scheme) is find_wire(f"{scheme}://host")
    assert wire_names() == sorted(BUILT_IN)


def test_an_entry_point_adds_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "asgi_ipc.relay.memory:MemoryWire"
    point = EntryPoint("mine", path, wire_choice.ENTRY_POINT_GROUP)
    monkeypatch.setattr(wire_choice, "_entry_points", lambda: {"mine": point})
    assert find_wire("mine://host") is MemoryWire
    assert find_wire(path) is MemoryWire
    assert "mine" in wire_names()


@pytest.mark.parametrize(
    ("relay", "words"),
    [
        (
            "reddis://u:s3cr3t@h",
            "relay reddis://h: there is no wire 'reddis'; use one of 'nats', 'redis'",
        ),
        (7, "relay is 7; give a URL such as 'redis://HOST:6379'"),
        ("", "relay is ''; give a URL"),
        ("no_such_module:Wire", "can't be imported: ModuleNotFoundError: No module named"),
        ("s3cr3t@h:1", "relay h:1: there is no wire 'h:1'"),
        ("u:s3cr3t@h", "relay h: there is no wire 'h'"),
        ("localhost:6379", "write 'redis://localhost:6379'"),
        ("s3cr3t", "relay ...: there is no wire '...'; use one of"),
        ("s3cr3t://h", "relay ...://h: there is no wire '...'; use one of"),
        ("redis:6379", "write 'redis://redis:6379'"),
        ("broker:4222", "write 'nats://broker:4222'"),
        ("rediss:/h:6379", "write 'rediss://h:6379'"),
    ],
)
def test_what_is_no_wire_is_refused_and_shows_no_credentials(relay: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        open_wire(relay, "p")
    assert words in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_the_built_in_wires_need_no_package() -> None:
    script = """
import sys
for name in ("redis", "hiredis", "nats"):
    sys.modules[name] = None
from asgi_ipc.relay.wire_choice import find_wire
print(find_wire("redis://h").__name__, find_wire("nats://h").__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "RedisWire NatsWire\n"


@pytest.mark.parametrize("scheme", ["memory", "nats", "redis"])
def test_our_wires_name_all_that_is_wrong_in_the_same_words(scheme: str) -> None:
    with pytest.raises(OptionError) as caught:
        open_wire(f"{scheme}://h:1#x", "a b", {"timeout": "soon", "tmeout": 3})
    for words in (
        f"relay {scheme}://h:1: the URL has a '#'; if it belongs to a password, write it as %23",
        "prefix is 'a b'; use 1 to 64 ASCII letters, digits, '-', '_' and '.'",
        f"there is no option 'tmeout' with {scheme}://h:1; did you mean 'timeout'?",
        "relay_options['timeout'] is 'soon'; it must be a number of seconds from 0.05 to 86400",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(("given", "meant"), [("keyz", "keys"), ("back_log", "backlog")])
def test_an_option_of_the_relay_that_is_misspelt_is_told_too(given: str, meant: str) -> None:
    with pytest.raises(OptionError, match=f"no option '{given}' .* did you mean '{meant}'"):
        checked("redis://h", "p", {given: 1}, 1 << 20)


def test_topics_and_frames_of_no_use_are_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match="use 1 to 128 bytes"):
        check_topic(b"x" * 129)
    with pytest.raises(ValueError, match="a frame has 8 bytes; the server takes at most 7"):
        check_frames([Frame(b"t", b"x" * 8)], 7)


def test_a_python_without_ssl_has_all_wires_but_their_tls() -> None:
    script = """
import asyncio, sys
sys.modules["ssl"] = sys.modules["_ssl"] = None
from asgi_ipc.exceptions import OptionError, WireLost
from asgi_ipc.relay.wire_choice import open_wire
for scheme in ("redis", "nats"):
    try:
        asyncio.run(open_wire(f"{scheme}://127.0.0.1:1", "p").start(print))
    except WireLost as error:
        assert "can't connect" in str(error), error
for scheme in ("rediss", "valkeys", "tls"):
    try:
        open_wire(f"{scheme}://host", "p")
    except OptionError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"relay {scheme}://host" for scheme in ("rediss", "valkeys", "tls")
    ]
    for line in lines:
        assert "built without the module ssl; take another Python" in line


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://u:p@h:1/0", "redis://h:1/0"),
        ("redis://u:p/w@h", "redis://h"),
        ("redis://u:p?w#x@h?y", "redis://h"),
        ("redis://:p@w@h", "redis://h"),
        ("redis://h?password=p", "redis://h"),
        ("unix:///run/r.sock?db=1", "unix:///run/r.sock"),
        ("unix://u:p@/run/r.sock", "unix:///run/r.sock"),
        ("u:p@h", "h"),
        ("redis://h/s3cr3t", "redis://h/..."),
        ("redis://h:s3cr3t", "redis://h:..."),
        ("redis://h:s3cr3t/0", "redis://h:.../0"),
        ("redis://h:123456789", "redis://h:..."),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://[::1]/12", "redis://[::1]/12"),
        ("redis://a:1,b:2/0", "redis://a:1,b:2/0"),
        ("S3cr3t://h", "...://h"),
        ("s3cr3t", "..."),
        ("user:s3cr3t", "..."),
        ("redis:s3cr3t", "..."),
        ("cache.internal", "cache.internal"),
        ("package.module:Wire", "package.module:Wire"),
    ],
)
def test_a_url_is_shown_without_its_credentials(url: str, safe: str) -> None:
    assert shown(url) == safe


def test_what_is_told_to_use_instead_of_options_of_redis_py_is_an_option() -> None:
    every = {**COMMON, **CREDENTIALS, **TLS}
    for name, told in _FOREIGN.items():
        named = set(re.findall(r"relay_options\['(\w+)'\]", told))
        assert named, name
        assert named <= set(every), name


def test_the_options_of_a_layer_show_no_credentials() -> None:
    """Pages of errors show the values of variables."""
    key = "00112233445566778899aabbccddeeff" * 2
    made = checked(
        "redis://u:s3cr3t@h:1/0", "p", {"password": None, "keys": [key], "timeout": 1.0}, 1 << 20
    )
    other = checked("redis://h", "p", {"username": "u", "password": "s3cr3t"}, 1 << 20)
    for text in (repr(made), str(made), repr(other), repr(made.wire), repr(vars(type(made.wire)))):
        assert "s3cr3t" not in text
        assert key not in text
