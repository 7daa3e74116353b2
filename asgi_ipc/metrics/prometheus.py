"""A collector for prometheus_client, for the processes of a site (extra ``prometheus``).

::

    from prometheus_client import REGISTRY

    from asgi_ipc.metrics.prometheus import StoreCollector

    REGISTRY.register(StoreCollector(layer))

The numbers are those of the whole store, so it is enough to ask one process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .catalogue import OF_STORE
from .readings import of_layer

if TYPE_CHECKING:
    from ..layers.aio import IPCChannelLayer
    from ..layers.sync import SyncIPCChannelLayer

_LABELS = ("prefix", "engine")


class StoreCollector(Collector):
    """The metrics of a layer's store, read whenever they are collected.

    Any thread may collect. That may wait for another process that holds the store's lock, normally
    for microseconds, and raises what a call of the layer would.
    """

    def __init__(self, layer: IPCChannelLayer | SyncIPCChannelLayer) -> None:
        self._layer = layer

    def describe(self) -> Iterable[Metric]:
        """Return the names alone, so that to register it reads nothing."""
        return [_family(each.name, each.kind, each.help) for each in OF_STORE]

    def collect(self) -> Iterable[Metric]:
        """Read the store."""
        for metric, samples in of_layer(self._layer).samples():
            family = _family(metric.name, metric.kind, metric.help)
            for labels, value in samples:
                family.add_metric([labels[name] for name in _LABELS], value)
            yield family


def _family(name: str, kind: str, text: str) -> CounterMetricFamily | GaugeMetricFamily:
    made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    return made(f"asgi_ipc_{name}", text, labels=_LABELS)


__all__ = ["StoreCollector"]
