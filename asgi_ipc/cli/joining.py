"""Join a store that is there, as any process of it does, and leave it: never make one."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from ..engines.base import Engine
from ..engines.choice import check_options, find
from ..engines.shm.heap.layout import SMALLEST
from ..exceptions import EngineUnavailable
from .choice import StoreChoice
from .finding import is_over_shared_memory, locate, name_of, stores_of_others
from .limits import TooLate
from .output import note

if TYPE_CHECKING:
    from ..layers.sync import SyncIPCChannelLayer

#: The least that all engines take. The store keeps the sizes that it was made with.
_SIZES = {"channel_memory": 4 * SMALLEST, "group_memory": 2 * SMALLEST}
#: Seconds until a command that still waits says why that may be.
_PATIENCE = 5.0


@contextlib.contextmanager
def joined(choice: StoreChoice, patience: bool = True, stays: bool = False) -> Iterator[Engine]:
    """Join the store of a choice; leave it at the end of the ``with`` block.

    With ``patience``, prints a hint if the block takes long, and names stores of the same prefix
    that root might have meant; if it ``stays`` in the block, it prints the hint only if joining or
    leaving takes long, and each look in the block belongs in a `hint_if_slow`. Waits for other
    processes that hold the store's lock. Does not leave the store if the block raises `TooLate`.
    Raises `NoSuchStore` if there is no store, and what opening it raises.
    """
    at_ends = hint_if_slow if patience and stays else contextlib.nullcontext
    with hint_if_slow() if patience and not stays else contextlib.nullcontext():
        with at_ends():
            engine = join(choice)
        leaves = engine is not choice.engine
        try:
            for each in (
                stores_of_others(choice) if patience and is_over_shared_memory(choice) else ()
            ):
                note(
                    f"this is your own store of prefix {choice.prefix!r}; there is another at "
                    f"{each.path!r}, which {each.refusal}"
                )
            yield engine
        except TooLate as error:
            error.is_joined = True
            leaves = False
            raise
        finally:
            if leaves:
                with at_ends():
                    engine.close()


def join(choice: StoreChoice) -> Engine:
    """Return an engine on the store of a choice, which the caller closes; see `joined`."""
    engine: Any = choice.engine
    if engine is not None and not isinstance(engine, (str, type)) and hasattr(engine, "push"):
        return cast(Engine, engine)
    if not is_over_shared_memory(choice):
        return _join_other(choice)
    site = locate(choice)
    return site.factory.of_existing(site.prefix, **_SIZES, **site.options)


def _join_other(choice: StoreChoice) -> Engine:
    """Join a store of an engine that is not over shared memory, by its own ``of_existing``."""
    factory: Any = find(choice.engine)
    name = name_of(choice.engine)
    options = dict(choice.engine_options)
    reason = factory.unavailable() if hasattr(factory, "unavailable") else None
    if reason is not None:
        raise EngineUnavailable(f"engine {name} can't work here: {reason}")
    capabilities = getattr(factory, "capabilities", None)
    if capabilities is not None and not capabilities.crosses_processes:
        raise EngineUnavailable(
            f"engine {name} keeps its stores inside one process, where a command can't see them; "
            "ask the layer in that process: global_statistics()"
        )
    if not hasattr(factory, "of_existing"):
        raise EngineUnavailable(
            f"engine {name} can't join a store without creating one, so commands can't use it: it "
            "has no class method of_existing(prefix, **options) (docs/writing-an-engine.md)"
        )
    check_options(name, factory, options)
    return cast(Engine, factory.of_existing(choice.prefix, **_SIZES, **options))


@contextlib.contextmanager
def layer_over(engine: Engine, choice: StoreChoice) -> Iterator[SyncIPCChannelLayer]:
    """Yield a layer on a store that was joined."""
    from ..layers.sync import SyncIPCChannelLayer

    layer = SyncIPCChannelLayer(choice.prefix, engine=engine, **choice.layer_options)
    try:
        yield layer
    finally:
        layer.close()


def statistics_of(layer: SyncIPCChannelLayer) -> dict[str, float]:
    """Return the statistics of a store, without the process of the command itself."""
    counts = layer.global_statistics()
    if "processes_count" in counts:
        counts["processes_count"] -= 1
    return counts


@contextlib.contextmanager
def hint_if_slow() -> Iterator[None]:
    """Print a hint if the block takes long, as it would if a stopped process held a lock."""
    text = (
        f"no answer for {_PATIENCE:g} seconds: the store is large, or a stopped process (state T "
        "in ps) holds its lock; if so, continue that process (kill -CONT) or end it\n"
    )
    timer = threading.Timer(_PATIENCE, lambda: (sys.stderr.write(text), sys.stderr.flush()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


__all__ = ["hint_if_slow", "join", "joined", "layer_over", "statistics_of"]
