"""Take the values of the metrics, from an engine or from a layer."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..engines.base import Engine
from ..engines.choice import BUILT_IN
from ..layers.inspection import ChannelInfo, channels, has_relay, statistics
from .catalogue import OF_CHANNEL, OF_RELAY, OF_STORE, Metric

if TYPE_CHECKING:
    from ..layers.aio import IPCChannelLayer
    from ..layers.relays import RelayInfo
    from ..layers.sync import SyncIPCChannelLayer


class Sample(NamedTuple):
    """A value of a metric."""

    labels: dict[str, str]
    value: float


class Reading(NamedTuple):
    """A store at one moment."""

    prefix: str
    #: Name of the engine.
    engine: str
    statistics: dict[str, float]
    #: Some of its channels.
    channels: tuple[ChannelInfo, ...] = ()
    #: If the store is joined to those of other machines.
    relay: RelayInfo | None = None

    def samples(self) -> Iterator[tuple[Metric, list[Sample]]]:
        """Yield each metric that the engine tells, with its values."""
        of_store = {"prefix": self.prefix, "engine": self.engine}
        values = dict(self.statistics)
        # What falls when a message is put back is no counter.
        if "restored_count" in values:
            values["received_count"] += values["restored_count"]
        else:
            values.pop("received_count", None)
        for metric in OF_STORE:
            if metric.statistic in values:
                yield metric, [Sample(of_store, values[metric.statistic])]
        if self.relay is not None:
            for metric, found in zip(OF_RELAY, _of_relay(self.relay), strict=True):
                yield metric, [Sample({**of_store, **labels}, value) for labels, value in found]
        for metric in OF_CHANNEL if self.channels else ():
            yield (
                metric,
                [
                    Sample({**of_store, "channel": each.name}, getattr(each, metric.statistic))
                    for each in self.channels
                ],
            )


def _of_relay(relay: RelayInfo) -> Iterator[list[tuple[dict[str, str], float]]]:
    """Yield the values of each metric of `OF_RELAY`, with its further labels."""
    from ..layers.relays import DROPPED, MACHINE_STATES, STATES

    counts = relay.counts

    def alone(value: float | None) -> list[tuple[dict[str, str], float]]:
        return [] if value is None else [({}, value)]

    yield [({"state": each}, float(each == relay.state)) for each in STATES]
    yield alone(float(relay.state == "connected"))
    yield alone(relay.contact_age)
    yield alone(relay.lag)
    for name in (
        "frames_out", "bytes_out", "frames_in", "bytes_in", "disconnects", "kills", "gaps",
    ):  # fmt: skip
        yield alone(counts.get(name, 0))
    yield [
        ({"reason": name.removeprefix(DROPPED)}, count)
        for name, count in sorted(counts.items())
        if name.startswith(DROPPED)
    ]
    yield alone(relay.waiting)
    yield alone(relay.waiting_bytes)
    yield alone(relay.content.get("backlog"))
    yield [({"state": each}, relay.machines_in(each)) for each in MACHINE_STATES]
    yield alone(len(relay.problems))


def of_relay(engine: Engine) -> RelayInfo | None:
    """Return what there is to know of the relay of a store; None if it has none."""
    if not has_relay(engine):
        return None
    # Imported late, as most sites have one machine.
    from ..layers.relays import relay_of

    return relay_of(engine)


def of_engine(prefix: str, engine: Engine, most_channels: int = 0) -> Reading:
    """Read a store by an engine that has it open, which is not counted among its processes.

    With at most so many of its ordinary channels: those with most messages pending. Those of
    processes are left out, as their names are new with each process. Waits for the store's lock,
    again and again for a moment.
    """
    values = statistics(engine)
    if "processes_count" in values:
        values["processes_count"] -= 1
    found: list[ChannelInfo] = []
    if most_channels and engine.capabilities.inspects:
        ordinary = (each for each in channels(engine) if "!" not in each.name)
        found = heapq.nsmallest(most_channels, ordinary, key=lambda each: (-each.pending, each[0]))
    relay = of_relay(engine)
    return Reading(prefix, engine_name(engine), values, tuple(sorted(found)), relay)


def of_layer(layer: IPCChannelLayer | SyncIPCChannelLayer) -> Reading:
    """Read the store of a layer of this process, as any other process would read it."""
    core = layer._core
    values = core.store_statistics()
    engine = core.demux.engine
    return Reading(core.options.prefix, engine_name(engine), values, relay=of_relay(engine))


def engine_name(engine: Engine) -> str:
    """Return the name by which settings choose an engine, or else that of its class."""
    kind = type(engine)
    for name, path in BUILT_IN.items():
        if path == f"{kind.__module__}:{kind.__qualname__}":
            return name
    own = getattr(kind, "name", None)
    return own if isinstance(own, str) else kind.__qualname__


__all__ = ["Reading", "Sample", "engine_name", "of_engine", "of_layer", "of_relay"]
