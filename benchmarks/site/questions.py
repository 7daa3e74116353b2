"""The questions in the order in which a site is asked them, and of which variants of it."""

from __future__ import annotations

from dataclasses import dataclass

from . import bursts, measures
from .measures import Measure

#: Of the site: with a consumer as Channels has it, with our mixin, and without Channels.
CHANNELS, MIXIN, BARE = "channels", "mixin", "bare"
VARIANTS = (CHANNELS, MIXIN, BARE)


@dataclass(frozen=True)
class SiteQuestion:
    """A question; ``name`` and ``asks`` are shown."""

    name: str
    asks: str
    measures: tuple[Measure, ...]
    variants: tuple[str, ...] = (CHANNELS,)
    #: Needs the process of `runworker`.
    needs_worker: bool = False


QUESTIONS = [
    SiteQuestion(
        "latency",
        "Messages at fixed rates to rooms: how long until each member has each, and how much CPU"
        " of all processes do 10,000 deliveries take?",
        (measures.latency,),
        VARIANTS,
    ),
    SiteQuestion(
        "throughput",
        "How many deliveries a second, if a room's next message waits for the last?",
        (measures.throughput,),
        (CHANNELS, MIXIN, BARE),
    ),
    SiteQuestion(
        "bursts",
        "How many percent arrive of what is sent at once, and how long until the last?",
        (
            bursts.everyone_at_once,
            bursts.one_consumer,
            bursts.idle_sockets,
            bursts.typists,
            bursts.quiet_room,
        ),
    ),
    SiteQuestion(
        "worker",
        "To a process of runworker and back: how long?",
        (measures.worker,),
        (CHANNELS,),
        True,
    ),
    SiteQuestion(
        "storm",
        "All clients connect and join at once: how long, and how much memory does each take?",
        (measures.storm,),
    ),
]
