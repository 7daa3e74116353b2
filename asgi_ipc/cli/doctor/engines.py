"""Each engine opened for real: a message between two processes, and a store of the real size."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import time
import warnings
from collections.abc import Mapping
from typing import Any

from asgi_ipc.engines import find, open_engine
from asgi_ipc.engines.base import Engine, Record
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap.layout import SMALLEST, VERSION
from asgi_ipc.engines.shm.lock_file import READY
from asgi_ipc.engines.shm.locks.base import NAMES
from asgi_ipc.engines.shm.machine import boot_identity
from asgi_ipc.exceptions import StoreUnavailable
from asgi_ipc.layers.sync import SyncIPCChannelLayer
from asgi_ipc.metrics.readings import of_relay

from ..attempt import PATIENCE, Failed, Other, attempt
from ..finding import importable_engine
from ..joining import statistics_of
from ..lock_files import header_of, in_use, location_of
from .stores import clear_away

#: The least that all of them take.
_TINY = {"channel_memory": 4 * SMALLEST, "group_memory": 2 * SMALLEST}


def try_engine(name: str, options: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Report whether an engine works here, and has room; if not, why, and what to do about it."""
    prefix = f"doctor-{secrets.token_hex(6)}"
    directory = options.get("directory")
    new = isinstance(directory, (str, os.PathLike)) and not os.path.lexists(directory)
    try:
        result = {"lock": None} | attempt(lambda: _send(name, prefix, options))
        if result["works"]:
            result |= json.loads(result["detail"])
            large = attempt(lambda: _open_large(name, prefix, options, sizes))
            if not large["works"]:
                result |= large
    finally:
        factory = importable_engine(name)
        if factory is not None:
            # Does nothing after an attempt that went well.
            attempt(lambda: clear_away(factory, prefix, options))
        if new:
            with contextlib.suppress(OSError):
                os.rmdir(str(directory))
    return {"name": name} | result


def _send(name: str, prefix: str, options: Mapping[str, Any]) -> str:
    def open_it() -> Engine:
        return open_engine(name, prefix, engine_options=options, **_TINY)

    def push(engine: Engine) -> None:
        refused = engine.push([Record(b"doctor", b"hello", engine.clock() + 10**11, 10)])
        if refused:
            raise Failed(refused[0].detail)

    def send(test: Other) -> None:
        mine = open_it()
        test.tell("open")
        test.expect("go")
        push(mine)
        mine.close()
        test.tell("sent")

    try:
        unavailable = getattr(find(name), "unavailable", None)
        reason = unavailable() if unavailable is not None else None
        if reason is not None:
            # Without the list of the others, which the report has anyway.
            raise Failed(reason)
        engine = open_it()
    except Exception as error:
        # Its own errors say what to do.
        raise Failed(str(error)) from error
    try:
        if not engine.capabilities.crosses_processes:
            push(engine)
            _check(engine.pop(b"doctor"))
            return json.dumps(
                {"detail": "a message arrived within one process: it does not reach others"}
            )
        with Other(send) as sender:
            sender.expect("open")
            bell = engine.bell()
            engine.pop(b"doctor", 1, bell)
            start = time.monotonic()
            sender.tell("go")
            if engine.capabilities.wakes:
                if not select.select([bell.fileno()], [], [], PATIENCE / 2)[0]:
                    raise Failed("a message was sent, but its receiver was not woken")
                _check(engine.pop(b"doctor"))
            else:
                while not (popped := engine.pop(b"doctor")):
                    if time.monotonic() > start + PATIENCE / 2:
                        raise Failed("a message was sent, but did not arrive")
                    time.sleep(0.001)
                _check(popped)
            took = time.monotonic() - start
            sender.expect("sent")
        bell.close()
        lock = _lock_of(engine)
        said = f"a message went from one process to another in {took * 1000:.1f} ms"
        return json.dumps({"detail": f"{said}{_locked_by(lock)}", "lock": lock})
    finally:
        engine.destroy()


def _lock_of(engine: Engine) -> str | None:
    """Return which kind of lock a store has, in words; None for an engine without a store."""
    store = engine.session.store if isinstance(engine, SharedMemoryEngine) else None
    return NAMES[store.lock_file.kind] if store else None


def _locked_by(lock: str | None) -> str:
    return f", locked by {lock}" if lock else ""


def _open_large(
    name: str, prefix: str, options: Mapping[str, Any], sizes: Mapping[str, int]
) -> None:
    """Open a store of the full sizes, which sysv alone reserves whole."""
    try:
        open_engine(
            name,
            prefix,
            channel_memory=sizes["channel_memory"],
            group_memory=sizes["group_memory"],
            engine_options=options,
        ).destroy()
    except Exception as error:
        raise Failed(str(error)) from error


def _check(popped: list[Any]) -> None:
    if [each.payload for each in popped] != [b"hello"]:
        raise Failed(f"the message that arrived is not the one sent: {popped!r}")


def look_at_store(name: str, prefix: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Report whether this user can use the store of a prefix, if there is one, and what it holds.

    Joins and leaves it as any process does, and changes nothing else: it never makes, replaces
    or removes a store.
    """
    result: dict[str, Any] = {
        "prefix": prefix,
        "directory": None,
        "statistics": None,
        "lock": None,
        "relay": None,
    }
    factory = importable_engine(name)
    if factory is None:
        return result | {
            "works": None,
            "detail": "not inspected: the engine does not use shared memory, or does not work here",
            "advice": "",
        }
    with contextlib.suppress(Exception):
        result["directory"] = location_of(factory, prefix, options).directory

    def look() -> str:
        try:
            header = header_of(location_of(factory, prefix, options))
            if header is None:
                return "there is none; the first process to use it will create it"
            if header.engine != factory.name:
                raise Failed(
                    f"it was made by engine {header.engine!r}",
                    "choose that engine, or another prefix or directory",
                )
            if header.version != VERSION:
                what = f"it is from another version: format {header.version}, not {VERSION}"
                if in_use(location_of(factory, prefix, options), header):
                    raise Failed(
                        f"{what}; processes of that version still use it",
                        "end them, or choose another prefix",
                    )
                return f"{what}; no process uses it, and the next one will replace it"
            if header.ready != READY:
                return "it is unfinished; the next process to use it will replace it"
            if header.boot_id != boot_identity():
                what = "it is from another boot, machine or container"
                if in_use(location_of(factory, prefix, options), header):
                    raise Failed(
                        f"{what}; processes still use it",
                        "let all its processes see one boot id, or set another directory",
                    )
                return f"{what}; no process uses it, and the next one will replace it"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that its sizes are others than these
                engine: Any = factory.of_existing(prefix, **_TINY, **options)
        except (StoreUnavailable, OSError) as error:
            raise Failed(str(error)) from error
        try:
            counts = statistics_of(SyncIPCChannelLayer(prefix, engine=engine))
            lock = _lock_of(engine)
            relay = of_relay(engine)
        finally:
            engine.close()
        detail = f"it can be used{_locked_by(lock)}"
        about = None
        if relay is not None:
            about = {"state": relay.state, "shown": str(relay), "problems": list(relay.problems)}
        return json.dumps({"detail": detail, "lock": lock, "statistics": counts, "relay": about})

    result |= attempt(
        look,
        "a stopped process (state T in ps) probably holds the store's lock: continue it (kill "
        "-CONT) or end it",
    )
    if result["works"] and result["detail"].startswith("{"):
        result |= json.loads(result["detail"])
    return result
