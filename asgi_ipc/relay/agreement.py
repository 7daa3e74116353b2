"""Agreement on a relay's options: what each process of a site uses, and how a relay differs.

A relay whose options are not those of the site would do harm: without the site's keys it would
publish what is to be sealed, and with another server it would cut its machine off. So each process
whose layer has ``relay`` leaves what it uses in the table `SETTINGS`, for as long as it lives: the
server without credentials, the ids of its keys (which frames have, too), the patterns of shared
channels and the backlog. A dedicated relay refuses to begin if no process agrees with it, and no
relay that has no keys goes on beside a process that has some.

A flush, or a full store, may take these members away. What a process with keys leaves on the way
out says itself that it must be sealed (`way_out.header`), and no relay without keys passes it on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgpack

from ..engines.base import IDENTITY_BYTES, Engine, Members
from ..exceptions import OptionError
from ..policy.expiry import LONGEST
from .way_out import SETTINGS

#: Format of a member.
_VERSION = 1
#: Bytes of a text that are told to people, of a digest that is compared, and keys that are told: a
#: member is short.
_SHOWN, _DIGEST, _KEYS = 64, 8, 8
#: Seconds for which a dedicated relay goes on that agrees with no process: a program that runs for
#: a moment does not end it.
PATIENCE = 5.0
_FOREVER = LONGEST * 1_000_000_000
REMEDY = (
    "give the relay the site's options: 'manage.py asgi_ipc relay' takes them from the settings,"
    " and docs/relays.md says how to name them without showing keys to other users"
)
UNSEALED = (
    "this relay has no keys, and a process of the site has left messages that must be sealed; they"
    f" stay in the store; {REMEDY}"
)


class Differs(OptionError):
    """A relay's options are not those of the site's processes."""


class Used(NamedTuple):
    """What a process, or a relay, uses."""

    #: The server, without credentials.
    url: str
    #: Ids of the keys; the first seals.
    keys: tuple[bytes, ...] = ()
    #: Patterns of shared channels, sorted.
    channels: tuple[str, ...] = ()
    #: Bytes, if they were given.
    backlog: int | None = None

    def packed(self) -> bytes:
        """Return it as it lies in the store; texts and keys that are too many are cut."""
        names = "\n".join(self.channels)
        packed: bytes = msgpack.packb(
            [
                _VERSION,
                _cut(self.url),
                _digest(self.url),
                list(self.keys[:_KEYS]),
                _cut(names.replace("\n", ", ")),
                _digest(names),
                self.backlog,
            ],
            use_bin_type=True,
        )
        return packed


class Noted(NamedTuple):
    """What another process uses, as it was read."""

    url: str
    url_digest: bytes
    keys: tuple[bytes, ...]
    channels: str
    channels_digest: bytes
    backlog: int | None


def unpacked(packed: bytes) -> Noted | None:
    """Return what `Used.packed` has packed; None for other bytes, such as another version's."""
    try:
        version, *fields = msgpack.unpackb(packed, raw=False)
        found = Noted(*fields)
    except Exception:  # Whatever it is, it is nothing of this version.
        return None
    texts, digests = (found.url, found.channels), (found.url_digest, found.channels_digest)
    right = (
        version == _VERSION
        and all(isinstance(each, str) for each in texts)
        and all(isinstance(each, bytes) for each in digests)
        and isinstance(found.keys, list)
        and all(isinstance(each, bytes) for each in found.keys)
        and (found.backlog is None or isinstance(found.backlog, int))
    )
    if not right:
        return None
    # Told in logs, where a text of another process must not look like a line of its own.
    url, channels = ("".join(c if c.isprintable() else "?" for c in text) for text in texts)
    return found._replace(url=url, channels=channels, keys=tuple(found.keys))


def of_report(content: Mapping[str, Any]) -> Noted | None:
    """Return what the relay that wrote a report uses; None if it does not say."""
    used = content.get("used")
    return unpacked(used) if isinstance(used, bytes) else None


def differences(one: Noted, other: Noted) -> list[str]:
    """Return how two differ, in words: what the first has, then what the second has.

    Keys agree if one of the two can open what the other seals, as while keys are rotated.
    """
    found = []
    if one.url_digest != other.url_digest:
        found.append(f"relay: {one.url} and {other.url}")
    if bool(one.keys) != bool(other.keys):
        found.append(f"relay_options['keys']: {_keys(one)} and {_keys(other)}")
    elif one.keys and one.keys[0] not in other.keys and other.keys[0] not in one.keys:
        found.append("relay_options['keys']: none in common")
    if one.channels_digest != other.channels_digest:
        found.append(f"relay_channels: {one.channels or 'none'} and {other.channels or 'none'}")
    if one.backlog != other.backlog:
        found.append(f"relay_options['backlog']: {_backlog(one)} and {_backlog(other)}")
    return found


def note(engine: Engine, used: Used) -> None:
    """Note what this process uses in the store, for as long as it lives. Raises `StoreFull`."""
    identity = engine.identity
    engine.put(SETTINGS, identity + used.packed(), engine.clock() + _FOREVER, identity)


def noted_by_others(engine: Engine, members: Members | None = None) -> list[Noted]:
    """Return what the other living processes use, equal ones once."""
    names = (members or engine.members(SETTINGS)).names
    # In this order: a process opens the store before it tells what it uses.
    living = {each.identity for each in engine.processes()} - {engine.identity}
    found = [unpacked(name[IDENTITY_BYTES:]) for name in names if name[:IDENTITY_BYTES] in living]
    return list(dict.fromkeys(each for each in found if each is not None))


def as_noted(used: Used) -> Noted:
    """Return what other processes read once this one has noted it."""
    found = unpacked(used.packed())
    if found is None:
        raise TypeError(f"{used!r} is not what a process may use")
    return found


def would_leak(used: Used, others: Sequence[Noted]) -> bool:
    """Return whether a relay would publish in the clear what a process wants sealed."""
    return not used.keys and any(each.keys for each in others)


def refuse_if_differs(engine: Engine, used: Used) -> None:
    """Raise `Differs` if a dedicated relay does not use what a process of the site uses."""
    mine, others = as_noted(used), noted_by_others(engine)
    found = [differences(mine, each) for each in others]
    # While a site is restarted with other options, some processes have the old ones.
    if found and (all(found) or would_leak(used, others)):
        what = max(found, key=len) if would_leak(used, others) else min(found, key=len)
        raise _differs(what)


def _differs(what: Sequence[str]) -> Differs:
    return Differs(
        "this relay's options and those of the site's processes differ: "
        f"{'; '.join(what)}; {REMEDY}"
    )


class Agreement:
    """Compares the options of the living processes with those of this relay."""

    def __init__(self, engine: Engine, used: Used, dedicated: bool = False) -> None:
        self._engine, self._used, self._mine = engine, used, as_noted(used)
        self._dedicated = dedicated
        self._members: Members | None = None
        #: Since when no process has agreed, by `time.monotonic`; None if one does.
        self._alone: float | None = None
        self.differences: list[str] = []

    def new_differences(self) -> list[str]:
        """Compare again, and return the differences that were not there before.

        Raises `Differs` rather than leak, and in a dedicated relay with which no process has agreed
        for `PATIENCE` seconds: it may have begun before the site.
        """
        members = self._engine.members(SETTINGS, self._members)
        if members is self._members and not self.differences:
            return []
        self._members = members
        others = noted_by_others(self._engine, members)
        if would_leak(self._used, others):
            raise Differs(
                "this relay has no keys, and a process of the site has: it would publish in the"
                f" clear what is to be sealed; {REMEDY}"
            )
        before = self.differences
        found = [differences(self._mine, each) for each in others]
        self.differences = list(dict.fromkeys(what for each in found for what in each))
        if not found or not all(found):
            self._alone = None
        elif self._alone is None:
            self._alone = time.monotonic()
        elif self._dedicated and time.monotonic() - self._alone >= PATIENCE:
            raise _differs(min(found, key=len))
        return [each for each in self.differences if each not in before]


def _keys(noted: Noted) -> str:
    number = len(noted.keys)
    return f"{number or 'no'} key{'' if number == 1 else 's'}"


def _backlog(noted: Noted) -> str:
    return f"{noted.backlog:,}" if noted.backlog is not None else "the default"


def _cut(text: str) -> str:
    return text.encode()[:_SHOWN].decode("utf-8", "ignore")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:_DIGEST]


__all__ = [
    "REMEDY",
    "UNSEALED",
    "Agreement",
    "Differs",
    "Noted",
    "Used",
    "as_noted",
    "differences",
    "note",
    "noted_by_others",
    "of_report",
    "refuse_if_differs",
    "unpacked",
    "would_leak",
]
