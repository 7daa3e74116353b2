"""Every error of ours, by what went wrong. Each message names the object, the rule and the remedy.

`ChannelFull` and `MessageTooLarge` are those of ``channels.exceptions`` where Channels
is installed, so that code written for any channel layer handles ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:

    class ChannelFull(Exception):
        """The channel holds as many messages as its capacity allows."""

    class MessageTooLarge(Exception):
        """The message is larger than the layer carries."""

else:
    try:
        from channels.exceptions import ChannelFull, MessageTooLarge
    except ImportError:

        class ChannelFull(Exception):
            """The channel holds as many messages as its capacity allows."""

        class MessageTooLarge(Exception):
            """The message is larger than the layer carries."""


class StoreFull(ChannelFull):
    """The store, or the file system or kernel limit under it, has no room left."""


class StoreUnavailable(Exception):
    """The store can't be opened or used: no permission, another version, gone, closed."""


class Reentered(StoreUnavailable):
    """A call from code that Python ran in the middle of another call of the same thread.

    Such code is a finalizer (``__del__``), a garbage collection, a trace function or a signal
    handler. The layers carry out later what they can; this is raised where the answer is
    needed at once. Nothing was done.
    """

    def __init__(self) -> None:
        super().__init__(
            "a signal handler, a finalizer (__del__), a garbage collection or a trace function "
            "called the channel layer while the code that it interrupted was inside the same "
            "store; let it note what is to be done, and do that after it has returned"
        )


class StoreCorrupt(Exception):
    """The store's contents contradict themselves; nothing of it was carried out."""


class RecordCorrupt(StoreCorrupt):
    """What lies in a store is none of ours. Inside only: the layer makes it a `StoreCorrupt`
    that names the store."""


class EngineUnavailable(Exception):
    """No such engine, or it can't work on this machine."""


class OptionError(ValueError):
    """A constructor option is wrong; names the option, its value and the rule."""


__all__ = [
    "ChannelFull",
    "EngineUnavailable",
    "MessageTooLarge",
    "OptionError",
    "RecordCorrupt",
    "Reentered",
    "StoreCorrupt",
    "StoreFull",
    "StoreUnavailable",
]
