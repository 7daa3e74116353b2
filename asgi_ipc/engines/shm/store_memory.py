"""What belongs to a store: told by its id, and by nothing that another user could have written.

Names of memory follow from the store's id (`Segment.locator_for`). Before memory is used or
removed, its owner, its number of names and the id at its beginning are compared with the lock
file's. What is not the store's is left as it is, and said.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from asgi_ipc.exceptions import StoreUnavailable

from .directory import StoreDirectory
from .heap import layout
from .heap.layout import CHANNELS, GROUPS, MAGIC, WORD, Geometry
from .location import (
    Location,
    check_owner,
    folder_mark,
    folder_said,
    public_token,
)
from .segment import Segment

#: What the two kinds of segment are called, in messages and in locators.
NAMES = {CHANNELS: "channels", GROUPS: "groups"}
#: Bytes at the beginning of a segment that mean the same in all versions.
HEAD = 64 * WORD
_ID = slice(layout.W_STORE_ID * WORD, layout.W_STORE_ID * WORD + 16)
_FOLDER = slice(layout.W_FOLDER * WORD, (layout.W_FOLDER + layout.FOLDER_WORDS) * WORD)
_MAGIC = slice(layout.W_MAGIC * WORD, layout.W_MAGIC * WORD + len(MAGIC))


class Foreign(StoreUnavailable):
    """Memory under a locator of the store is not the store's."""


def locators(segment: type[Segment], store_id: bytes) -> dict[int, str]:
    """Return the locators of both segments of a store."""
    token = public_token(store_id, "memory")
    return {kind: segment.locator_for(name, token) for kind, name in NAMES.items()}


def attach_own(
    segment: type[Segment], directory: StoreDirectory, locator: str, store_id: bytes
) -> Segment:
    """Attach to memory of a store, or of one that its maker did not complete.

    Raises FileNotFoundError if it is gone, `Foreign` if it is not the store's, OSError.
    """
    memory = segment.attach(directory, locator)
    try:
        check_own(memory, directory.location, locator, store_id)
    except BaseException:
        memory.close()
        raise
    return memory


def check_own(memory: Segment, location: Location, locator: str, store_id: bytes) -> None:
    """Refuse memory that is not the store's. Raises `Foreign`, `StoreUnavailable`."""
    owner = memory.owner()
    check_owner(locator, owner, location)
    if owner.links > 1:
        raise Foreign(
            f"{locator!r} is one of {owner.links} names of one file (hard links), and was left "
            "as it is; remove it and the lock file, or choose another prefix"
        )
    if location.gid is not None and owner.mode & 0o060 != 0o060:
        raise Foreign(
            f"{locator!r} is not open to group {location.gid} (mode {owner.mode:o}), so it is not "
            "the memory of the group's store, and was left as it is; remove the lock file, or "
            "choose another prefix"
        )
    head = memory.head(HEAD)
    if head[_ID] == store_id:
        return
    # Blank memory was made for this store and never completed, or is another program's. A whole
    # token in the locator tells, and so does a lock file that no other user can have written.
    proved = location.gid is None or public_token(store_id, "memory") in locator
    if proved and _is_blank(head, store_id):
        return
    if head[_MAGIC] != MAGIC:
        raise Foreign(
            f"{locator!r} is not the memory of a store: it has no mark; it was left as it is. "
            "Remove it and the lock file, or choose another prefix"
        )
    raise Foreign(
        f"{locator!r} belongs to store {head[_ID].hex()}, the lock file to "
        f"{store_id.hex()}, and was left as it is; remove both, or choose another prefix"
    )


class Damaged(StoreUnavailable):
    """The header of a store's memory is not as it was written when the store was made."""


def check_layout(kind: int, memory: Segment, locator: str, removal: Callable[[], str]) -> None:
    """Refuse memory of the store that this process can't read as it is laid out.

    ``removal`` returns the command that removes the store. Raises `Damaged` where only damage can
    be the reason, as the lock file is of this format, and `StoreUnavailable` otherwise.
    """
    view = memory.view
    remedy = f"it is damaged; to start afresh, remove the store with this command: {removal()}"
    if view.nbytes < Geometry.of(kind, 0).first_extent * WORD:
        raise Damaged(f"{locator!r} has {view.nbytes} bytes, too few for a store: {remedy}")
    head = memory.head(HEAD)
    if head[_MAGIC] != MAGIC:
        raise Damaged(f"the header of {locator!r} has no mark: {remedy}")
    words = memoryview(head).cast("Q")
    foreign = {
        layout.W_BYTE_ORDER: ("byte order mark", layout.BYTE_ORDER),
        layout.W_VERSION: ("format", layout.VERSION),
    }
    expected = foreign | {
        layout.W_KIND: ("kind", kind),
        layout.W_SIZE: ("size", view.nbytes),
        layout.W_EXTENT_WORDS: ("extent size", Geometry.of(kind, view.nbytes).extent_words),
        layout.W_BUCKETS: ("hash table size", Geometry.of(kind, view.nbytes).buckets),
    }
    for word, (what, value) in expected.items():
        if words[word] != value and word not in foreign:
            raise Damaged(
                f"the header of {locator!r} has {what} {words[word]:#x} where this store has "
                f"{value:#x}: {remedy}"
            )
        if words[word] != value:
            raise StoreUnavailable(
                f"{locator!r} has {what} {words[word]:#x}, this asgi_ipc on a "
                f"{sys.byteorder}-endian machine expects {value:#x}; end the other "
                "processes and remove the store, or choose another prefix"
            )


def _is_blank(head: bytes, store_id: bytes) -> bool:
    """Whether nothing but a part of the id was ever written."""
    rest = head[: _ID.start] + head[_ID.stop :]
    halves = zip(_halves(head[_ID]), _halves(store_id), strict=True)
    return not any(rest) and all(not any(half) or half == own for half, own in halves)


def _halves(two_words: bytes) -> tuple[bytes, bytes]:
    return two_words[:WORD], two_words[WORD:]


def remove_memory(segment: type[Segment], directory: StoreDirectory, store_id: bytes) -> list[str]:
    """Remove both segments of a store; return in words what is not its own and was left.

    Removes all or, if this user may not, nothing: raises PermissionError. Raises OSError.
    """
    left, found = [], []
    try:
        for locator in locators(segment, store_id).values():
            with contextlib.suppress(FileNotFoundError):
                try:
                    found.append(attach_own(segment, directory, locator, store_id))
                except StoreUnavailable as foreign:
                    left.append(str(foreign))
        for memory in found:
            if not memory.may_unlink():
                raise PermissionError(
                    1, f"it belongs to user {memory.owner().uid}, who alone may remove it"
                )
        for memory in found:
            memory.unlink()
    finally:
        for memory in found:
            memory.close()
    return left


def store_id_in(head: bytes) -> bytes | None:
    """Return the id of the store to which memory belongs; None if it is no store's."""
    return head[_ID] if head[_MAGIC] == MAGIC and len(head) == HEAD else None


def folder_in(head: bytes) -> str | None:
    """Return the path of the store's directory that memory names, if it was short enough."""
    return folder_said(head[_FOLDER])


def is_folder_in(head: bytes, path: str) -> bool:
    """Whether memory names that directory."""
    return head[_FOLDER] == folder_mark(path)


def mark(view: memoryview, store_id: bytes, path: str) -> None:
    """Write into new memory to which store it belongs, before anything else."""
    view[_ID] = store_id
    view[_FOLDER] = folder_mark(path)
