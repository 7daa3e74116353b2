"""Instruments for OpenTelemetry."""

from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.metrics.catalogue import OF_STORE
from asgi_ipc.metrics.opentelemetry import observe


def test_each_metric_is_an_instrument_with_its_unit(layer: SyncIPCChannelLayer) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    observe(layer, provider.get_meter("site"))
    layer.send("work", {"type": "a"})
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        each.name: each
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for each in scope.metrics
    }
    assert set(found) == {f"asgi_ipc.{metric.name}" for metric in OF_STORE}
    sent = found["asgi_ipc.messages"]
    assert isinstance(sent.data, Sum)
    assert sent.data.is_monotonic
    (point,) = sent.data.data_points
    assert point.value == 1
    assert point.attributes == {"prefix": "site", "engine": "memory"}
    assert found["asgi_ipc.messages_max_age_seconds"].unit == "s"
    assert found["asgi_ipc.channel_bytes_limit"].unit == "By"
    provider.shutdown()
