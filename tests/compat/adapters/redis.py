"""channels_redis: both of its layers are ours."""

from __future__ import annotations

import channels_redis.core
import channels_redis.pubsub

from .layer import AnyLayer, stores_of_its_own

channels_redis.core.RedisChannelLayer = AnyLayer
channels_redis.pubsub.RedisPubSubChannelLayer = AnyLayer

__all__ = ["stores_of_its_own"]
