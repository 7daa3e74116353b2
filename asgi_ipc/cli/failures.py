"""The errors that a command tells its user in one line; any other exception is a defect."""

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
