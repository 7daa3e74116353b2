"""``ping``: a probe, for a monitor or a container's health check."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from typing import Any

import click

from ...engines.base import Engine
from ...engines.shm.engine import SharedMemoryEngine
from ...exceptions import StoreUnavailable
from ..arguments import as_json, on_store
from ..choice import StoreChoice
from ..failures import FAILURES
from ..joining import joined
from ..limits import STOPPED, TooLate, end_at_once, limit
from ..output import write, write_json

#: A queue and a table that no layer has, as no name of a channel or group begins so.
_NOTHING = b"?ping"


@click.command("ping")
@on_store
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="give up after that time",
)
@as_json
def command(store: StoreChoice, timeout: float, as_json: bool) -> int:
    """Probe the store of PREFIX.

    The store is there, its locks are given, and a wake-up arrives. Changes nothing in the store,
    and does not look at what is stored: 'check' does.

    Exit status: 0 if all is well, 1 with the reason if not.
    """
    start = time.perf_counter()
    reason, late = "", None
    step = "find the store"
    try:
        with limit(timeout):
            for step in _steps(store):  # noqa: B007
                pass
    except TooLate as error:
        late = error
        reason = f"could not {step} within {timeout:g} seconds; {STOPPED}"
    except FAILURES as error:
        reason = str(error)
    took = time.perf_counter() - start
    if as_json:
        write_json(
            {"prefix": store.prefix, "alive": not reason, "seconds": took, "reason": reason or None}
        )
    elif reason:
        write(reason)
    else:
        write(f"{store.prefix}: alive ({took * 1000:.1f} ms)")
    if late and late.is_joined:
        end_at_once(1)
    return 1 if reason else 0


def _steps(store: StoreChoice) -> Iterator[str]:
    """Do one step after the other; yields what is done next, as ``could not ...``."""
    yield "join the store"
    with joined(store, patience=False) as engine:
        yield "get the lock of the channels"
        bell = engine.bell()
        try:
            engine.statistics(_NOTHING)
            yield "get the lock of the groups"
            engine.members(_NOTHING)
            if engine.capabilities.wakes:
                yield "be woken"
                _wake(engine, bell)
        finally:
            bell.close()


def _wake(engine: Engine, bell: Any) -> None:
    """Signal a bell as a push of another process would, through its FIFO, and wait for that."""
    if isinstance(engine, SharedMemoryEngine):
        session = engine.session
        if not session.signal(_NOTHING, session.bell_word(bell)):
            raise StoreUnavailable(
                f"a wake-up could not be written in {session.location.directory!r}: was the FIFO "
                "of this process removed?"
            )
    else:
        bell.signal()
    # Interrupted by the time limit.
    select.select([bell.fileno()], [], [])
    bell.clear()


__all__ = ["command"]
