"""The Wire contract: what a relay needs from a server that joins machines.

A wire carries *frames* on *topics* between machines, and may keep *queues* that all machines
share. Topics, queues and frames are ``bytes``; a wire never sees a channel, a group or a message.
`asgi_ipc.relay.memory` is the reference. "Hears" means that the wire calls ``heard``.

Every wire must pass the tests (``conformance/wires/``) that cite these clauses:

Connection
  W1   Making a wire uses no network. A wrong URL, prefix or option, and one that the wire does not
       take, raise `OptionError`, which names all that is wrong, and the remedies. No text of a wire
       has credentials: no error, no log message, no ``repr``. A wire without ``queues`` says why in
       the class attribute ``no_queues``, and what to do.
  W2   `start` returns once the server has answered on all connections. It raises `WireRefused` if
       a person must change something, as for a wrong password or where another kind of server
       answers, and otherwise `WireLost`, at the latest after the option ``timeout`` (seconds), and
       then leaves nothing open.
  W3   A wire never connects again. `lost` returns once any of its connections has ended, or the
       server has not answered on one for ``timeout`` to twice that time, or has refused a call
       (`WireRefused`; W11 for queues), or has sent what its protocol does not allow. From then on
       the wire hears nothing, and each other call but `close` raises that error. So each call ends,
       although its answer never comes. Seconds in which the process itself was stopped do not count
       as silence.
  W4   `close` ends all connections, also of a server that does not answer, leaves no task and no
       thread, and may be called at any time and twice. Waiting calls then end with `WireLost`, and
       nothing more is heard.

Topics
  W5   Each frame that is published is heard at most once by each wire of that prefix that is
       subscribed to its topic, with every byte unchanged; also by the wire that published it. No
       other wire hears it. Frames that other programs publish on the topic are heard too: the
       caller must expect any bytes.
  W6   A wire hears the frames of each publishing wire in the order in which they were published,
       those on different topics too.
  W7   Once `subscribe` has returned, each frame that any wire publishes is heard, unless a wire is
       lost. Subscribing again changes nothing. Once `unsubscribe` has returned, no frame of those
       topics is heard.
  W8   `publish` sends each frame at most once. It returns before the server has confirmed the
       frames, but waits while more than `WINDOW` bytes are unconfirmed, so a slow server makes the
       caller wait and not the memory grow. If the wire is lost or closed meanwhile, it raises
       `WireLost`, whose ``unsent`` counts the frames at the end of the batch that were certainly
       not sent. A frame of more than ``frame_limit`` bytes raises `ValueError`, and nothing is
       sent.
  W9   What ``heard`` or ``ready`` raises goes to the event loop's exception handler, and the next
       frames are heard. Cancelling a call leaves the wire usable.

Queues (capability ``queues``)
  W10  Each frame is popped at most once, by one caller, with every byte unchanged; frames of one
       wire in the order of the pushes. Calls may overlap, and take effect in the order in which
       they were made.
  W11  `push` refuses a frame if its queue already holds ``capacity`` live frames, or if the server
       has no room. If the server refuses the command itself, each call on queues raises
       `WireRefused`. The wire remains usable.
  W12  A frame is never popped once its lifetime has passed by the server's clock, counted from its
       arrival there. It then no longer counts, and a queue of dead frames takes no memory for
       more than a minute.
  W13  A `pop` that returns fewer frames than asked for arms the wire on that queue: the next frame
       pushed there makes one armed wire, that armed first, call ``ready`` once. Wires that are
       closed or gone are skipped. `disarm` takes the wire off the queue; if frames are there, the
       wire armed next calls ``ready``. A wire that is stopped can keep its call to itself, so
       callers also look from time to time.
  W14  `clear` empties all queues of the prefix. Queues of other prefixes are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from ..exceptions import WireError

#: Longest topic or queue name, in bytes; any bytes are allowed.
MAX_TOPIC = 128
#: Bytes of published frames that may be unconfirmed before `Wire.publish` waits (W8).
WINDOW = 1024 * 1024
#: Default of the option ``timeout`` that every wire takes, in seconds.
TIMEOUT = 5.0

#: Called with topic and frame, or with a queue's name, in the wire's event loop. Must not block.
Heard = Callable[[bytes, bytes], None]
Ready = Callable[[bytes], None]


class WireCapabilities(NamedTuple):
    """What a wire declares it can do. The suite skips tests of absent capabilities."""

    #: The server keeps queues (W10 to W14). If not, none of these methods is called.
    queues: bool


class Frame(NamedTuple):
    """One frame to publish."""

    topic: bytes
    payload: bytes


class Pushed(NamedTuple):
    """What came of a `Wire.push`."""

    #: Live frames in the queue afterwards.
    length: int
    #: None if the frame was taken; otherwise ``"capacity"`` or ``"no room"`` (W11).
    refused: str | None = None


class Wire(Protocol):
    """Connections to one server. See the module's clauses W1 to W14.

    Made as ``factory(url, prefix, **options)``, where ``options`` are the user's ``relay_options``
    without ``backlog`` and ``keys``. A prefix has 1 to 64 ASCII letters, digits, ``-``, ``_`` and
    ``.``, the first not ``.``; all names on the server begin with ``asgi_ipc:<prefix>:``, or as
    near to that as its names allow. All methods belong to the event loop that calls `start`, and
    none blocks it.
    """

    capabilities: ClassVar[WireCapabilities]
    #: The largest frame that the server takes, in bytes; known once `start` has returned.
    frame_limit: int

    async def start(self, heard: Heard, ready: Ready | None = None) -> None:
        """Connect; call ``heard`` for each frame, and ``ready`` for queues (W2, W13). Call once."""

    async def publish(self, frames: Sequence[Frame]) -> None:
        """Send a batch in order, over one connection (W5, W6, W8)."""

    async def subscribe(self, topics: Collection[bytes]) -> None:
        """Hear these topics too; return once the server has confirmed all (W7)."""

    async def unsubscribe(self, topics: Collection[bytes]) -> None:
        """Hear these topics no more (W7)."""

    async def lost(self) -> WireError:
        """Wait until the wire is lost or closed, and return why (W3). Any number may wait."""

    async def close(self) -> None:
        """End all connections (W4)."""

    async def push(self, queue: bytes, frame: bytes, lifetime: float, capacity: int) -> Pushed:
        """Put a frame that lives ``lifetime`` seconds on a shared queue (W10 to W13)."""

    async def pop(self, queue: bytes, limit: int = 1) -> list[bytes]:
        """Take up to ``limit`` oldest frames; never waits for frames (W10, W12, W13).

        There may be more, if these are many bytes: pop until none comes.

        If it is cancelled, or the wire is lost meanwhile, what it took may be lost.
        """

    async def disarm(self, queue: bytes) -> None:
        """Tell the server that nothing here waits for this queue any more (W13)."""

    async def length(self, queue: bytes) -> int:
        """Return how many live frames a queue holds (W12)."""

    async def clear(self) -> None:
        """Empty all queues (W14)."""
