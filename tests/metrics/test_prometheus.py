"""The collector for prometheus_client: the same numbers as the command prints."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, generate_latest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.metrics import exposition, readings
from asgi_ipc.metrics.prometheus import StoreCollector
from tests.metrics.conftest import values_of


def test_it_collects_what_the_command_prints(layer: SyncIPCChannelLayer) -> None:
    layer.send("work", {"type": "a"})
    layer.receive(["work"])
    registry = CollectorRegistry()
    registry.register(StoreCollector(layer))
    assert (
        registry.get_sample_value("asgi_ipc_received_total", {"prefix": "site", "engine": "memory"})
        == 1
    )
    # It sorts the labels.
    found = {
        key.replace('engine="memory",prefix="site"', 'prefix="site",engine="memory"'): value
        for key, value in values_of(generate_latest(registry).decode()).items()
    }
    expected = values_of(exposition.text(readings.of_layer(layer)))
    assert {key: found.get(key) for key in expected} == expected
    assert len(found) == len(expected)


def test_a_layer_of_asyncio_will_do_and_what_bypasses_the_store_is_counted_once() -> None:
    async def main() -> dict[str, float]:
        layer = IPCChannelLayer("site", engine="memory")
        channel = await layer.new_channel()
        receiving = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0)
        await layer.send(channel, {"type": "a"})
        await receiving
        registry = CollectorRegistry()
        registry.register(StoreCollector(layer))
        found = values_of(generate_latest(registry).decode())
        await layer.destroy()
        return {key.partition("{")[0]: value for key, value in found.items()}

    found = asyncio.run(main())
    assert found["asgi_ipc_passed_directly_total"] == 1
    assert found["asgi_ipc_messages_total"] == found["asgi_ipc_received_total"] == 0
