"""Instruments for OpenTelemetry, for the processes of a site (extra ``opentelemetry``).

::

    from asgi_ipc.metrics.opentelemetry import observe

    observe(layer)

An instrument is called as its metric is in Prometheus, with a dot: ``asgi_ipc.messages_pending``.
The numbers are those of the whole store, so it is enough that one process observes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from .. import __version__
from .catalogue import OF_RELAY, OF_STORE, Metric
from .readings import Sample, of_layer

if TYPE_CHECKING:
    from ..layers.aio import IPCChannelLayer
    from ..layers.sync import SyncIPCChannelLayer

#: Seconds for which what was read is good: the instruments of one collection are called in turn.
_FRESH = 0.5
_UNITS = {"": "1", "bytes": "By", "seconds": "s"}


def observe(layer: IPCChannelLayer | SyncIPCChannelLayer, meter: Meter | None = None) -> None:
    """Make the instruments of a layer's store, with a meter; without one, with the global one.

    Their callbacks read the store, at most about twice a second. That may wait for another process
    that holds the store's lock, normally for microseconds. OpenTelemetry logs what they raise.
    """
    meter = meter or get_meter("asgi_ipc", __version__)
    source = _Source(layer)
    for metric in (*OF_STORE, *OF_RELAY):
        make = (
            meter.create_observable_counter
            if metric.kind == "counter"
            else meter.create_observable_gauge
        )
        make(
            f"asgi_ipc.{metric.name}",
            callbacks=[source.callback(metric)],
            unit=_UNITS[metric.unit],
            description=metric.help,
        )


class _Source:
    """What was read last."""

    def __init__(self, layer: IPCChannelLayer | SyncIPCChannelLayer) -> None:
        self._layer = layer
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._samples: dict[Metric, list[Sample]] = {}

    def callback(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """Return the callback of one instrument."""

        def values(options: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(each.value, dict(each.labels)) for each in self._now().get(metric, ())
            ]

        return values

    def _now(self) -> dict[Metric, list[Sample]]:
        with self._lock:
            if time.monotonic() - self._read_at > _FRESH:
                self._samples = dict(of_layer(self._layer).samples())
                self._read_at = time.monotonic()
            return self._samples


__all__ = ["observe"]
