"""System checks of ``CHANNEL_LAYERS``: each mistake is told at once, with its remedy and its id."""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("channels")

from django import conf
from django.core import mail
from django.core.checks import CheckMessage
from django.test.utils import override_settings

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.django import checks
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.layers.options import problems
from tests.tools.django_sites import SITE, manage
from tests.tools.doubles import fresh
from tests.tools.holders import impatient, stopped_holder
from tests.tools.layers import engine_of
from tests.tools.users import as_nobody, needs_root, public_path

__all__ = ["public_path"]

ROOT = Path(__file__).resolve().parents[2]
OURS = "asgi_ipc.IPCChannelLayer"
SMALL: dict[str, Any] = {"channel_memory": 1 << 20, "group_memory": 1 << 20}


class Lenient(IPCChannelLayer):
    """Takes options of its own."""

    def __init__(self, motto: str) -> None:
        super().__init__(motto)


def check(entries: dict[str, Any], **settings: Any) -> list[CheckMessage]:
    if not conf.settings.configured:
        conf.settings.configure()
    with override_settings(CHANNEL_LAYERS=entries, **settings):
        return checks.check_channel_layers()


def config(**options: Any) -> list[CheckMessage]:
    """What is told of one layer; its store is in no default directory that could hold one."""
    return check({"default": {"BACKEND": OURS, "CONFIG": {"prefix": fresh(), **options}}})


def ids(found: list[CheckMessage]) -> list[str]:
    return [each.id.removeprefix("asgi_ipc.") for each in found]


def test_settings_without_a_mistake_pass() -> None:
    assert config() == []
    assert config(engine="memory", channel_capacity={"thumb*": 5}) == []
    assert check({}) == []
    # Its options alone, without those that other layers need.
    assert problems({"relay": "redis://127.0.0.1:6399"}) == []
    memory = {"engine": "memory", "relay": "memory://x", "prefix": "mysite"}
    assert check({"default": {"BACKEND": OURS, "CONFIG": memory}}) == []
    assert check({"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}) == []
    # The options of a subclass with a constructor of its own are its own.
    assert check({"default": {"BACKEND": f"{__name__}.Lenient", "CONFIG": {"motto": "a b"}}}) == []


def test_all_mistakes_are_told_at_once_by_manage_py_check() -> None:
    entries = {
        "default": {
            "BACKEND": OURS,
            "CONFIG": {
                "hosts": [("localhost", 6379)],
                "symmetric_encryption_keys": ["secret"],
                "serializer_format": "json",
                "capacty": 5,
                "prefix": "a b",
                "expiry": -1,
                "channel_capacity": {"a": 0, "b": "many"},
                "engine": "posx",
            },
        },
    }
    done = manage("check", layers=entries)
    assert done.returncode == 1
    for number, words in {
        "E001": ["prefix is 'a b'", "expiry is -1", "channel_capacity['a']", "capacity['b']"],
        "E002": ["'hosts'", "'symmetric_encryption_keys'", "'serializer_format'", "'capacty'"],
        "E003": ["'posx'"],
    }.items():
        lines = [line for line in done.stderr.splitlines() if f"(asgi_ipc.{number})" in line]
        assert len(lines) == len(words)
        assert all(any(word in line for line in lines) for word in words)
    remedies = ["no server", "remove it", "remove it if it is 'msgpack'", "did you mean 'capacity'"]
    for remedy in remedies:
        assert re.search(f"HINT: .*{remedy}", done.stderr, re.I)
    assert "?." not in done.stderr


@pytest.mark.parametrize(
    ("entry", "number", "remedy"),
    [
        ({"BACKEND": "asgi_ipc.SyncIPCChannelLayer"}, "E005", "IPCChannelLayer"),
        ({"BACKEND": "asgi_ipc.IPCChannelLayr"}, "E006", "IPCChannelLayer"),
        ({"BACKEND": OURS, "CONFIG": ["prefix"]}, "E001", "dict"),
        ({"BACKEND": OURS, "prefix": "x", "CONFIG": {"prefix": "q"}}, "W005", "into CONFIG"),
        ({"BACKEND": OURS, "CONFIG": {"prefix": "q"}, "TEST_CONFIG": {"x": 1}}, "E002", "options"),
        ({"BACKEND": OURS, "CONFIG": {"engine": "nowhere:Engine"}}, "E003", "available here"),
        ({"BACKEND": OURS, "CONFIG": {"engine": 5}}, "E003", "pass a name"),
        ({"BACKEND": OURS, "CONFIG": {"engine_options": {"mod": 1}}}, "E004", "directory"),
        ({"BACKEND": OURS, "CONFIG": {"engine_options": {"directory": "x"}}}, "E004", "/x"),
        ({"BACKEND": OURS, "CONFIG": {"engine_options": {"mode": 0o777}}}, "E004", "0o600"),
        ({"BACKEND": OURS, "CONFIG": {"engine_options": {"group": "nope"}}}, "E004", "getent"),
        ({"BACKEND": OURS, "CONFIG": {"engine_options": 5}}, "E001", "dict"),
    ],
)
def test_a_mistake_has_its_id_and_remedy(entry: dict[str, Any], number: str, remedy: str) -> None:
    (found,) = check({"default": entry})
    assert ids([found]) == [number]
    assert remedy.lower() in found.hint.lower()
    assert str(found).startswith("CHANNEL_LAYERS['default']")


def test_each_fault_of_a_relay_is_told_by_itself() -> None:
    found = config(relay="memory://x", relay_options={"tmeout": 3, "timeout": "x"})
    assert ids(found) == ["E001", "E001"]
    assert all(each.msg.startswith("relay_options") for each in found)
    assert all(each.hint for each in found)


def test_an_engine_that_can_not_work_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from asgi_ipc.engines.shm.sysv import SysVEngine

    monkeypatch.setattr(SysVEngine, "unavailable", classmethod(lambda cls: "no System V here"))
    (found,) = config(engine="sysv")
    assert ids([found]) == ["E003"]
    assert "no System V here" in found.msg
    assert "'posix'" in found.hint


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"thumbnails-*": 5}, []),
        ({"thumbnails-*": 5, "*": 5}, ["W008"]),
        ({"specific.*": 5}, ["W008"]),
        ({"http.response!*": 5}, ["W003"]),
        ({"websocket.receive": 5}, ["W003"]),
        ({"specific.inmemory!*": 5}, ["W003"]),
        ({"chat/room": 5}, ["W003"]),
        ({re.compile(r"http\.request"): 5}, []),
        ({"specific.*!a*": 5}, ["W004"]),
        ({"specific.*!a*": 5, "a b": 5}, ["W003", "W004"]),
    ],
)
def test_patterns_are_compared_with_the_names_of_channels_4(
    patterns: dict[Any, int], expected: list[str]
) -> None:
    assert ids(config(channel_capacity=patterns)) == expected


@pytest.mark.parametrize("pattern", ["thumb nails", "specific.*", "websocket.*", "é*"])
def test_patterns_that_share_no_channel_are_told(pattern: str) -> None:
    shared = {"engine": "memory", "relay": "memory://x"}
    (found,) = config(**shared, relay_channels=["thumbnails", "mail.*", pattern])
    assert ids([found]) == ["W003"]
    assert repr(pattern) in found.msg
    assert "mail" not in found.msg
    assert config(**shared, relay_channels=["thumbnails", "mail.*", "*"]) == []


def test_a_capacity_that_loses_bursts_is_told() -> None:
    (found,) = config(capacity=100)
    assert ids([found]) == ["W008"]
    assert "Remove capacity" in found.hint
    assert ids(config(capacity=100, channel_capacity={"specific.*": 100, "*": 5})) == ["W008"]


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ({"default": OURS}, f"{{'BACKEND': '{OURS}'}}"),
        ({"default": {"CONFIG": {"prefix": "x"}}}, f"{{'BACKEND': '{OURS}'}}"),
        ({"default": {}}, "BACKEND"),
        ({"default": None}, "BACKEND"),
        ([OURS], "default"),
    ],
)
def test_an_entry_that_is_no_layer_is_told(layers: Any, told: str) -> None:
    (found,) = check(layers)
    assert ids([found]) == ["E009"]
    assert told in found.hint


def test_a_hint_is_made_of_sentences() -> None:
    found = [*config(engine="posx"), *config(prefx=1, channel_capacity=[1])]
    assert "HINT: Did you mean 'posix'? Available here: 'memory', " in str(found[0])
    assert len(found) == 3
    for each in found:
        assert re.search(r"[^?.][?.]$", each.hint)
        assert re.search(r"[^?.][?.]$", each.msg)
        assert "\n" not in each.hint
    # What a hint suggests is no mistake itself.
    (suggested,) = (each for each in found if "channel_capacity" in each.msg)
    example = re.search(r"\{.*\}", suggested.hint)
    assert example is not None
    assert config(channel_capacity=ast.literal_eval(example[0])) == []


def test_layers_on_one_store_are_told(tmp_path: Path) -> None:
    def entry(prefix: str, engine: str, **options: Any) -> dict[str, Any]:
        given = {"prefix": prefix, "engine": engine, "engine_options": options}
        return {"BACKEND": OURS, "CONFIG": given}

    here = {"directory": str(tmp_path)}
    assert ids(check({"a": entry("x", "mmap", **here), "b": entry("y", "mmap", **here)})) == []
    assert ids(check({"a": entry("x", "mmap", **here), "b": entry("x", "mmap", **here)})) == [
        "W002"
    ]
    assert ids(check({"a": entry("x", "mmap", **here), "b": entry("x", "sysv", **here)})) == [
        "E007"
    ]
    assert ids(check({"a": entry("x", "memory"), "b": entry("x", "posix", **here)})) == []


# ---- the store that is there


@pytest.fixture
def options(tmp_path: Path) -> Iterator[dict[str, Any]]:
    made: dict[str, Any] = {
        "prefix": "asgi",
        "engine": "mmap",
        "engine_options": {"directory": str(tmp_path)},
        **SMALL,
    }
    yield made
    SyncIPCChannelLayer(**made).destroy()


@pytest.fixture
def stranger(options: dict[str, Any], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that uses the store, and runs in another folder."""
    program = (
        f"import asgi_ipc, time; layer = asgi_ipc.SyncIPCChannelLayer(**{options!r});"
        " print('open', flush=True); layer.receive(['nothing'], block=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd="/", stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.communicate()


def test_a_check_makes_no_store_and_says_nothing_of_one_that_nobody_uses(
    options: dict[str, Any], tmp_path: Path
) -> None:
    entries = {"default": {"BACKEND": OURS, "CONFIG": options}}
    assert check(entries) == []
    assert list(tmp_path.iterdir()) == []
    SyncIPCChannelLayer(**options).close()
    assert check(entries) == []
    # The first that opens it as another engine replaces it.
    assert check({"default": {"BACKEND": OURS, "CONFIG": {**options, "engine": "sysv"}}}) == []


def test_a_directory_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    options = {"engine": "mmap", "engine_options": {"directory": str(tmp_path / "no" / "sites")}}
    (found,) = config(**options)
    assert ids([found]) == ["E008"]
    assert "can't make the directory" in found.msg
    assert "this user may write to" in str(found.hint)
    (tmp_path / "no").mkdir(mode=0o700)
    assert config(**options) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "no"]
    assert list((tmp_path / "no").iterdir()) == []


@needs_root
def test_a_directory_that_is_another_users_is_told(public_path: Path) -> None:
    options = {"engine": "mmap", "engine_options": {"directory": str(public_path / "sites")}}

    def told() -> None:
        (found,) = config(**options)
        assert ids([found]) == ["E008"]
        assert "Permission denied" in found.msg

    as_nobody(told)
    assert config(**options) == []


def test_a_store_that_others_use_is_told(
    options: dict[str, Any],
    stranger: subprocess.Popen[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told(base: Path = tmp_path, **changes: Any) -> list[str]:
        entry = {"BACKEND": OURS, "CONFIG": {**options, **changes}}
        found = check({"default": entry}, BASE_DIR=base)
        seen.extend(found)
        return ids(found)

    seen: list[CheckMessage] = []
    # Neither its folder nor its interpreter is this project's.
    monkeypatch.chdir(tmp_path)
    assert told() == ["W001"]
    assert str(stranger.pid) in seen[-1].msg
    assert told(base=Path(sys.prefix)) == []
    assert told(channel_memory=1 << 21) == ["W007", "W001"]
    assert told(engine="sysv") == ["E008"]
    assert "'mmap'" in seen[-1].msg
    # Whatever the prefix: tests do not belong there.
    monkeypatch.setattr(mail, "outbox", [], raising=False)
    assert told() == ["W006"]
    assert "asgi_ipc.testing" in seen[-1].hint
    assert "Leave CONFIG" in seen[-1].hint
    # A lock that is free is all that a check needs.
    stranger.send_signal(signal.SIGSTOP)
    assert told() == ["W006"]


def test_a_stopped_process_holds_up_no_check(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"default": {"BACKEND": OURS, "CONFIG": options}}

    def open_engine() -> SharedMemoryEngine:
        engine = engine_of(SyncIPCChannelLayer(**options))
        assert isinstance(engine, SharedMemoryEngine)
        engine.statistics()
        return engine

    with stopped_holder(open_engine):
        assert check(entries, BASE_DIR=Path("/")) == []
    impatient(monkeypatch)
    with stopped_holder(open_engine, opening=True):
        (found,) = check(entries)
        assert (ids([found]), "state T in ps" in str(found.hint)) == (["W009"], True)


def test_the_document_shows_what_is_told() -> None:
    entry = {"BACKEND": OURS, "CONFIG": {"capacty": 5, "random_prefix_length": 1}}
    text = (ROOT / "docs" / "django.md").read_text()
    for each in check({"default": entry}):
        assert str(each) in text


def test_the_document_has_every_id_and_no_other() -> None:
    source = Path(checks.__file__).read_text()
    there = set(re.findall(r'"([EW]\d{3})"', source))
    text = (ROOT / "docs" / "django.md").read_text()
    assert set(re.findall(r"^\| `asgi_ipc\.([EW]\d{3})` \|", text, re.M)) == there
    assert SITE.is_dir()


def test_the_default_prefix_is_told_with_a_relay() -> None:
    found = config(relay="memory://one", prefix="asgi")
    assert ids(found) == ["W010"]
    assert "another for staging" in str(found[0].hint)
    assert config(relay="memory://one", prefix="mysite") == []


def test_a_test_run_with_a_relay_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches live clients from a machine on which no process of the site runs."""
    monkeypatch.setattr(mail, "outbox", [], raising=False)
    (found,) = config(relay="memory://one", prefix="mysite")
    assert ids([found]) == ["W006"]
    assert "reach all machines" in found.msg
    assert config(prefix="mysite") == []


def test_settings_that_differ_from_the_relay_that_runs_are_told(
    options: dict[str, Any], stranger: subprocess.Popen[str], tmp_path: Path
) -> None:
    given = {**options, "prefix": "relayed"}
    layer = SyncIPCChannelLayer(**given, relay="memory://one")
    try:
        layer.send("x", {})
        assert "W011" not in ids(config(**given, relay="memory://one"))
        (found,) = (
            each for each in config(**given, relay="memory://two") if each.id == "asgi_ipc.W011"
        )
        assert "relay: memory://two and memory://one" in found.msg
    finally:
        layer.destroy()
