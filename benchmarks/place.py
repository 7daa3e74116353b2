"""Where one case has its things: nothing outlives it, and no two cases share anything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """What a worker process has to know to open the layer of its case."""

    #: A folder of this case alone, in memory where there is such a file system.
    directory: str
    #: Of the layer's channels and groups.
    prefix: str
    #: Socket of the Redis server, or ``""``.
    redis: str
    #: An empty database with the tables of channels-lite, to be copied; or ``""``.
    database: str
