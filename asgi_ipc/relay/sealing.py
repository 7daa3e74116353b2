"""Encrypt and authenticate frames with keys that rotate: AES-256-GCM.

A sealed frame is: key id (4 bytes), salt (16), number (8), ciphertext and tag (payload + 16). Each
sealer draws a salt at random, derives a key of its own from the user's key and that salt, and
numbers its frames. So no key meets one number twice, whatever the number of machines and frames,
for which random nonces would be too short. The caller gives associated data, which is authenticated
and not sent: a frame opens only where, and as what, it was sealed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..exceptions import OptionError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_ID, _SALT, _NUMBER, _TAG = 4, 16, 8, 16
#: Bytes that sealing adds to a frame.
OVERHEAD = _ID + _SALT + _NUMBER + _TAG
#: Derived keys that are kept: of all relays that were heard of late.
_KEPT = 1024
_MAKE_ONE = """make one with: python -c "import secrets; print(secrets.token_hex(32))\""""


class SealBroken(ValueError):
    """A frame can't be opened: made with another key or other associated data, or changed.

    ``reason`` is ``"form"``, ``"unknown key"`` or ``"forged"``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"a frame can't be opened: {reason}")
        self.reason = reason


class Sealer:
    """Seals with the first of the user's keys, and opens what any of them has sealed.

    To rotate, append the new key on all machines, then move it to the front on all machines, then
    remove the old one. Any thread may call any method.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        """Check the keys: each 32 bytes, or 64 hexadecimal digits. Raises `OptionError`."""
        found = _checked(keys)
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise OptionError(
                "relay_options['keys'] needs the package cryptography; install it: pip install"
                " 'asgi_ipc[relay-keys]>=2'"
            ) from error
        self._cipher = AESGCM
        self._keys = {_key_id(key): key for key in found}
        self._first = found[0]
        self._derived: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._begin()

    def __repr__(self) -> str:
        return f"<Sealer with {len(self._keys)} keys>"

    @property
    def ids(self) -> tuple[bytes, ...]:
        """Return names of the keys, which reveal nothing of them; the first key seals."""
        return tuple(self._keys)

    def _begin(self) -> None:
        """Draw a salt. A forked child draws its own, or both would use the same numbers."""
        salt = os.urandom(_SALT)
        self._head = _key_id(self._first) + salt
        self._own = self._cipher(_derived_key(self._first, salt))
        self._numbers = itertools.count()
        self._process = os.getpid()

    def seal(self, payload: bytes, associated: bytes) -> bytes:
        """Return the payload encrypted, to be opened with the same associated data."""
        if os.getpid() != self._process:
            self._begin()
        number = next(self._numbers).to_bytes(_NUMBER, "big")
        sealed = self._own.encrypt(_nonce(number), payload, self._head + associated)
        return self._head + number + sealed

    @staticmethod
    def number(frame: bytes) -> int:
        """Return a sealed frame's number, which is authentic if the frame can be opened.

        It rises from frame to frame of one sealer in one process.
        """
        return int.from_bytes(frame[_ID + _SALT : _ID + _SALT + _NUMBER], "big")

    def open(self, frame: bytes, associated: bytes) -> bytes:
        """Return the payload. Raises `SealBroken` for any other bytes."""
        from cryptography.exceptions import InvalidTag

        if len(frame) < OVERHEAD:
            raise SealBroken("form")
        head = bytes(frame[: _ID + _SALT])
        cipher = self._derived.get(head)
        if cipher is None:
            if head[:_ID] not in self._keys:
                raise SealBroken("unknown key")
            # The key is in no variable: services that collect errors show them.
            cipher = self._cipher(_derived_key(self._keys[head[:_ID]], head[_ID:]))
        number = frame[len(head) : len(head) + _NUMBER]
        try:
            payload = cipher.decrypt(
                _nonce(number), bytes(frame[len(head) + _NUMBER :]), head + associated
            )
        except InvalidTag:
            raise SealBroken("forged") from None
        # Kept only now: forged salts must not push out those of other relays.
        if head not in self._derived:
            self._derived[head] = cipher
            while len(self._derived) > _KEPT:
                self._derived.popitem(last=False)
        return payload


def _checked(keys: Any) -> list[bytes]:
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Sequence) or not keys:
        raise OptionError(
            "relay_options['keys'] must be a list of keys, the first of which seals; " + _MAKE_ONE
        )
    found, problems = [], []
    for at, key in enumerate(keys):
        if isinstance(key, str) and re.fullmatch(r"[0-9a-fA-F]{64}", key):
            key = bytes.fromhex(key)
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            problems.append(f"key {at} is not 64 hexadecimal digits or {KEY_BYTES} bytes")
        elif len(set(key)) < 8:
            problems.append(f"key {at} has hardly any different bytes, so it can be guessed")
        else:
            found.append(key)
    if problems:
        raise OptionError(f"relay_options['keys']: {'; '.join(problems)}; {_MAKE_ONE}")
    return found


def _key_id(key: bytes) -> bytes:
    """Return a name of a key, which reveals nothing of the key."""
    return hashlib.sha256(b"asgi_ipc relay key id" + key).digest()[:_ID]


def _derived_key(key: bytes, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), KEY_BYTES, salt, b"asgi_ipc relay frame").derive(key)


def _nonce(number: bytes) -> bytes:
    return b"\0" * 4 + number
