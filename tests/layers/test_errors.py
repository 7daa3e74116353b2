"""What a layer says when something is wrong: spoilt records, full stores, dropped messages."""

from __future__ import annotations

import asyncio
import logging
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, StoreCorrupt, StoreFull, SyncIPCChannelLayer
from asgi_ipc.encoding.names import channel_name
from asgi_ipc.engines.base import Record
from tests.tools.doubles import (
    BlockingEngine,
    CountingEngine,
    engine,
    run,
)


@pytest.mark.parametrize("kind", [CountingEngine, BlockingEngine])
@pytest.mark.parametrize("payload", [b"\xc1", b"\x90"])
def test_a_corrupt_record_is_an_error_that_names_the_store_and_the_remedy(
    kind: Any, payload: bytes
) -> None:
    async def main() -> None:
        spoilt = engine(kind)
        layer = IPCChannelLayer("site", engine=spoilt)
        own = channel_name(await layer.new_channel())
        deadline = spoilt.clock() + 10**12

        await asyncio.to_thread(spoilt.put, b"g", b"no member", deadline)
        bad = Record(b"c", payload, deadline, 100)

        async def receive(channels: list[str]) -> Any:
            return await asyncio.to_thread(layer.sync.receive, channels)

        calls: list[tuple[Any, list[Record]]] = [
            (partial(layer.receive, "c"), [bad]),
            (partial(receive, ["c"]), [bad]),
            (
                partial(layer.receive, own.full),
                [bad._replace(queue=own.queue, payload=own.header + payload)],
            ),
            # No envelope, either.
            (partial(receive, [own.queue.decode()]), [bad._replace(queue=own.queue)]),
            (partial(layer.group_channels, "g"), []),
            (partial(layer.group_send, "g", {}), []),
        ]
        for call, records in calls:
            await asyncio.to_thread(spoilt.push, records)
            with pytest.raises(StoreCorrupt) as caught:
                await call()
            said = str(caught.value)
            assert type(caught.value) is StoreCorrupt
            assert said.startswith(f"the store of prefix 'site' on engine {spoilt!r} holds what no")
            assert said.endswith("to start afresh remove it with destroy()")
            assert isinstance(caught.value.__cause__, StoreCorrupt)
            assert f"({caught.value.__cause__});" in said
        await layer.close()

    run(main())


def test_the_error_of_a_corrupt_record_names_the_directory_that_was_given(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"engine": "mmap", "engine_options": {"directory": tmp_path}}
    layer = SyncIPCChannelLayer("site", **options)
    store = layer._core.demux.engine
    store.push([Record(b"c", b"\xc1", store.clock() + 10**12, 100)])
    said = f"store of prefix 'site' on engine 'mmap' in '{tmp_path}' holds"
    with pytest.raises(StoreCorrupt, match=said):
        layer.receive(["c"])
    layer.destroy()


def test_a_full_store_is_a_channel_full_with_the_engines_advice() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(channel_memory=1000))
        with pytest.raises(StoreFull, match="channel_memory"):
            await layer.send("c", {"a": b"x" * 2000})
        await layer.group_add("g", "c")
        await layer.group_send("g", {"a": b"x" * 2000})
        await layer.close()

    run(main())


def test_dropped_group_messages_are_logged_but_not_each(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(), capacity=1)
        await layer.group_add("room", "a")
        await layer.group_add("room", "b")
        await layer.send("a", {})
        for _ in range(50):
            await layer.group_send("room", {})
        await layer.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())
    record, rest = caplog.records
    assert record.levelname == rest.levelname == "WARNING"
    assert "98 dropped since the last warning" in rest.getMessage()
    assert "room" in record.getMessage()
    assert "1 of 2 channels (a)" in record.getMessage()
    assert "1 dropped since the last warning" in record.getMessage()


class _Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(f"can't write {record.getMessage()}")


def test_an_exception_of_a_log_handler_loses_no_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(), capacity=1)
        await layer.group_add("room", "a")
        channel = await layer.new_channel()
        await layer.send(channel, {})
        await layer.flush()
        await layer.send(channel, {"n": 1})
        # Which notices the flush, and tells of what it has dropped.
        assert await layer.receive(channel) == {"n": 1}
        for _ in range(2):
            await layer.group_add("room", "a")
            await layer.group_send("room", {})
        assert (await layer.global_statistics())["channel_full_count"] == 1
        await layer.close()

    logger, handler = logging.getLogger("asgi_ipc"), _Raising()
    logger.addHandler(handler)
    try:
        run(main())
    finally:
        logger.removeHandler(handler)
    assert "can't write" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [IPCChannelLayer, SyncIPCChannelLayer])
def test_a_layer_that_is_passed_to_a_spawned_process_says_what_to_pass(kind: Any) -> None:
    layer = kind(engine="memory")
    with pytest.raises(TypeError, match=f"this {kind.__name__} can't be pickled.*its options"):
        pickle.dumps(layer)
