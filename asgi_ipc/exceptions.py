"""All errors of asgi_ipc. Each message says what failed, the actual value, and the remedy.

`ChannelFull` and `MessageTooLarge` are those of ``channels.exceptions`` if Channels is installed,
so code written for any channel layer handles them.
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


class OutcomeUnknown(StoreUnavailable):
    """The server of an engine has not answered, so the call was carried out or not.

    It may also be carried out later, after other calls. It must not be repeated where it would do
    harm twice: a message might arrive twice.
    """


class Reentered(StoreUnavailable):
    """A call from code that Python ran in the middle of another call of the same thread.

    Such code is a finalizer (``__del__``), a garbage collection, a trace function or a signal
    handler. The layers defer calls without a result; a call whose result is needed at once raises
    this, and changes nothing.
    """

    def __init__(self) -> None:
        super().__init__(
            "a signal handler, a finalizer (__del__), a garbage collection or a trace function "
            "called the channel layer in the middle of another call on the same store; note the "
            "call there, and make it after that code has returned"
        )


class StoreCorrupt(Exception):
    """The store's contents contradict themselves; the call changed nothing."""


class RecordCorrupt(StoreCorrupt):
    """A record in the store was written by no layer. Internal: layers raise a `StoreCorrupt` that
    names the store instead."""


class UnreadableMessage(Exception):
    """A message in the store was written by another serializer. Internal: layers count and log it,
    and receive the next."""

    def __init__(self, by: str, why: str = "") -> None:
        super().__init__(f"a message was written by serializer {by!r}{why and ': '}{why}")
        #: The name of that serializer; and why it can't be read, unless by another's name.
        self.by: str = by
        self.why: str = why


class ForeignChannel(ValueError, AssertionError):
    """`receive` was called for a process-specific channel that this process did not make.

    An `AssertionError` too, as other channel layers raise that.
    """


class FlushIncomplete(Exception):
    """This machine's store is empty, but other machines did not confirm that theirs are."""


class EngineUnavailable(Exception):
    """No such engine, or it can't work on this machine."""


class WireError(Exception):
    """A relay's connection to a server failed. No text of it ever has credentials."""


class WireRefused(WireError):
    """The server, or what stands between, says no until a person changes something.

    For example a server of another kind, wrong credentials, a certificate that does not fit.
    """


class WireLost(WireError):
    """The server can't be reached, or the connection is gone; a new connection may succeed.

    ``unsent`` is how many frames at the end of a published batch were certainly not sent. Whether
    the frames before them have arrived is unknown, so they must not be sent again.
    """

    def __init__(self, text: str, *, unsent: int = 0) -> None:
        super().__init__(text)
        self.unsent = unsent


class OptionError(ValueError):
    """A constructor option is wrong; the text names the option, its value and the rule."""


__all__ = [
    "ChannelFull",
    "EngineUnavailable",
    "FlushIncomplete",
    "ForeignChannel",
    "MessageTooLarge",
    "OptionError",
    "OutcomeUnknown",
    "RecordCorrupt",
    "Reentered",
    "StoreCorrupt",
    "StoreFull",
    "StoreUnavailable",
    "UnreadableMessage",
    "WireError",
    "WireLost",
    "WireRefused",
]
