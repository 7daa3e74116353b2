"""channels_redis with queues in Redis, over a UNIX socket."""

from __future__ import annotations

from typing import Any

from ..place import Place
from .base import CAPACITY, Layer, Peer, Resources

#: redis-py 8 gives up after five seconds without an answer, just when the server would answer
#: core's waiting receivers that there is nothing; and it opens at most 100 connections.
FAIR: dict[str, Any] = {"socket_timeout": None, "max_connections": 10_000}


def hosts(place: Place) -> list[dict[str, Any]]:
    """The server, as both layers of channels_redis want to be told."""
    return [{"address": f"unix://{place.redis}", **FAIR}]


def unavailable(resources: Resources) -> str | None:
    """Why there is no server."""
    return None if resources.redis else resources.redis_missing


def flush(place: Place) -> None:
    """Empty the server."""
    with _client(place) as client:
        client.flushall()


def _client(place: Place) -> Any:
    from redis import Redis

    return Redis(unix_socket_path=place.redis)


def _used(place: Place, layer: Any) -> int:
    with _client(place) as client:
        return int(client.info("memory")["used_memory"])


def _open(place: Place, **options: Any) -> Layer:
    from channels_redis.core import RedisChannelLayer

    layer: Layer = RedisChannelLayer(
        **{"hosts": hosts(place), "prefix": place.prefix, "capacity": CAPACITY, **options}
    )
    return layer


async def _close(layer: Any) -> None:
    await layer.close_pools()


def peer() -> Peer:
    """channels_redis.core.RedisChannelLayer."""
    return Peer(
        name="channels_redis core",
        open=_open,
        close=_close,
        unavailable=unavailable,
        imports="from channels_redis.core import RedisChannelLayer",
        prepare=flush,
        clean=flush,
        used=_used,
        most_prefilled=10_000,
        # Each would need a connection, or look by itself.
        most_waiting=0,
    )
