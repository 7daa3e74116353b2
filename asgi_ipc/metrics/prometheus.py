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

from . import catalogue
from .catalogue import OF_RELAY, OF_STORE
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
        return [_family(each) for each in (*OF_STORE, *OF_RELAY)]

    def collect(self) -> Iterable[Metric]:
        """Read the store."""
        for metric, samples in of_layer(self._layer).samples():
            family = _family(metric)
            for labels, value in samples:
                family.add_metric([labels[name] for name in _labels(metric)], value)
            yield family


def _labels(metric: catalogue.Metric) -> tuple[str, ...]:
    return (*_LABELS, metric.label) if metric.label else _LABELS


def _family(metric: catalogue.Metric) -> CounterMetricFamily | GaugeMetricFamily:
    made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return made(f"asgi_ipc_{metric.name}", metric.help, labels=_labels(metric))


__all__ = ["StoreCollector"]
