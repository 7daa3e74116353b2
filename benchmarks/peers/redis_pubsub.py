"""channels_redis on Redis' publish and subscribe, over a UNIX socket."""

from __future__ import annotations

from typing import Any

from ..place import Place
from .base import Layer, Peer
from .redis_core import flush, hosts, unavailable


def _open(place: Place, **options: Any) -> Layer:
    from channels_redis.pubsub import RedisPubSubChannelLayer

    layer: Layer = RedisPubSubChannelLayer(
        **{"hosts": hosts(place), "prefix": place.prefix, **options}
    )
    return layer


async def _close(layer: Any) -> None:
    await layer.flush()


def peer() -> Peer:
    """channels_redis.pubsub.RedisPubSubChannelLayer."""
    return Peer(
        name="channels_redis pubsub",
        open=_open,
        close=_close,
        unavailable=unavailable,
        imports="from channels_redis.pubsub import RedisPubSubChannelLayer",
        prepare=flush,
        clean=flush,
        # Every receiver gets every message, and one that nobody waits for is gone.
        shares_work=False,
        queues=False,
        # As with the other, so that both are asked the same.
        most_waiting=0,
    )
