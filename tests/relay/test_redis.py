"""The wire to a Redis server: credentials, TLS, memory, and servers that are no use."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from asgi_ipc.conformance.tools import Port
from asgi_ipc.conformance.wires.servers import Redis

from asgi_ipc.exceptions import OptionError, WireError, WireLost, WireRefused
from asgi_ipc.relay.relay import BEAT
from asgi_ipc.relay.way_out import OUT
from asgi_ipc.relay.wire import Frame
from asgi_ipc.relay.wire_choice import open_wire
from tests.relay.conftest import PASSWORD
from tests.tools.certificates import Files
from tests.tools.documents import DOCS, blocks
from tests.tools.machines import Machine, eventually, join, received, run
from tests.tools.wires import error_of, in_loop, started, works


@in_loop
async def test_a_password_comes_from_the_url_or_an_option(redis: Redis) -> None:
    await works(redis.url, password=PASSWORD)
    await works(f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{redis.port}/3")
    await works(f"valkey://default:{quote(PASSWORD, safe='')}@127.0.0.1:{redis.port}")


@in_loop
async def test_credentials_that_are_refused_are_told_and_not_shown(redis: Redis) -> None:
    for options in ({}, {"password": "wr0ng"}, {"username": "n0body", "password": "wr0ng"}):
        error = await error_of(redis.url, **options)
        assert isinstance(error, WireRefused), error
        assert f"relay redis://127.0.0.1:{redis.port}: " in str(error)
        assert "wr0ng" not in str(error)
        assert "n0body" not in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__


@pytest.mark.parametrize("fails_at", [1, 2])
@in_loop
async def test_no_variable_of_an_unexpected_error_has_the_password(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """W1: services that collect errors show them."""
    loop = asyncio.get_running_loop()
    connect, left = loop.create_connection, [fails_at]

    async def fail(*words: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("can't start new thread")
        return await connect(*words, **options)

    monkeypatch.setattr(loop, "create_connection", fail)
    wire = open_wire(redis.url, "tests", {"password": PASSWORD})
    with pytest.raises(RuntimeError) as caught:
        await wire.start(lambda topic, frame: None)
    for entry in caught.traceback[1:]:
        assert PASSWORD not in repr(entry.frame.f_locals)


@in_loop
async def test_a_server_that_repeats_the_password_does_not_have_it_shown() -> None:
    if Redis.missing():
        pytest.skip(f"no Redis server: {Redis.missing()}")
    server = Redis("--rename-command", "AUTH", "")
    try:
        for password in ("s3cret'Pw", "p" * 200):
            error = await error_of(server.url, username="somebody", password=password)
            assert isinstance(error, WireRefused)
            assert "unknown command 'AUTH'" in str(error)
            assert password[:5] not in str(error)
    finally:
        server.end()


@in_loop
async def test_a_unix_socket_is_reached(tmp_path: object) -> None:
    if Redis.missing():
        pytest.skip(f"no Redis server: {Redis.missing()}")
    server = Redis("--unixsocket", "socket")
    try:
        await works(f"unix://{server.folder}/socket?db=2")
    finally:
        server.end()
    assert isinstance(await error_of(f"unix://{server.folder}/socket"), WireLost)


@in_loop
async def test_tls_needs_the_right_authority_and_the_right_name(
    redis_with_tls: Redis, files: Files
) -> None:
    url = redis_with_tls.url
    await works(url, ca_file=files.ca)
    await works(url.replace("127.0.0.1", "localhost"), ca_file=files.ca, check_hostname=False)
    for there, ca in ((url, files.other_ca), (url.replace("127.0.0.1", "localhost"), files.ca)):
        error = await error_of(there, ca_file=ca)
        assert isinstance(error, WireRefused), error
        assert "its certificate is not accepted: " in str(error)


@in_loop
async def test_a_wire_without_tls_and_a_server_with_it_do_not_wait_for_each_other(
    redis_with_tls: Redis, redis: Redis, files: Files
) -> None:
    plain = redis_with_tls.url.replace("rediss", "redis")
    error = await error_of(plain, timeout=0.5)
    assert isinstance(error, WireError)
    assert "; if it speaks TLS, write rediss://" in str(error)
    encrypted = redis.url.replace("redis", "rediss")
    error = await error_of(encrypted, ca_file=files.ca, timeout=0.5)
    assert isinstance(error, WireError)
    assert "; if it does not speak TLS, write redis://" in str(error)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("DENIED Redis is running in protected mode", WireRefused),
        ("ERR max number of clients reached", WireLost),
    ],
)
@pytest.mark.parametrize("password", [None, "p4ssword"])
@in_loop
async def test_what_a_server_says_before_it_is_asked_is_told(
    said: str, kind: type[WireError], password: str | None
) -> None:
    async def turn_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"-{said}\r\n".encode())
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(turn_away, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        options = {"password": password} if password else {}
        error = await error_of(f"redis://127.0.0.1:{port}", **options)
    assert isinstance(error, kind), error
    assert said in str(error)


@in_loop
async def test_a_server_that_is_not_there_is_told_in_words() -> None:
    with contextlib.closing(Port()) as nobody:
        error = await error_of(f"redis://127.0.0.1:{nobody.number}")
    assert isinstance(error, WireLost)
    assert "can't connect: Connection refused" in str(error)


@in_loop
async def test_a_process_that_has_too_many_open_files_is_told_what_to_do() -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "create_connection", refuse)
        error = await error_of("redis://127.0.0.1:9")
    assert isinstance(error, WireLost)
    assert "ulimit -n" in str(error)


async def limited(redis: Redis, *rules: str) -> dict[str, Any]:
    """Return how a user logs in who may do everything but that."""
    words = ("reset", "on", ">p4ssword", "+@all", "~*", *rules)
    async with started(redis.url, password=PASSWORD) as wire:
        await wire._ask(b"ACL", b"SETUSER", b"limited", *(word.encode() for word in words))  # type: ignore[attr-defined]
    return {"username": "limited", "password": "p4ssword"}


@in_loop
async def test_what_users_may_not_do_is_refused_and_named(redis: Redis) -> None:
    error = await error_of(redis.url, **await limited(redis, "-publish", "&*"))
    assert isinstance(error, WireRefused)
    assert "it answered PUBLISH: NOPERM " in str(error), "at once, and not when all seems well"
    user = await limited(redis, "-eval", "&asgi_ipc:tests:r:*", "&asgi_ipc:tests:t:t")
    heard: list[bytes] = []
    async with started(redis.url, lambda _, frame: heard.append(frame), **user) as wire:
        await wire.subscribe([b"t"])
        with pytest.raises(WireRefused, match=r"answered EVAL: .*permissions"):
            await wire.push(b"q", b"", 1, 1)
        await wire.publish([Frame(b"t", b"heard")])
        with pytest.raises(WireRefused, match="it answered a subscription: "):
            await wire.subscribe([b"another"])
    assert heard == [b"heard"]
    async with started(redis.url, **user) as wire:
        await wire.publish([Frame(b"another", b"")])
        assert "it answered PUBLISH: NOPERM " in str(await wire.lost())


@in_loop
async def test_a_site_without_queues_on_the_server_has_its_groups(
    redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """R12: a right that is missing, or a key that somebody else made; it is said once."""
    options = {"relay_options": await limited(redis, "-eval", "&*"), "relay_channels": ["work"]}
    one, two = (Machine(tmp_path / name, redis.url, **options) for name in ("one", "two"))

    def told() -> int:
        return sum("shared channels do not work" in each for each in caplog.messages)

    try:
        await join(one, two)
        channel = await two.member("room")
        waiting = asyncio.create_task(two.layer.receive("work"))
        for number in range(3):
            await one.layer.send("work", {"n": number})
        await one.layer.group_send("room", {"n": 1})
        assert await received(two.layer, channel) == [1]
        await eventually(lambda: one.count("dropped_refused_by_the_server") == 3)
        assert one.relay_now.state == two.relay_now.state == "connected"
        await eventually(lambda: told() == 2)
        await asyncio.sleep(0.3)
        assert told() == 2, "each machine once"
        waiting.cancel()
    finally:
        for machine in (one, two):
            await asyncio.to_thread(machine.end)
            machine.layer.sync.destroy()


@in_loop
async def test_databases_keep_sites_apart(redis: Redis) -> None:
    """Publish and subscribe know no databases."""
    heard: list[bytes] = []
    base = redis.url.rstrip("/")

    def hear(_: bytes, frame: bytes) -> None:
        heard.append(frame)

    async with (
        started(f"{base}/0", hear, password=PASSWORD) as here,
        started(f"{base}/1", password=PASSWORD) as there,
    ):
        for wire in (here, there):
            await wire.subscribe([b"t"])
        await there.publish([Frame(b"t", b"there")])
        await there.subscribe([b"after it"])
        await here.publish([Frame(b"t", b"here")])
        await here.subscribe([b"after it"])
    assert heard == [b"here"]


@in_loop
async def test_the_rights_that_the_document_names_are_enough(redis: Redis) -> None:
    (text,) = blocks(DOCS / "relays.md", "text")
    words = text.replace("PASSWORD", "p").encode().split()
    async with started(redis.url, password=PASSWORD) as wire:
        await wire._ask(*words)  # type: ignore[attr-defined]
    user: dict[str, Any] = {"username": "mysite", "password": "p"}
    await works(redis.url, **user)
    async with started(redis.url, **user) as wire:
        assert await wire.pop(b"rights") == []
        await wire.push(b"rights", b"x", 100, 10)
        await wire.disarm(b"rights")
        assert await wire.length(b"rights") == 1
        await wire.clear()


@in_loop
async def test_few_frames_are_confirmed_and_more_if_the_server_answers_each(redis: Redis) -> None:
    rules = "reset on >p +@all -client ~* &*"
    heard: list[bytes] = []
    async with started(redis.url, lambda _, frame: heard.append(frame), password=PASSWORD) as wire:
        await wire._ask(b"ACL", b"SETUSER", b"answered", *rules.encode().split())  # type: ignore[attr-defined]
        await wire.subscribe([b"t"])
        # The first on the topic, and each quarter of a window.
        assert await _replies(wire) <= 6
        await wire.subscribe([b"after all of them"])
        assert len(heard) == 1000
    async with started(redis.url, username="answered", password="p") as wire:
        assert await _replies(wire) == 1000


async def _replies(wire: Any) -> int:
    """Publish a megabyte in 1,000 frames; return how many replies came."""
    link, replies = wire._links[0], 0
    handle = link.handle

    def count(reply: object) -> None:
        nonlocal replies
        replies += 1
        handle(reply)

    link.handle = count
    for _ in range(1000):
        await wire.publish([Frame(b"t", b"x" * 1024)])
    await wire._ask(b"PING")
    link.handle = handle
    return replies - 1


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"$400000000000\r\n", b"x"),
        (b"$40000000\r\n", b"$"),
        (b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$50000000\r\n", b"x"),
        (b"*2000000000\r\n", b":1\r\n"),
        (b"*60000\r\n", b"$9999\r\n" + b"x" * 9999 + b"\r\n"),
        (b"*1\r\n" * 1000, b""),
        (b"+", b"x"),
        (b":" + b"1" * 10_000, b"\r\n"),
    ],
)
@in_loop
async def test_an_answer_without_end_takes_no_memory_and_no_time_without_end(
    redis: Redis, begin: bytes, piece: bytes
) -> None:
    async with started(redis.url, password=PASSWORD) as wire:
        link = wire._links[1]  # type: ignore[attr-defined]
        link.data_received(begin)
        for _ in range(100):
            if wire._state.alive:  # type: ignore[attr-defined]
                link.data_received(piece * (1_000_000 // max(1, len(piece))))
        error = await wire.lost()
        assert isinstance(error, WireLost)
        assert "it sent what no Redis server sends" in str(error)


@in_loop
async def test_a_queue_of_large_frames_is_popped_in_parts(redis: Redis) -> None:
    large = [bytes((number,)) * 9_000_000 for number in range(3)]
    async with started(redis.url, password=PASSWORD) as wire:
        for frame in large:
            await wire.push(b"large", frame, 100, 10)
        assert await wire.pop(b"large", 10) == large[:2]
        assert await wire.pop(b"large", 10) == large[2:]


@pytest.mark.parametrize("answer", [[b"frame"] * 3, [b"frame", 1], b"frame", 1, None, [[b"frame"]]])
@in_loop
async def test_more_than_was_asked_for_is_no_answer(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    """W3: it would fill the store with what no receiver waits for."""

    async def answered(*command: bytes) -> object:
        return answer

    async with started(redis.url, password=PASSWORD) as wire:
        monkeypatch.setattr(wire, "_ask", answered)
        with pytest.raises(WireLost, match="no Redis server sends"):
            await wire.pop(b"queue", 2)


@in_loop
async def test_a_server_without_memory_refuses_a_push_and_passes_frames_on(redis: Redis) -> None:
    heard: list[bytes] = []
    async with started(redis.url, lambda _, frame: heard.append(frame), password=PASSWORD) as wire:
        await wire._ask(b"CONFIG", b"SET", b"maxmemory", b"1")  # type: ignore[attr-defined]
        try:
            assert (await wire.push(b"full", b"x", 100, 10)).refused == "no room"
            await wire.subscribe([b"t"])
            await wire.publish([Frame(b"t", b"heard")])
        finally:
            await wire._ask(b"CONFIG", b"SET", b"maxmemory", b"0")  # type: ignore[attr-defined]
        assert (await wire.push(b"full", b"x", 100, 10)).refused is None
        assert await wire.pop(b"full") == [b"x"]
    assert heard == [b"heard"]


@in_loop
async def test_queues_leave_nothing_on_the_server(redis: Redis) -> None:
    async with started(redis.url, password=PASSWORD) as wire:
        await wire.push(b"short", b"x", 0.01, 10)
        await wire.push(b"short", b"x", 1000.0, 10)
        keys = await wire._ask(b"KEYS", b"asgi_ipc:tests:*short")  # type: ignore[attr-defined]
        assert len(keys) == 2
        for key in keys:
            left = await wire._ask(b"PTTL", key)  # type: ignore[attr-defined]
            assert 990_000 < left <= 1_006_000, "the longest that one of its frames lives"
        await wire.pop(b"short", 2)
        await wire.pop(b"armed")
        for key in await wire._ask(b"KEYS", b"asgi_ipc:tests:*"):  # type: ignore[attr-defined]
            assert await wire._ask(b"PTTL", key) > 0  # type: ignore[attr-defined]


@in_loop
async def test_a_frame_outlives_no_deadline_if_the_server_evicts_what_tells_it(
    redis: Redis,
) -> None:
    async with started(redis.url, password=PASSWORD) as wire:
        await wire.push(b"evicted", b"dead", 0.01, 10)
        await wire.push(b"evicted", b"alive", 100, 10)
        await wire._ask(b"DEL", b"asgi_ipc:tests:d:evicted")  # type: ignore[attr-defined]
        await asyncio.sleep(0.02)
        assert await wire.pop(b"evicted", 9) == [b"alive"]


@in_loop
async def test_a_subscriber_that_reads_too_slowly_is_lost(redis: Redis) -> None:
    """The server ends its connection; what it has not read is gone, and nothing comes twice."""
    heard: list[bytes] = []
    async with (
        started(redis.url, password=PASSWORD) as publisher,
        started(redis.url, lambda _, frame: heard.append(frame), password=PASSWORD) as slow,
    ):
        limit = b"pubsub 200kb 100kb 1"
        await publisher._ask(b"CONFIG", b"SET", b"client-output-buffer-limit", limit)  # type: ignore[attr-defined]
        await slow.subscribe([b"t"])
        # In the loop's same turns nothing reads; the kernel's buffers take a few megabytes.
        slow._links[1]._transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(1000):
            await publisher.publish([Frame(b"t", b"%d" % number + b"x" * 20_000)])
        slow._links[1]._transport.resume_reading()  # type: ignore[attr-defined]
        assert isinstance(await slow.lost(), WireLost)
    numbers = [int(frame.rstrip(b"x")) for frame in heard]
    assert numbers == list(range(len(numbers)))


@in_loop
async def test_a_server_that_can_not_write_to_its_disk_passes_frames_on() -> None:
    """It answers each PING with an error, and refuses changes of queues."""
    if Redis.missing():
        pytest.skip(f"no Redis server: {Redis.missing()}")
    server = Redis("--save", "3600 1")
    try:
        shutil.rmtree(server.folder)
        server.call("SET", "changed", "1")
        server.call("BGSAVE")
        while not server.call("PING").startswith(b"-MISCONF"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        heard: list[bytes] = []

        def hear(_: bytes, frame: bytes) -> None:
            heard.append(frame)

        async with started(server.url, hear, timeout=4) as wire:
            await wire.subscribe([b"t"])
            await asyncio.sleep(3)  # Both connections are pinged.
            await wire.publish([Frame(b"t", b"heard")])
            await wire.subscribe([b"u"])
            assert heard == [b"heard"]
            with pytest.raises(WireRefused, match=r"it answered EVAL: .*MISCONF"):
                await wire.push(b"q", b"x", 1, 1)
    finally:
        server.end()


class _Sentinel(Redis):  # type: ignore[misc]
    def command(self, program: str) -> list[str]:
        settings = self.folder / "sentinel.conf"
        settings.touch()
        return [program, str(settings), "--sentinel", "--port", str(self.port)]


@in_loop
async def test_a_sentinel_is_refused() -> None:
    if Redis.missing():
        pytest.skip(f"no Redis server: {Redis.missing()}")
    server = _Sentinel()
    try:
        error = await error_of(f"redis://127.0.0.1:{server.port}")
        assert isinstance(error, WireRefused)
        assert "it is a Sentinel; give the address of the primary" in str(error)
    finally:
        server.end()


@in_loop
async def test_a_server_that_becomes_a_replica_is_left() -> None:
    """At once when it refuses to change a queue."""
    if Redis.missing():
        pytest.skip(f"no Redis server: {Redis.missing()}")
    server = Redis()
    try:
        async with started(server.url) as wire:
            await wire._ask(b"REPLICAOF", b"127.0.0.1", b"1")  # type: ignore[attr-defined]
            with pytest.raises(WireRefused, match="it has become a replica; give the address"):
                await wire.push(b"q", b"x", 1, 1)
            assert "it has become a replica" in str(await wire.lost())
    finally:
        server.end()


@pytest.mark.parametrize("can_skip", [True, False])
@in_loop
async def test_a_site_with_groups_alone_leaves_a_server_that_becomes_a_replica(
    can_skip: bool,
) -> None:
    """However much it publishes, and each frame is confirmed."""
    if Redis.missing():
        pytest.skip(f"no Redis server: {Redis.missing()}")
    server = Redis()
    try:
        async with started(server.url, timeout=4) as wire:
            wire._can_skip = can_skip  # type: ignore[attr-defined]
            await wire._ask(b"REPLICAOF", b"127.0.0.1", b"1")  # type: ignore[attr-defined]
            with pytest.raises(  # noqa: PT012 (at which frame it is told, is chance)
                WireRefused, match="it has become a replica; give the address"
            ):
                while True:
                    await wire.publish([Frame(b"t", b"x")])
                    await asyncio.sleep(0.01)
    finally:
        server.end()


@in_loop
async def test_a_replica_and_a_node_of_a_cluster_are_refused() -> None:
    """Frames published on a replica reach nobody else, and a cluster's queues are apart."""
    if Redis.missing():
        pytest.skip(f"no Redis server: {Redis.missing()}")
    with contextlib.closing(Port()) as bus:
        for options, words in (
            (("--replicaof", "127.0.0.1", "1"), "it is a replica"),
            (
                ("--cluster-enabled", "yes", "--cluster-port", str(bus.number)),
                "it is a node of a cluster",
            ),
        ):
            server = Redis(*options)
            try:
                error = await error_of(server.url)
                assert isinstance(error, WireRefused)
                assert words in str(error)
            finally:
                server.end()


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("redis://", {}, "it names no host; write redis://HOST:6379"),
        ("unix://", {}, "it names no socket; write unix:///PATH/OF/SOCKET"),
        ("redis://h/x", {}, "the database is not a number"),
        ("redis://h?ssl_cert_reqs=none", {}, "'ssl_cert_reqs' behind its '?'; remove it: "),
        ("redis://:p@h", {"password": "q"}, "the URL and the option 'password' both give one"),
        ("redis://u@h", {}, "it names a user without a password"),
        ("redis://h1,h2", {}, "several servers; name one server"),
        ("redis://h1:1,redis://h2:2", {}, "several servers; name one server"),
        ("redis://", {"timeout": "x"}, "it names no host"),
        ("redis://h", {"password": ["x"]}, "relay_options['password'] is not that; it must be"),
        ("redis://", {"timeout": "x"}, "relay_options['timeout'] is 'x'; it must be"),
        ("redis://h", {"ca_file": "/etc/passwd"}, "there is no option 'ca_file'"),
        ("rediss://h", {"ca_file": "/nowhere"}, "the path of a file that exists"),
        ("rediss://h", {"ca_file": "/etc/passwd"}, "it must have certificates in PEM form"),
        ("rediss://h", {"key_file": "/etc/passwd"}, "is of no use without 'cert_file'"),
        ("rediss://h", {"cert_file": "/etc/passwd"}, "a certificate and its key, not encrypted"),
        ("redis://h:0x", {}, "the URL can't be read"),
        ("redis://h#x", {}, "has a '#'; if it belongs to a password, write it as %23"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    url: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(OptionError) as caught:
        open_wire(url, "tests", options)
    assert words in str(caught.value)


@pytest.mark.parametrize("waits", ["a beat", "the publisher"])
def test_a_relay_that_ends_behind_a_slow_server_leaves_what_it_has_not_sent(
    redis: Redis, tmp_path: Path, waits: str
) -> None:
    """R8: the next relay goes on with it, though a beat or records wait for the server."""
    options = {
        "channel_memory": 32 << 20,
        "relay_options": {"timeout": 60.0, "password": PASSWORD},
    }
    one, two = (Machine(tmp_path / name, redis.url, **options) for name in ("one", "two"))

    async def main() -> None:
        await join(one, two)
        await two.member("room")
        outbound = one.relay_now.outbound
        if waits == "the publisher":
            outbound.say = lambda *_: asyncio.sleep(3600)  # No beat comes before it.
            await asyncio.sleep(1.5 * BEAT)
        taken = one.engine.statistics(OUT)["popped"]
        redis.freeze()
        # Just beyond the window: `publish` returns, and the next call waits.
        for _ in range(2):
            await one.layer.group_send("room", {"x": bytes((1 << 19) + 5000)})
        await eventually(lambda: one.engine.statistics(OUT)["popped"] == taken + 2)
        if waits == "a beat":
            await asyncio.sleep(1.5 * BEAT)
            await eventually(outbound.publishing.locked)
        for number in range(50):
            await one.layer.group_send("room", {"n": number})
        if waits == "the publisher":
            await eventually(lambda: one.engine.statistics(OUT)["pending"] < 50)
        else:
            await asyncio.sleep(0.1)
            assert one.engine.statistics(OUT)["pending"] == 50
        one.end()
        assert one.engine.statistics(OUT)["pending"] == 50
        assert "dropped_outcome_unknown" not in one.report()["counts"]

    try:
        run(main)
    finally:
        redis.thaw()
        for machine in (one, two):
            machine.layer.sync.destroy()
