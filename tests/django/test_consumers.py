"""`DirectDispatchMixin`: the same connections are open, closed and usable as without it.

Random handlers run on two consumers at a time, once with the mixin and once without; what each
handler finds when it is called must be equal. Other tests count hops for each reason to hop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tools.databases import (
    postgres,
    postgres_settings,
    sqlite_settings,
)
from tests.tools.doubles import (
    watchdog,
)

pytest.importorskip("channels")

import django
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from channels import consumer as channels_consumer
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from django import conf, db
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.utils import ConnectionHandler

from asgi_ipc.django import consumers
from asgi_ipc.django.consumers import DirectDispatchMixin

__all__ = ["postgres", "watchdog"]

_EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "60"))
#: Seconds for one sequence of handlers.
_LIMIT = 60.0
_ALIASES = ("default", "other")
#: What handlers do to a connection, by the name of a method of `_Work`.
_DEEDS = (
    "query",
    "fail",
    "violate",
    "autocommit_off",
    "autocommit_on",
    "enter_atomic",
    "leave_atomic",
    "roll_back",
    "cut",
    "age",
    "close",
)
#: Where a handler does it.
_WHERES = ("thread", "child task", "another thread")

_Step = tuple[int, str, str, str]
_Trace = list[tuple[str, list[Any]]]


class _Work:
    """What handlers do with connections; one for each consumer."""

    def __init__(self) -> None:
        self._blocks: list[Any] = []

    def query(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    def fail(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT nonsense FROM nowhere")

    def violate(self, connection: Any) -> None:
        # No error that would make Django doubt the connection.
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE IF NOT EXISTS one (x INTEGER PRIMARY KEY)")
            cursor.execute("DELETE FROM one")
            cursor.execute("INSERT INTO one VALUES (1), (1)")

    def autocommit_off(self, connection: Any) -> None:
        connection.set_autocommit(False)

    def autocommit_on(self, connection: Any) -> None:
        connection.set_autocommit(True)

    def enter_atomic(self, connection: Any) -> None:
        block = transaction.atomic(connection.alias)
        block.__enter__()
        self._blocks.append(block)

    def leave_atomic(self, connection: Any) -> None:
        if self._blocks:
            self._blocks.pop().__exit__(None, None, None)

    def roll_back(self, connection: Any) -> None:
        if self._blocks:
            error = ValueError("roll back")
            self._blocks.pop().__exit__(ValueError, error, None)

    def cut(self, connection: Any) -> None:
        """End the connection behind Django's back, as a server does that is restarted."""
        if connection.connection is None:
            return
        if connection.vendor == "postgresql":
            import psycopg

            host = connection.settings_dict["HOST"]
            with psycopg.connect(host=host, user="tests", dbname="postgres") as other:
                number = connection.connection.info.backend_pid
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [number])
        else:
            connection.connection.close()

    def age(self, connection: Any) -> None:
        """Let CONN_MAX_AGE pass."""
        if connection.close_at:
            connection.close_at -= 10_000

    def close(self, connection: Any) -> None:
        connection.close()


class _Watched(AsyncConsumer):  # type: ignore[misc]
    """Notes what it finds at each message, then does as the message says."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self._work = _Work()
        self._seen: list[Any] = []

    async def step(self, message: dict[str, Any]) -> None:
        self.found = await sync_to_async(self._look)()
        alias, where = message["alias"], message["where"]
        act = functools.partial(self._act, message["deed"], alias)
        if where == "another thread":
            # A new one each time: which of several is taken would be chance.
            with ThreadPoolExecutor(1) as other:
                await sync_to_async(act, thread_sensitive=False, executor=other)()
        elif where == "child task":
            await asyncio.create_task(sync_to_async(act)())
        else:
            await sync_to_async(act)()

    def _act(self, deed: str, alias: str) -> None:
        getattr(self._work, deed)(db.connections[alias])

    def _look(self) -> list[Any]:
        connections = db.connections.all(initialized_only=True)
        return [self._state(each) for each in connections if each.connection is not None]

    def _state(self, connection: Any) -> Any:
        if connection.connection not in self._seen:
            self._seen.append(connection.connection)
        return (
            connection.alias,
            # Which of all connections that this consumer has had.
            self._seen.index(connection.connection),
            connection.is_usable(),
            connection.autocommit,
            connection.in_atomic_block,
            connection.closed_in_transaction,
            connection.errors_occurred,
            connection.health_check_enabled and connection.health_check_done,
        )


class _Direct(DirectDispatchMixin, _Watched):
    """The same, with the mixin."""


class _Hops:
    """Counts the hops that Channels makes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._really = channels_consumer.aclose_old_connections
        patch.setattr(channels_consumer, "aclose_old_connections", self._counted)

    async def _counted(self) -> None:
        self.count += 1
        await self._really()


@contextlib.contextmanager
def _databases(settings: dict[str, dict[str, Any]]) -> Iterator[_Hops]:
    """Django with these databases, and no other. All connections are closed at the end."""
    if not conf.settings.configured:
        conf.settings.configure(CHANNEL_LAYERS={})
    django.setup()
    opened: list[Any] = []

    def note(connection: Any, **rest: Any) -> None:
        opened.append(connection.connection)

    connection_created.connect(note)
    try:
        with pytest.MonkeyPatch.context() as patch:
            handler = ConnectionHandler(settings)
            patch.setattr(db, "connections", handler)
            patch.setattr(transaction, "connections", handler)
            yield _Hops(patch)
    finally:
        connection_created.disconnect(note)
        for connection in opened:
            connection.close()


async def _serve(consumer: Any, queue: asyncio.Queue[Any], own_thread: bool) -> None:
    async with ThreadSensitiveContext() if own_thread else contextlib.nullcontext():
        while (asked := await queue.get()) is not None:
            message, done = asked
            try:
                await consumer.dispatch(message)
                outcome = "done"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            done.set_result(outcome)


async def _play(kind: type, steps: Sequence[_Step], own_thread: bool) -> _Trace:
    """Have consumers carry out steps, each consumer in a task of its own; what they found."""
    consumers = [kind(), kind()]
    queues: list[asyncio.Queue[Any]] = [asyncio.Queue() for _ in consumers]
    tasks = [
        asyncio.create_task(_serve(consumer, queue, own_thread))
        for consumer, queue in zip(consumers, queues, strict=True)
    ]
    trace = []
    for number, deed, alias, where in steps:
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        message = {"type": "step", "deed": deed, "alias": alias, "where": where}
        consumers[number].found = []
        queues[number].put_nowait((message, done))
        trace.append((await asyncio.wait_for(done, _LIMIT), consumers[number].found))
    for queue in queues:
        queue.put_nowait(None)
    await asyncio.gather(*tasks)
    return trace


#: Ways to have an event loop, of which each takes hops to another thread.
_LOOPS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "asyncio.run": (lambda function: asyncio.run(function()), False),
    "async_to_sync": (lambda function: async_to_sync(function)(), False),
    "a thread for each consumer": (lambda function: asyncio.run(function()), True),
}

_options = st.fixed_dictionaries(
    {
        "CONN_MAX_AGE": st.sampled_from([0, 60, None]),
        "CONN_HEALTH_CHECKS": st.booleans(),
        # With False alone, what sets it to True is what leaves it changed.
        "AUTOCOMMIT": st.sampled_from([True, True, True, False]),
    }
)
_steps = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from(["query", *_DEEDS]),
        st.sampled_from(["default", "default", "other"]),
        st.sampled_from(["thread"] * 8 + list(_WHERES)),
    ),
    min_size=2,
    max_size=14,
)


def _compare(
    databases: dict[str, dict[str, Any]], steps: Sequence[_Step], loop: str
) -> tuple[int, int]:
    run, own_thread = _LOOPS[loop]
    traces, hops = [], []
    for kind in (_Watched, _Direct):
        with _databases(databases) as counted:
            play = functools.partial(_play, kind, steps, own_thread)
            traces.append(run(play))
            hops.append(counted.count)
    assert traces[1] == traces[0]
    assert hops[1] <= hops[0] == len(steps)
    return hops[0], hops[1]


_examples = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_examples
@given(default=_options, other=_options, steps=_steps, loop=st.sampled_from(sorted(_LOOPS)))
def test_handlers_find_the_same_connections_on_sqlite(
    default: dict[str, Any], other: dict[str, Any], steps: list[_Step], loop: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        databases = {
            alias: sqlite_settings(Path(folder), alias, options)
            for alias, options in (("default", default), ("other", other))
        }
        _compare(databases, steps, loop)


@_examples
@given(default=_options, other=_options, steps=_steps, loop=st.sampled_from(sorted(_LOOPS)))
def test_handlers_find_the_same_connections_on_postgresql(
    postgres: str, default: dict[str, Any], other: dict[str, Any], steps: list[_Step], loop: str
) -> None:
    databases = {
        alias: postgres_settings(postgres, alias, options)
        for alias, options in (("default", default), ("other", other))
    }
    _compare(databases, steps, loop)


_FEW_HOPS = [
    # No connection: Channels hops for nothing.
    pytest.param({}, ["nothing"] * 3, 0, id="no database is used"),
    # CONN_MAX_AGE is 0 unless set, so each connection is closed at the next message.
    pytest.param({}, ["query", "nothing", "nothing", "query", "nothing"], 2, id="max age 0"),
    pytest.param({"CONN_MAX_AGE": None}, ["query"] * 4, 0, id="max age None"),
    pytest.param({"CONN_MAX_AGE": 60}, ["query"] * 4, 0, id="max age a number"),
    pytest.param({"CONN_MAX_AGE": 60}, ["query", "age", "query", "query"], 1, id="age passes"),
    pytest.param({"CONN_MAX_AGE": None}, ["fail", "nothing", "nothing"], 1, id="an error occurred"),
    pytest.param(
        {"CONN_MAX_AGE": None}, ["violate", "nothing"], 0, id="an error that proves nothing"
    ),
    pytest.param({"CONN_MAX_AGE": None}, ["cut", "query", "cut", "query", "query"], 1, id="cut"),
    pytest.param(
        {"CONN_MAX_AGE": None}, ["autocommit_off", "nothing", "nothing"], 1, id="autocommit"
    ),
    pytest.param(
        {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True},
        ["query", "nothing", "nothing", "query", "nothing", "nothing"],
        2,
        id="health checks, once for each handler that asked the database",
    ),
    pytest.param(
        {"CONN_MAX_AGE": None}, ["enter_atomic", "leave_atomic"], 1, id="a block left open"
    ),
]


def _nothing(self: _Work, connection: Any) -> None:
    """Leave the connection alone."""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize(("options", "deeds", "expected"), _FEW_HOPS)
def test_it_hops_only_for_a_reason(
    kind: str,
    options: dict[str, Any],
    deeds: list[str],
    expected: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_Work, "nothing", _nothing, raising=False)
    if kind == "sqlite":
        database = sqlite_settings(tmp_path, "default", options)
    else:
        database = postgres_settings(request.getfixturevalue("postgres"), "default", options)
    steps = [(0, deed, "default", "thread") for deed in deeds]
    assert _compare({"default": database}, steps, "asyncio.run") == (len(deeds), expected)


def test_a_connection_that_was_open_before_the_first_message_is_closed(tmp_path: Path) -> None:
    async def main() -> list[Any]:
        # As by a view, in the thread that hops share.
        await sync_to_async(_Work().query)(_Late("default"))
        (_, found), *_ = await _play(_Direct, [(0, "query", "default", "thread")], False)
        return found

    with _databases({"default": sqlite_settings(tmp_path, "default", {})}) as hops:
        assert asyncio.run(main()) == []
        assert hops.count == 1


class _Late:
    """A connection that is looked up in the thread that uses it."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def cursor(self) -> Any:
        return db.connections[self._alias].cursor()


def test_connections_of_other_threads_do_not_count(tmp_path: Path) -> None:
    steps = [(0, "query", "default", "another thread")] * 3
    with _databases({"default": sqlite_settings(tmp_path, "default", {})}) as hops:
        trace = asyncio.run(_play(_Direct, steps, False))
        assert trace == [("done", [])] * 3
        assert hops.count == 0


def test_a_backend_with_rules_of_its_own_is_always_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db.backends.sqlite3.base import DatabaseWrapper

    closes_as_django = consumers._closes_as_django
    closes_as_django.cache_clear()
    try:
        monkeypatch.setattr(DatabaseWrapper, "close_if_unusable_or_obsolete", lambda self: None)
        with _databases({"default": sqlite_settings(tmp_path, "default", {})}) as hops:
            asyncio.run(_play(_Direct, [(0, "query", "default", "thread")] * 3, False))
            assert hops.count == 3
    finally:
        closes_as_django.cache_clear()


def test_a_forked_child_finds_the_same_connections(tmp_path: Path) -> None:
    # In a process of its own: pytest's has threads, which a fork would leave behind. Hops go to
    # the main thread, which is the one that a child has; so it has that thread's connections.
    code = f"""
import os
from pathlib import Path
from tests.django.test_consumers import (
    _databases, _Direct, _play, _Watched, async_to_sync, functools, sqlite_settings
)

steps = [(0, deed, "default", "thread") for deed in ("query", "query", "age", "query")]

def play(kind):
    return async_to_sync(functools.partial(_play, kind, steps, False))()

def in_a_child(kind):
    reader, writer = os.pipe()
    with _databases({{"default": settings}}) as hops:
        play(kind)
        hops.count = 0
        if not os.fork():
            os.write(writer, repr((play(kind), hops.count)).encode())
            os._exit(0)
        os.wait()
    os.close(writer)
    return eval(os.read(reader, 65536))

settings = sqlite_settings(Path({str(tmp_path)!r}), "default", {{"CONN_MAX_AGE": 60}})
(plain, _), (direct, hops) = in_a_child(_Watched), in_a_child(_Direct)
assert plain == direct, (plain, direct)
assert [len(found) for _, found in direct] == [1, 1, 1, 0], direct
assert hops == 1, hops
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_messages_without_a_handler_are_refused_as_channels_does() -> None:
    async def refusal(kind: type, message: dict[str, Any]) -> str:
        with pytest.raises(ValueError, match=r"\w") as refused:
            await kind().dispatch(message)
        return str(refused.value)

    async def main() -> None:
        for message in ({"type": "unknown.kind"}, {"type": "_private"}, {}):
            assert await refusal(_Direct, message) == await refusal(_Watched, message)

    with _databases({}):
        asyncio.run(main())


def test_a_synchronous_consumer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Chat is a SyncConsumer.*AsyncWebsocketConsumer"):
        type("Chat", (DirectDispatchMixin, WebsocketConsumer), {})
    with pytest.raises(TypeError, match="SyncConsumer"):
        type("Chat", (DirectDispatchMixin, SyncConsumer), {})


def test_a_mixin_named_last_is_refused() -> None:
    with pytest.raises(TypeError, match="name the mixin first"):
        type("Chat", (AsyncWebsocketConsumer, DirectDispatchMixin), {})


def test_a_dispatch_that_would_be_passed_over_is_refused() -> None:
    class Logged(AsyncConsumer):  # type: ignore[misc]
        seen = 0

        async def dispatch(self, message: Any) -> None:
            self.seen += 1
            await super().dispatch(message)

        async def test(self, message: Any) -> None:
            """Do nothing."""

    with pytest.raises(TypeError, match=r"Logged overrides dispatch.*Chat\(Logged, Direct"):
        type("Chat", (DirectDispatchMixin, Logged), {})

    # Without a consumer class it is a mixin still.
    mixed: type = type("Mixed", (DirectDispatchMixin,), {})

    class Chat(mixed, AsyncConsumer):  # type: ignore[misc]
        seen = 0

        async def dispatch(self, message: Any) -> None:
            self.seen += 1
            await super().dispatch(message)

        async def test(self, message: Any) -> None:
            """Do nothing."""

    with _databases({}) as hops:
        chat = Chat()
        asyncio.run(chat.dispatch({"type": "test"}))
        assert (chat.seen, hops.count) == (1, 0)


def test_what_is_passed_over_does_no_more_than_when_the_mixin_was_written() -> None:
    """Newer versions may look at more before they close, or do more than hop: read them then."""
    assert AsyncConsumer.dispatch.__code__.co_names == (
        "getattr",
        "get_handler_name",
        "aclose_old_connections",
        "ValueError",
    )
    closing = BaseDatabaseWrapper.close_if_unusable_or_obsolete.__code__.co_names
    assert set(closing) == {
        "connection",
        "health_check_done",
        "get_autocommit",
        "settings_dict",
        "close",
        "errors_occurred",
        "is_usable",
        "close_at",
        "time",
        "monotonic",
    }
