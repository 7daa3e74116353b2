"""The errors of this package with which a command ends, or that it tells: no defects of its own."""

from __future__ import annotations

from ..exceptions import (
    ChannelFull,
    EngineUnavailable,
    FlushIncomplete,
    MessageTooLarge,
    OptionError,
    StoreCorrupt,
    StoreUnavailable,
    UnreadableMessage,
    WireError,
)

#: Of a store that can't be used as it is: `StoreFull` is a `ChannelFull`.
OF_STORE = (ChannelFull, StoreCorrupt, StoreUnavailable, OSError)
#: All of them; those of a program's own arguments are `TypeError` and `ValueError`.
FAILURES = (
    *OF_STORE,
    EngineUnavailable,
    FlushIncomplete,
    MessageTooLarge,
    OptionError,
    UnreadableMessage,
    WireError,
)

__all__ = ["FAILURES", "OF_STORE"]
